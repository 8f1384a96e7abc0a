"""One self-contained HTML page about finished runs: accuracy, curves, confusion, streams, predictions, timings.

Reads what runs leave in their directories (`test.json`, `fit.json`, `metrics.csv`, `predictions.jsonl`,
`trade_off.json`, `flatness.json`, pictures), never a checkpoint; what a run has not left is left out of the page.
"""

import base64
import csv
import html
import io
import json
import math
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from datamodules.bitstream import CompressedVideo, UnreadableVideoError
from datamodules.visualise import draw_streams
from datamodules.whole_file import open_whole
from lightning_modules.analysis.flatness import MeasuredFlatness
from lightning_modules.analysis.flatness_plot import draw_flatness
from lightning_modules.analysis.published_trade_off import published_points
from lightning_modules.analysis.trade_off import MeasuredTradeOff
from lightning_modules.analysis.trade_off_plot import draw_trade_off

MAX_PREDICTIONS = 24
# Pictures that callbacks leave in a run directory, and the headings they stand under.
PICTURES = {
    "resolution_sweep.png": "Resolutions",
    "receptive_field.png": "Effective receptive fields",
    "attention.png": "Attention over frames",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .92em; }
th, td { padding: .25rem .8rem; text-align: right; }
th { border-bottom: 2px solid #888; } td { border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; } tr.best td { font-weight: 600; }
img { max-width: 100%; display: block; margin: 1rem 0; } .note { color: #666; font-size: .9em; }
.wrong { color: #b00; }
"""


@dataclass
class Run:
    """What one run directory says.

    Args:
        name: the directory's name.
        test: contents of `test.json`; empty if the run was not tested.
        fit: contents of `fit.json`; empty if it is not finished.
        history: the rows of `metrics.csv`, numbers as float, empty cells left out.
        predictions: the lines of `predictions.jsonl`.
        trade_off: contents of `trade_off.json`, if there is one.
        flatness: contents of `flatness.json`, by what was measured.
        pictures: those of `PICTURES` that there are, PNG.
    """

    name: str
    test: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    trade_off: MeasuredTradeOff | None = None
    flatness: dict[str, MeasuredFlatness] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The headline metric: mAP where there is one, top-1 elsewhere."""
        return "mAP" if "test/mAP" in self.test.get("metrics", {}) else "top1"

    @property
    def score(self) -> float:
        """The headline metric on the test split, 0..1; NaN if not tested."""
        return self.test.get("metrics", {}).get(f"test/{self.metric}", math.nan)

    def curve(self, key: str) -> tuple[list[float], list[float]]:
        """Epochs (counted from 1) and last value of `key` in each."""
        values = {row["epoch"]: row[key] for row in self.history if key in row and "epoch" in row}
        return [epoch + 1 for epoch in values], list(values.values())


def write_report(runs: str, videos: Sequence[str] = (), output: str | None = None) -> None:
    """Write one self-contained HTML page about the runs in a folder, and print its path.

    Args:
        runs: folder that holds the run directories.
        videos: video files of which to draw the streams.
        output: the page; `report.html` in `runs` if not given.

    Raises:
        FileNotFoundError: no tested run in `runs`.
    """
    loaded = [run for run in map(load_run, sorted(Path(runs).iterdir()) if Path(runs).is_dir() else []) if run.test]
    if not loaded:
        raise FileNotFoundError(
            f"{runs}: expected run directories with a test.json, found none; "
            "run `lightning test --config ...` first, or point --runs at the folder that holds your runs"
        )
    page = Path(output or Path(runs, "report.html"))
    with open_whole(page) as file:
        file.write(render(sorted(loaded, key=lambda run: run.score), videos))
    print(page.resolve(), flush=True)


def load_run(folder: Path) -> Run:
    """Reads a run directory; what is missing stays empty."""
    lines = _text(folder / "predictions.jsonl").splitlines()
    trade_off = _text(folder / "trade_off.json")
    flatness = json.loads(_text(folder / "flatness.json") or '{"targets": {}}')["targets"]
    return Run(
        name=folder.name,
        test=json.loads(_text(folder / "test.json") or "{}"),
        fit=json.loads(_text(folder / "fit.json") or "{}"),
        history=[
            {key: float(value) for key, value in row.items() if value}
            for row in csv.DictReader(_text(folder / "metrics.csv").splitlines())
        ],
        predictions=[json.loads(line) for line in lines],
        trade_off=MeasuredTradeOff.from_record(json.loads(trade_off)) if trade_off else None,
        flatness={name: MeasuredFlatness.from_record(record) for name, record in flatness.items()},
        pictures={name: (folder / name).read_bytes() for name in PICTURES if (folder / name).is_file()},
    )


def render(runs: list[Run], videos: Sequence[str]) -> str:
    """The page; `runs` in ascending order of score."""
    best = runs[-1]
    sections = [
        ("Accuracy", _accuracy(runs)),
        ("Training", _image(_draw_curves(runs))),
        (f"Confusion of {best.name}", _confusion(best)),
        ("What the networks see", "".join(_streams(video) for video in videos)),
        ("Predictions", "".join(_predictions(run) for run in runs)),
        ("Accuracy against cost", "".join(_trade_off(run) for run in runs)),
        ("Flatness of the minima", "".join(_flatness(run) for run in runs)),
        *((heading, "".join(_picture(run, name) for run in runs)) for name, heading in PICTURES.items()),
        ("Time", _times(runs)),
        ("Made with", _environment()),
    ]
    body = "".join(f"<h2>{html.escape(title)}</h2>{content}" for title, content in sections if content)
    headline = (
        f"<p><b>{html.escape(best.name)}</b> is best: {100 * best.score:.1f} % {best.metric} "
        f"on {best.test['num_videos']} test videos.</p>"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>StreamKD report</title>'
        f"<style>{STYLE}</style></head><body><h1>StreamKD report</h1>{headline}{body}</body></html>"
    )


def wilson_interval(accuracy: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a proportion observed over `count` trials (Wilson, 1927)."""
    centre = accuracy + z * z / (2 * count)
    spread = z * math.sqrt(accuracy * (1 - accuracy) / count + z * z / (4 * count * count))
    return (centre - spread) / (1 + z * z / count), (centre + spread) / (1 + z * z / count)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], best: int | None = None) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = (
        f"<tr{' class=best' if number == best else ''}>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
        for number, row in enumerate(rows)
    )
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _accuracy(runs: list[Run]) -> str:
    rows = []
    for run in runs:
        low, high = wilson_interval(run.score, run.test["num_videos"])
        metrics = run.test["metrics"]
        rows.append(
            [
                html.escape(run.name),
                _percent(run.fit.get("best_score")),
                _percent(run.score),
                f"{100 * low:.1f} - {100 * high:.1f}" if run.metric == "top1" else "-",
                _percent(metrics.get("test/top5")),
                str(run.test["num_videos"]),
            ]
        )
    header = ["run", "validation %", f"test {runs[-1].metric} %", "95 % interval", "test top5 %", "test videos"]
    classes = runs[-1].test.get("classes") or []
    chance = (
        f'<p class="note">Chance is {100 / len(classes):.1f} %.</p>' if classes and runs[-1].metric == "top1" else ""
    )
    return _table(header, rows, best=len(rows) - 1) + chance


def _draw_curves(runs: list[Run]) -> Figure | None:
    trained = [run for run in runs if len(run.curve("train/loss")[0]) > 1]
    if not trained:
        return None
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    panels = {"train/loss": "training loss", f"val/{runs[-1].metric}": f"validation {runs[-1].metric}"}
    for axis, (key, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for run in trained:
            axis.plot(*run.curve(key), marker=".", label=run.name)
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
        axis.legend()
    return figure


def _confusion(run: Run) -> str:
    counts = np.array(run.test.get("confusion") or [])
    if not counts.size:
        return ""
    return _image(_draw_confusion(counts, run.test["classes"])) + _confused_pairs(counts, run.test["classes"])


def _draw_confusion(counts: np.ndarray, classes: list[str]) -> Figure:
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = 2.5 + 0.45 * len(classes)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(picture, ax=axis, label="% of the true class", shrink=0.7)
    axis.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(classes)), classes, fontsize=8)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    for (row, column), share in np.ndenumerate(shares) if len(classes) <= 20 else ():
        if share >= 1:
            shade = "white" if share > 55 else "black"
            axis.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=shade)
    return figure


def _confused_pairs(counts: np.ndarray, classes: list[str], most: int = 5) -> str:
    mistakes = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    places = [divmod(int(place), len(counts)) for place in np.argsort(-mistakes, axis=None, kind="stable")[:most]]
    rows = [
        (html.escape(classes[truth]), html.escape(classes[guess]), str(mistakes[truth, guess]))
        for truth, guess in places
        if mistakes[truth, guess]
    ]
    return _table(["true class", "taken for", "videos"], rows) if rows else ""


def _streams(video: str) -> str:
    name = html.escape("/".join(Path(video).parts[-2:]))
    try:
        with CompressedVideo(video) as opened:
            return f"<h3>{name}</h3>{_image(draw_streams(opened))}"
    except (UnreadableVideoError, ValueError) as error:
        return f'<p class="note">{html.escape(str(error))}</p>'


def _predictions(run: Run) -> str:
    if not run.predictions:
        return ""
    rows = [_prediction_row(record) for record in run.predictions[:MAX_PREDICTIONS]]
    rest = len(run.predictions) - len(rows)
    more = f'<p class="note">and {rest} more in {html.escape(run.name)}/predictions.jsonl</p>' if rest > 0 else ""
    return f"<h3>{html.escape(run.name)}</h3>{_table(['clip', 'first', 'second', 'ms'], rows)}{more}"


def _prediction_row(record: dict[str, Any]) -> list[str]:
    path = Path(record["path"])
    name = html.escape("/".join(path.parts[-2:]))
    if "error" in record:
        return [name, f"<span class=wrong>{html.escape(record['error'])}</span>", "", ""]
    guesses = [f"{html.escape(guess['class'])} {100 * guess['probability']:.0f} %" for guess in record["top"][:2]]
    guesses += [""] * (2 - len(guesses))
    return [name, *guesses, f"{1000 * record['seconds']:.1f}"]


def _trade_off(run: Run) -> str:
    if run.trade_off is None:
        return ""
    figure = draw_trade_off(run.trade_off, published_points(run.trade_off.data_set))
    return f"<h3>{html.escape(run.name)}</h3>{_image(figure)}"


def _flatness(run: Run) -> str:
    if not run.flatness:
        return ""
    header = ["network", "parameters", "loss", "Hessian trace", "by parameter", "top eigenvalue"]
    rows = [
        (
            html.escape(name),
            str(found.trace.num_parameters),
            f"{found.loss:.3f}",
            f"{found.trace.value:.4g} ± {found.trace.standard_error:.2g}",
            f"{found.trace.normalised:.3g}",
            f"{found.top_eigenvalue.value:.4g}",
        )
        for name, found in run.flatness.items()
    ]
    return f"<h3>{html.escape(run.name)}</h3>{_image(draw_flatness(run.flatness))}{_table(header, rows)}"


def _picture(run: Run, name: str) -> str:
    return f"<h3>{html.escape(run.name)}</h3>{_embedded(run.pictures[name])}" if name in run.pictures else ""


def _times(runs: list[Run]) -> str:
    rows = [
        [
            html.escape(run.name),
            f"{run.fit['seconds']:.0f}" if "seconds" in run.fit else "-",
            str(run.fit.get("epochs", "-")),
            f"{1000 * run.test['seconds_per_video']:.2f}",
            f"{1000 * run.test['read_seconds_per_video']:.2f}",
        ]
        for run in runs
    ]
    header = ["run", "fit, s", "epochs", "test, ms a video", "of it reading in the loaders, ms"]
    note = '<p class="note">Test time is wall time over the whole split, loaders and network overlapping.</p>'
    return _table(header, rows) + note


def _environment() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "torchmetrics", "av"))
    return f"<p>{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}.</p>"


def _image(figure: Figure | None) -> str:
    if figure is None:
        return ""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return _embedded(data.getvalue())


def _embedded(png: bytes) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
