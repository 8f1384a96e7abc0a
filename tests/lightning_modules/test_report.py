"""The report says what the run directories say, and stands alone."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lightning_modules.analysis.flatness import MeasuredFlatness
from lightning_modules.analysis.hessian import HessianTrace, TopEigenvalue
from lightning_modules.analysis.loss_slices import LossLines, LossPlane
from lightning_modules.report import load_run, wilson_interval, write_report

CLIP = Path(__file__).parents[1] / "datamodules" / "bitstream" / "golden" / "scroll_160x112_gop12.mp4"


def make_run(folder: Path, top1: float, *, predictions: bool = False) -> None:
    folder.mkdir(parents=True)
    test = {
        "metrics": {"test/top1": top1, "test/top5": 1.0},
        "num_videos": 100,
        "seconds_per_video": 0.01,
        "read_seconds_per_video": 0.004,
        "classes": ["a<b", "c", "d"],
        "confusion": [[30, 3, 0], [0, 33, 0], [17, 0, 17]],
    }
    (folder / "test.json").write_text(json.dumps(test))
    (folder / "fit.json").write_text(json.dumps({"seconds": 12.3, "epochs": 2, "best_score": 0.5}))
    (folder / "metrics.csv").write_text("epoch,step,train/loss,val/top1\n0,9,2.0,\n0,9,,0.4\n1,19,1.5,\n1,19,,0.5\n")
    if predictions:
        top = [{"class": "a<b", "probability": 0.7}, {"class": "c", "probability": 0.3}]
        lines = [{"path": "x/1.mp4", "top": top, "seconds": 0.002}, {"path": "x/2.mp4", "error": "torn"}]
        (folder / "predictions.jsonl").write_text("\n".join(map(json.dumps, lines)))


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[list[str]] = []
        self.sources: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        self.sources += [value for key, value in attributes if key in ("src", "href")]

        self.inside = tag in ("td", "th") or (tag == "span" and self.inside)

    def handle_endtag(self, tag):
        self.inside = self.inside and tag == "span"

    def handle_data(self, data):
        if self.inside:
            self.cells[-1][-1] += data


def test_report_says_what_the_runs_say(tmp_path, capsys):
    make_run(tmp_path / "mv", 0.4)
    make_run(tmp_path / "fusion", 0.8, predictions=True)
    (tmp_path / "unfinished").mkdir()
    write_report(str(tmp_path), [str(CLIP), str(tmp_path / "missing.mp4")])
    printed = Path(capsys.readouterr().out.strip())
    assert printed == tmp_path / "report.html"
    text = printed.read_text()
    page = Page(text)
    assert ["mv", "50.0", "40.0", "30.9 - 49.8", "100.0", "100"] in page.cells
    assert ["d", "a<b", "17"] in page.cells
    assert ["x/1.mp4", "a<b 70 %", "c 30 %", "2.0"] in page.cells
    assert ["fusion", "12", "2", "10.00", "4.00"] in page.cells
    assert "<b>fusion</b> is best: 80.0 %" in text
    assert "torn" in text
    assert "missing.mp4: there is no such file" in text
    assert "unfinished" not in text
    assert len(page.sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?://", text)


def test_flatness_is_drawn_and_told(tmp_path):
    make_run(tmp_path / "pkd", 0.4)
    curvature = HessianTrace(12.3456, 0.5, 4, 24, 200)
    found = MeasuredFlatness(
        0.25,
        curvature,
        TopEigenvalue(3.5, 0.01, 3.5, True, 9, 24, 200),
        LossLines([-1.0, 0.0, 1.0], [[0.5, 0.25, 0.6]]),
        LossPlane([-1.0, 0.0, 1.0], [[0.9, 0.5, 0.9], [0.5, 0.25, 0.6], [0.8, 0.7, 0.9]]),
        {"fc.weight": (10, 20)},
    )
    targets = {"mv/exits": found.to_record()}
    (tmp_path / "pkd" / "flatness.json").write_text(json.dumps({"note": "", "targets": targets}))
    write_report(str(tmp_path))
    page = Page((tmp_path / "report.html").read_text())
    assert ["mv/exits", "200", "0.250", "12.35 ± 0.5", "0.0617", "3.5"] in page.cells
    assert len(page.sources) == 3  # curves and confusion beside it


def test_pictures_of_callbacks_stand_in_the_page_as_they_are(tmp_path):
    make_run(tmp_path / "reskd", 0.4)
    (tmp_path / "reskd" / "attention.png").write_bytes(b"\x89PNG a picture")
    write_report(str(tmp_path))
    text = (tmp_path / "report.html").read_text()
    assert "<h2>Attention over frames</h2><h3>reskd</h3>" in text
    assert base64.b64encode(b"\x89PNG a picture").decode() in text
    assert "Effective receptive fields" not in text


def test_curves_take_the_last_value_of_each_epoch(tmp_path):
    make_run(tmp_path / "mv", 0.4)
    run = load_run(tmp_path / "mv")
    assert run.curve("train/loss") == ([1, 2], [2.0, 1.5])
    assert run.curve("val/top1") == ([1, 2], [0.4, 0.5])


def test_wilson_interval_against_published_values():
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263 and 0 of 20.
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@pytest.mark.parametrize("exists", [True, False])
def test_no_tested_run_is_an_error(tmp_path, exists):
    folder = tmp_path / "runs"
    if exists:
        (folder / "mv").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="lightning test"):
        write_report(str(folder))
