"""The command `streamkd flatness`: what `Flatness` has measured in several runs, side by side."""

import json
from collections.abc import Sequence
from pathlib import Path

from datamodules.whole_file import open_whole
from lightning_modules.analysis.flatness import MeasuredFlatness
from lightning_modules.analysis.flatness_plot import draw_comparison
from lightning_modules.named_runs import check_named


def compare_flatness(runs: Sequence[Path], output: Path, targets: Sequence[str] | None = None) -> None:
    """Draw networks of equal architecture on equal axes, e.g. before and after distillation.

    Args:
        runs: run directories with a flatness.json.
        output: the PNG to write.
        targets: which of what was measured in each run; None: all.

    Raises:
        ValueError: different architectures or numbers of samples, no run, two of one name, or targets that a run lacks.
        FileNotFoundError: a run without measurements.
    """
    measured = {
        f"{run.name}: {name}": flatness for run in check_named(runs) for name, flatness in _read(run, targets).items()
    }
    figure = draw_comparison(measured)
    with open_whole(output, "wb") as file:
        figure.savefig(file, format="png", dpi=150)
    print(f"{len(measured)} networks in {output}", flush=True)


def _read(run: Path, targets: Sequence[str] | None) -> dict[str, MeasuredFlatness]:
    path = run / "flatness.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; test the run with callbacks.flatness.Flatness in trainer.callbacks"
        )
    records = json.loads(path.read_text())["targets"]
    names = list(records) if targets is None else targets
    if not set(names) <= set(records):
        raise ValueError(f"{path} has {list(records)}, --targets wants {list(names)}")
    return {name: MeasuredFlatness.from_record(records[name]) for name in names}
