"""Resizing in closed form, the paper's costs and gains, and the table's columns and pictures' lines."""

import csv
import io
from typing import Any

import pytest
import torch

from lightning_modules.analysis.published_resolutions import published_resolutions
from lightning_modules.analysis.resolution_plot import draw_resolutions
from lightning_modules.analysis.resolution_sweep import (
    MeasuredResolutions,
    ResolutionPoint,
    cost_in,
    costs_of,
    gains,
    treat,
)
from lightning_modules.analysis.resolution_table import COLUMNS, table_of, write_table
from lightning_modules.analysis.throughput import Throughput
from lightning_modules.networks import resnet50


def timed(speed: float) -> Throughput:
    return Throughput(speed, speed, speed, 8, 1, (16, 3, 8, 8), "float32", "a GPU", "some versions", 3, 10)


def paper_points() -> list[ResolutionPoint]:
    """ResKD's Table 4 as if it were measured here."""
    return [
        ResolutionPoint(
            "ours", p.size or 0, p.size or 0, p.score, 0.9e9 * p.gflops, 1e9 * p.gflops, timed(p.videos_per_second or 0)
        )
        for p in published_resolutions("ActivityNet", "mAP")
        if p.method == "ResKD"
    ]


def sweep(points: list[ResolutionPoint], **changes: Any) -> MeasuredResolutions:
    return MeasuredResolutions(**{"metric": "mAP", "data_set": "FCVID", "num_videos": 7, "points": points} | changes)


def test_native_and_upsampled_in_closed_form() -> None:
    ramp = torch.arange(8, dtype=torch.float64).expand(2, 3, 1, 4, 8)
    small = treat(ramp, 2, "native")
    # Without antialiasing a pixel of half the size is the mean of two.
    torch.testing.assert_close(small, torch.tensor([0.5, 2.5, 4.5, 6.5]).double().expand(2, 3, 1, 2, 4))
    again = treat(ramp, 2, "upsampled")
    torch.testing.assert_close(again[0, 0, 0, 0], torch.tensor([0.5, 1, 2, 3, 4, 5, 6, 6.5]).double())
    assert again.shape == ramp.shape
    for treatment in ("native", "upsampled"):
        assert torch.equal(treat(ramp, 4, treatment), ramp)
    assert treat(torch.zeros(1, 1, 3, 90, 160), 56, "native").shape == (1, 1, 3, 56, 100)


@pytest.mark.parametrize(
    ("size", "strides", "multiply_adds", "paper"),
    [(112, (1, 2, 2, 2), 17.22, 17.35), (56, (1, 2, 2, 2), 4.76, 4.79), (56, (1, 1, 2, 2), None, 14.6)],
)
def test_costs_of_the_paper(size: int, strides: tuple[int, ...], multiply_adds: float | None, paper: float) -> None:
    with torch.device("meta"):
        network = resnet50(200, strides=strides)
    costs = costs_of(network, (16, 3, size, size))
    digits = 1 if multiply_adds is None else 2
    assert round(costs["paper"] / 1e9, digits) == paper
    if multiply_adds is not None:
        assert round(costs["multiply_adds"] / 1e9, 2) == multiply_adds
        assert costs_of(network, (16, 3, size, size), num_views=3)["paper"] == 3 * costs["paper"]


def test_gains_of_the_paper() -> None:
    found = gains(paper_points())
    assert (round(found[0].cost, 1), round(found[0].throughput or 0, 1)) == (13.7, 8.0)
    assert (found[-1].cost, found[-1].throughput) == (1, 1)
    assert gains([ResolutionPoint("a", 8, 8, 0.5, 4.0, 2.0)], "multiply_adds")[0].throughput is None
    with pytest.raises(ValueError, match="with_attention"):
        cost_in(paper_points()[0], "with_attention")


def test_records() -> None:
    measured = sweep([*paper_points(), ResolutionPoint("a", 8, 8, 0.5, 4.0, 2.0)])
    assert MeasuredResolutions.from_record(measured.to_record()) == measured
    assert not measured.is_timed
    assert [point.size for point in measured.by_series["ours"]] == [56, 72, 96, 112, 144, 224]


def test_columns_of_ones_choice() -> None:
    file = io.StringIO()
    write_table(file, sweep(paper_points()[:2], data_set="MiniKinetics", metric="top1"))
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert tuple(rows[0]) == COLUMNS
    assert [row["size"] for row in rows] == ["56", "72", "", "112"]
    assert float(rows[0]["cost_gain"]) == pytest.approx(8.3 / 4.8)
    assert "8 videos at a time" in rows[0]["conditions"]
    assert rows[2]["series"].startswith("FrameExit, ResNet-50 (Ghodrati")
    assert float(rows[3]["paper"]) == 8.7e9

    file = io.StringIO()
    write_table(file, sweep(paper_points()[:2], data_set="Mine"), ["score", "size"])
    assert file.getvalue().splitlines() == ["score,size", "0.705,56", "0.734,72"]
    with pytest.raises(ValueError, match=r"`columns` of \['run', .*came \['flops'\]"):
        table_of(sweep(paper_points()), ["flops"])
    headings = [str(column.header) for column in table_of(sweep(paper_points())).columns]
    assert "run" not in headings
    assert "mAP %" in headings
    assert next(iter(table_of(sweep(paper_points())).columns[3].cells)) == "70.50"


def lines_of(axis: Any) -> dict[str, list[tuple[float, float]]]:
    lines = [line for line in axis.get_lines() if not line.get_label().startswith("_")]
    return {line.get_label(): [tuple(point) for point in line.get_xydata()] for line in lines}


def test_pictures_of_timed_sweeps_with_what_is_published() -> None:
    figure = draw_resolutions(sweep(paper_points()), published_resolutions("ActivityNet", "mAP"))
    figure.savefig("/dev/null", format="png")
    sizes, costs, speeds = figure.axes
    assert lines_of(sizes)["ours"][0] == (56, pytest.approx(70.5))
    assert lines_of(costs)["ours"][3] == pytest.approx((17.4, 80.0))
    assert lines_of(costs)["published: OCSampler, ResNet-50"] == [pytest.approx((21.7, 76.9))]
    assert "published: OCSampler, ResNet-50" not in lines_of(sizes)
    gains = speeds.get_lines()[0].get_xydata()
    assert tuple(gains[0]) == pytest.approx((65.9 / 4.8, 631.5 / 78.7))
    assert "a GPU" in figure.get_supxlabel()
    assert "V100" in figure.get_supxlabel()


def test_pictures_average_runs_and_say_where_costs_differ() -> None:
    points = [ResolutionPoint("a", 8, 8, score, 4e6, 5e6) for score in (0.5, 0.7)]
    points += [ResolutionPoint("b", 8, 8, 0.9, 8e6, 9e6)]
    figure = draw_resolutions(sweep(points), convention="multiply_adds")
    assert len(figure.axes) == 2
    assert lines_of(figure.axes[1]) == {"a": [pytest.approx((4, 60))], "b": [pytest.approx((8, 90))]}
    assert figure.axes[1].get_xlabel() == "M multiply-adds per video"
    assert "lines differ in cost" in figure.get_supxlabel()
    assert "differ in cost" not in draw_resolutions(sweep(points[:2])).get_supxlabel()
