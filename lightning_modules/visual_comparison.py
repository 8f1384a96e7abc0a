"""The commands `streamkd receptive-field` and `attention`: what `VisualExplanations` has seen in runs, side by side."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from datamodules.whole_file import open_whole
from lightning_modules.analysis.attention_plot import SeenVideos, draw_attention
from lightning_modules.analysis.receptive_field import FieldArea
from lightning_modules.analysis.receptive_field_plot import MeasuredField, draw_receptive_fields
from lightning_modules.analysis.receptive_field_table import table_of
from lightning_modules.console_table import print_table
from lightning_modules.named_runs import check_named


def compare_receptive_fields(runs: Sequence[Path], output: Path, targets: Sequence[str] | None = None) -> None:
    """Draw effective receptive fields side by side, e.g. before and after distillation, and print their areas.

    Args:
        runs: run directories with a receptive_field.json and .npz.
        output: the PNG to write.
        targets: which networks of each run; None: all.

    Raises:
        ValueError: no run, networks that a run lacks, or areas above different thresholds.
        FileNotFoundError: a run without measurements.
    """
    measured: dict[str, MeasuredField] = {}
    for run, record, arrays in _read(runs, "receptive_field"):
        for name in _chosen(run, record, targets):
            measured[f"{run.name}: {name}"] = MeasuredField(arrays[name], FieldArea.from_record(record[name]))
    thresholds = {name: field.area.threshold for name, field in measured.items()}
    if len(set(thresholds.values())) > 1:
        raise ValueError(f"expected areas above one `threshold`, came {thresholds}; test again with another")
    _write(draw_receptive_fields(measured), output)
    table = table_of({name: field.area for name, field in measured.items()})
    print_table(table)
    print(f"{len(measured)} networks in {output}", flush=True)


def compare_attention(runs: Sequence[Path], output: Path, targets: Sequence[str] | None = None) -> None:
    """Draw the attention of several runs over the same videos side by side.

    Args:
        runs: run directories with an attention.json and .npz.
        output: the PNG to write.
        targets: which networks of each run; None: all.

    Raises:
        ValueError: no run, networks that a run lacks, other videos or other numbers of frames.
        FileNotFoundError: a run without measurements.
    """
    seen: dict[str, SeenVideos] = {}
    videos: dict[str, list[dict[str, str]]] = {}
    for run, record, arrays in _read(runs, "attention"):
        videos[run.name] = record["videos"]
        for name in _chosen(run, record["targets"], targets):
            seen[f"{run.name}: {name}"] = SeenVideos(arrays[f"{name}/frames"], arrays[f"{name}/attention"])
    _check_same_videos(videos, seen)
    _write(draw_attention(seen, next(iter(videos.values()))), output)
    print(f"{len(seen)} networks in {output}", flush=True)


def _read(runs: Sequence[Path], name: str) -> Iterator[tuple[Path, dict[str, Any], Mapping[str, np.ndarray]]]:
    """Each run with its record and its arrays."""
    for run in check_named(runs):
        for path in (run / f"{name}.json", run / f"{name}.npz"):
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} is missing; test the run with callbacks.visual_explanations.VisualExplanations in "
                    "trainer.callbacks"
                )
        with np.load(run / f"{name}.npz", allow_pickle=False) as arrays:
            yield run, json.loads((run / f"{name}.json").read_text(encoding="utf-8")), dict(arrays)


def _chosen(run: Path, records: Mapping[str, Any], targets: Sequence[str] | None) -> list[str]:
    names = list(records) if targets is None else list(targets)
    if not set(names) <= set(records):
        raise ValueError(f"{run} has networks {list(records)}, --targets wants {names}")
    return names


def _check_same_videos(videos: Mapping[str, Sequence[Mapping[str, str]]], seen: Mapping[str, SeenVideos]) -> None:
    paths = {run: [video["path"] for video in shown] for run, shown in videos.items()}
    if len({tuple(shown) for shown in paths.values()}) > 1:
        raise ValueError(f"--runs: expected the same videos, came {paths}")
    frames = {name: one.frames.shape[1] for name, one in seen.items()}
    if len(set(frames.values())) > 1:
        raise ValueError(f"--runs: expected the same number of frames, came {frames}; set `shown_frames`")


def _write(figure: Figure, output: Path) -> None:
    with open_whole(output, "wb") as file:
        figure.savefig(file, format="png", dpi=150)
