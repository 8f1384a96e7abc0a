"""Progressive distillation on the demo beside cross-entropy and a single teacher, and weighted inference on all three.

Every method trains the same internal classifiers on the same networks with the same data, epochs and optimizer; only
who teaches differs. The epoch is chosen and the scales are fitted on the validation split. Networks, data and seeds
are those of `make demo-figures`, which runs first where it has not. Resumable: a run that is finished is not repeated.
Run by `make demo-study`; about 6 minutes a seed on 2 cores, behind `make demo-figures`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import demo_figures
from rich.console import Console
from rich.table import Table
from seeded_runs import command, spread, write_rows

STREAMS = demo_figures.STREAMS
TEACHERS = {
    "cross-entropy": "[labels]",
    "single teacher": "[iframe]",
    "progressive": "[mv,residual,iframe]",
    "progressive, own last": "[mv,residual,own]",
    "reversed": "[iframe,residual,mv]",
}
LENGTHS = {"[labels]": "[12]", "[iframe]": "[12]"}
CONNECTIONS = ("scaled", "unscaled", "unconnected", "divided")
INTERNAL = [f"{stream}/layer{depth}" for stream in STREAMS for depth in (1, 2, 3)]

Row = dict[str, Any]


def options(name: str, folder: Path, run: str, seed: int) -> list[str]:
    """What differs from `configs/demo/<name>.yaml`, for the run in `folder / run`."""
    return [
        f"--config=configs/demo/{name}.yaml",
        f"--run_dir={folder / run}",
        f"--seed_everything={seed}",
        f"--data.seed={seed}",
        f"--data.annotations.init_args.root={folder / 'data'}",
    ]


def distil(folder: Path, method: str, seed: int) -> str:
    """Trains the exits by one method; returns the checkpoint."""
    run, teachers = method.replace(", ", "-").replace(" ", "-"), TEACHERS[method]
    chosen = [
        *options("pkd", folder, run, seed),
        *(f"--model.networks.{s}={folder / s / 'checkpoints' / 'best.ckpt'}" for s in STREAMS),
        f"--model.stages.init_args.teachers={teachers}",
        f"--model.stages.init_args.lengths={LENGTHS.get(teachers, '[2,2,8]')}",
    ]
    if not (folder / run / "fit.json").exists():
        command("fit", *chosen)
    return str(folder / run / "checkpoints" / "best.ckpt")


def weigh(folder: Path, method: str, exits: str, connection: str, seed: int) -> dict[str, float]:
    """Test metrics of the exits, combined by one connection; scales are fitted once a method."""
    fitted = f"{method.replace(', ', '-').replace(' ', '-')}-wise"
    report = folder / f"{fitted}-{connection}.json"
    if not report.exists():
        chosen = [*options("wise", folder, fitted, seed), f"--model.exits={exits}", "--model.threshold=1"]
        if not (folder / fitted / "fit.json").exists():
            command("fit", *chosen)
        command("test", *chosen, f"--model.connection={connection}")
        (folder / fitted / "test.json").rename(report)
    return json.loads(report.read_text())["metrics"]


def measure(folder: Path, seed: int) -> list[Row]:
    """A row for every method, connection and exit: test top-1 of the exit by itself and of its output, in percent."""
    demo_figures.measure(folder, seed)
    rows: list[Row] = []
    for method in TEACHERS:
        exits = distil(folder, method, seed)
        for connection in CONNECTIONS:
            metrics = weigh(folder, method, exits, connection, seed)
            names = [name.removeprefix("test/top1_alone/") for name in metrics if name.startswith("test/top1_alone/")]
            rows += [
                {
                    "seed": seed,
                    "method": method,
                    "connection": connection,
                    "exit": name,
                    "alone": round(100 * metrics[f"test/top1_alone/{name}"], 2),
                    "output": round(100 * metrics[f"test/top1/{name}"], 2),
                }
                for name in names
            ]
    return rows


def over_seeds(rows: Sequence[Row], column: str, exits: Sequence[str], **keys: str) -> list[float]:
    """For each seed the mean of a column over some exits."""
    chosen = [row for row in rows if row["exit"] in exits and all(row[k] == v for k, v in keys.items())]
    seeds = sorted({row["seed"] for row in chosen})
    return [statistics.mean(row[column] for row in chosen if row["seed"] == seed) for seed in seeds]


def show(rows: Sequence[Row]) -> None:
    """A table of the classifiers by themselves, one of their combinations."""
    alone = Table("taught by", *STREAMS, "all nine", "- cross-entropy", title="internal classifiers, test top-1 %")
    baseline = over_seeds(rows, "alone", INTERNAL, method="cross-entropy", connection="scaled")
    for method in TEACHERS:
        keys = {"method": method, "connection": "scaled"}
        groups = [[name for name in INTERNAL if name.startswith(stream)] for stream in STREAMS]
        cells = [spread(over_seeds(rows, "alone", group, **keys)) for group in groups]
        values = over_seeds(rows, "alone", INTERNAL, **keys)
        gains = [value - other for value, other in zip(values, baseline, strict=True)]
        alone.add_row(method, *cells, spread(values), spread(gains))
    combined = Table("taught by", *CONNECTIONS, title="outputs, mean over the twelve exits, test top-1 %")
    last = Table("taught by", *CONNECTIONS, title="output of the last exit, test top-1 %")
    exits = list(dict.fromkeys(row["exit"] for row in rows))
    for method in TEACHERS:
        for table, chosen in ((combined, exits), (last, exits[-1:])):
            outputs = (over_seeds(rows, "output", chosen, method=method, connection=c) for c in CONNECTIONS)
            table.add_row(method, *map(spread, outputs))
    for table in (alone, combined, last):
        Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/demo-figures"))
    parser.add_argument("--output", type=Path, default=Path("tests/benchmarks/results/demo_study.csv"))
    given = parser.parse_args()
    began = time.monotonic()
    rows = [row for seed in given.seeds for row in measure(given.folder / f"seed{seed}", seed)]
    write_rows(given.output, rows)
    show(rows)
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
