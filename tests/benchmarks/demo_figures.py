"""The demo's figures over several seeds, each with data, weights and order of its own, by the demo's own commands.

Runs `configs/demo/*.yaml` for each seed, and the I-frame network once more at 56 pixels (trained and tested on crops
resized from 112, bilinear, without antialiasing), then prints test accuracies with mean and standard deviation.
Resumable: a run that is finished is not repeated. Run by `make demo-figures`; about 7 minutes a seed on 2 cores.
"""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from seeded_runs import command, seeded_options, spread, write_rows

STREAMS = ("mv", "residual", "iframe")
RUNS = (*STREAMS, "iframe56", "fusion")
DIFFERENCES = {
    "iframe - residual": ("iframe", "residual"),
    "residual - mv": ("residual", "mv"),
    "iframe - iframe56": ("iframe", "iframe56"),
}


def options(name: str, folder: Path, seed: int) -> list[str]:
    """What differs from `configs/demo/<name>.yaml`."""
    found = seeded_options(f"configs/demo/{name.removesuffix('56')}.yaml", folder / name, seed, folder / "data")
    if name == "iframe56":
        found.append("--data.size=56")
    if name == "fusion":
        found += [f"--model.networks.{s}={folder / s / 'checkpoints' / 'best.ckpt'}" for s in STREAMS]
    return found


def measure(folder: Path, seed: int) -> dict[str, float]:
    """Test top-1 of every run with this seed, in percent."""
    command("demo-data", f"--root={folder / 'data'}", f"--seed={seed}")
    scores = {}
    for name in RUNS:
        report = folder / name / "test.json"
        if not report.exists():
            command("fit", *options(name, folder, seed))
            command("test", *options(name, folder, seed))
        scores[name] = 100 * json.loads(report.read_text())["metrics"]["test/top1"]
    return scores


def show(scores: list[dict[str, float]]) -> None:
    """A table of accuracies, one of differences."""
    accuracies = Table("run", "test top-1 %, mean ± s.d.", "each seed")
    for name in RUNS:
        values = [score[name] for score in scores]
        accuracies.add_row(name, spread(values), "  ".join(f"{value:.1f}" for value in values))
    differences = Table("difference", "points")
    for name, (better, worse) in DIFFERENCES.items():
        differences.add_row(name, spread([score[better] - score[worse] for score in scores]))
    gains = [score["fusion"] - max(score[stream] for stream in STREAMS) for score in scores]
    differences.add_row("fusion - best stream", spread(gains))
    for table in (accuracies, differences):
        Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/demo-figures"))
    parser.add_argument("--output", type=Path, default=Path("tests/benchmarks/results/demo_figures.csv"))
    given = parser.parse_args()
    scores = [measure(given.folder / f"seed{seed}", seed) for seed in given.seeds]
    rows = zip(given.seeds, scores, strict=True)
    write_rows(given.output, [{"seed": seed, **{name: f"{score[name]:.2f}" for name in RUNS}} for seed, score in rows])
    show(scores)


if __name__ == "__main__":
    main()
