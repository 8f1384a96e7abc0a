"""Progressive distillation beside cross-entropy and a single teacher, and weighted inference on all of them.

Every method trains the same internal classifiers on the same networks with the same data, epochs and optimizer; only
who teaches differs. Epochs are chosen (on the demo) and scales are fitted on the validation split. Networks, data,
seeds and folds are those of `make demo-figures` and `make ut-interaction-figures`, which have to be there. Resumable:
a run that is finished is not repeated. Run by `make demo-study` and `make ut-interaction-study`.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from seeded_runs import PLAIN, command, run_of, seeded_options, spread, write_rows

STREAMS = ("mv", "residual", "iframe")
TEACHERS = {
    "cross-entropy": ["labels"],
    "single teacher": ["iframe"],
    "progressive": ["mv", "residual", "iframe"],
    "progressive, own last": ["mv", "residual", "own"],
    "reversed": ["iframe", "residual", "mv"],
}
CONNECTIONS = ("scaled", "unscaled", "unconnected", "divided")
INTERNAL = [f"{stream}/layer{depth}" for stream in STREAMS for depth in (1, 2, 3)]
ALONE = "test/top1_alone/"
FLATNESS = ("--trainer.callbacks+=callbacks.flatness.Flatness", "--trainer.callbacks.hold=[conv1,input_bn]")

Row = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """Networks of one seed, and of one fold where there are folds.

    Args:
        configs: folder of the experiments.
        folder: where the networks' runs are, and those of the study go.
        epochs: of a distillation.
        seed: of all that is drawn.
        fold: which is tested on.
        root: of the data.
    """

    configs: str
    folder: Path
    epochs: int
    seed: int
    fold: int | None
    root: Path

    def options(self, name: str, run: str) -> list[str]:
        """What differs from the config `name`, for the run in `folder / run`."""
        file = f"{self.configs}/{name}.yaml"
        return [*seeded_options(file, self.folder / run, self.seed, self.root, self.fold), PLAIN]

    def run(self, *arguments: str) -> None:
        """A command of this unit, its output in a file of the unit."""
        command(*arguments, log=self.folder / "study.log")

    @property
    def keys(self) -> Row:
        return {"seed": self.seed, "fold": "" if self.fold is None else self.fold}

    def distil(self, method: str) -> str:
        """Trains the exits by one method; returns the checkpoint."""
        run, teachers = run_of(method), TEACHERS[method]
        sixths = [1, 1, 4] if len(teachers) == 3 else [6]
        if not (self.folder / run / "fit.json").exists():
            self.run(
                "fit",
                *self.options("pkd", run),
                *(f"--model.networks.{s}={self.folder / s / 'checkpoints' / 'best.ckpt'}" for s in STREAMS),
                f"--model.stages.init_args.teachers={json.dumps(teachers)}",
                f"--model.stages.init_args.lengths={[share * self.epochs // 6 for share in sixths]}",
            )
        return str(self.folder / run / "checkpoints" / "best.ckpt")

    def weigh(self, method: str, exits: str, connection: str) -> dict[str, float]:
        """Test metrics of the exits, combined by one connection; scales are fitted once a method."""
        fitted = f"{run_of(method)}-wise"
        report = self.folder / f"{fitted}-{connection}.json"
        if not report.exists():
            chosen = [*self.options("wise", fitted), f"--model.exits={exits}", "--model.threshold=1"]
            if not (self.folder / fitted / "fit.json").exists():
                self.run("fit", *chosen)
            self.run("test", *chosen, f"--model.connection={connection}")
            (self.folder / fitted / "test.json").rename(report)
        return json.loads(report.read_text())["metrics"]

    def measure(self, methods: Sequence[str]) -> list[Row]:
        """A row for every method, connection and exit: test top-1 of the exit alone and of its output, in percent."""
        rows: list[Row] = []
        for method, connection in product(methods, CONNECTIONS):
            metrics = self.weigh(method, self.distil(method), connection)
            rows += [
                {
                    **self.keys,
                    "method": method,
                    "connection": connection,
                    "exit": name.removeprefix(ALONE),
                    "videos": int(metrics["test/num_videos"]),
                    "alone": round(100 * metrics[name], 2),
                    "output": round(100 * metrics[name.replace("top1_alone", "top1")], 2),
                }
                for name in metrics
                if name.startswith(ALONE)
            ]
        print(f"seed {self.seed}, fold {self.fold}: done", flush=True)
        return rows

    def curvature(self, methods: Sequence[str]) -> list[Row]:
        """A row for every method and network: how flat the minimum is that its internal classifiers are in."""
        rows: list[Row] = []
        for method in methods:
            run = run_of(method)
            report = self.folder / run / "flatness.json"
            if not report.exists():
                self.run("test", *self.options("pkd", run), *FLATNESS)
            targets = json.loads(report.read_text())["targets"]
            rows += [
                {
                    **self.keys,
                    "method": method,
                    "network": name.removesuffix("/exits"),
                    "samples": found["trace"]["num_samples"],
                    "loss": round(found["loss"], 4),
                    "trace": round(found["trace"]["value"], 2),
                    "standard error": round(found["trace"]["standard_error"], 2),
                    "top eigenvalue": round(found["top_eigenvalue"]["value"], 2),
                }
                for name, found in targets.items()
                if name.endswith("/exits")
            ]
        return rows


def demo_units(seeds: Sequence[int], folder: Path, root: Path | None) -> list[Unit]:
    """A unit a seed, which has data of its own."""
    folders = {seed: folder / f"seed{seed}" for seed in seeds}
    return [Unit("configs/demo", folders[s], 12, s, None, root or folders[s] / "data") for s in seeds]


def ut_interaction_units(seeds: Sequence[int], folder: Path, root: Path | None) -> list[Unit]:
    """A unit a seed and fold."""
    data = root or Path("data/ut_interaction")
    keys = product(seeds, range(5))
    return [Unit("configs/ut_interaction", folder / f"seed{s}-fold{f}", 60, s, f, data) for s, f in keys]


SUBJECTS = {
    "demo": (demo_units, Path("runs/demo-figures")),
    "ut_interaction": (ut_interaction_units, Path("runs/ut-interaction-figures")),
}


def over_seeds(rows: Sequence[Row], column: str, exits: Sequence[str], **keys: str) -> list[float]:
    """For each seed the mean of a column over exits and, by their videos, folds."""
    chosen = [row for row in rows if row["exit"] in exits and all(row[k] == v for k, v in keys.items())]
    means = []
    for seed in sorted({row["seed"] for row in chosen}):
        mine = [row for row in chosen if row["seed"] == seed]
        means.append(sum(row[column] * row["videos"] for row in mine) / sum(row["videos"] for row in mine))
    return means


def show(rows: Sequence[Row], methods: Sequence[str]) -> None:
    """A table of the classifiers by themselves, two of their combinations."""
    alone = Table("taught by", *STREAMS, "all nine", "- cross-entropy", title="internal classifiers, test top-1 %")
    baseline = over_seeds(rows, "alone", INTERNAL, method="cross-entropy", connection="scaled")
    for method in methods:
        keys = {"method": method, "connection": "scaled"}
        groups = [[name for name in INTERNAL if name.startswith(stream)] for stream in STREAMS]
        cells = [spread(over_seeds(rows, "alone", group, **keys)) for group in groups]
        values = over_seeds(rows, "alone", INTERNAL, **keys)
        gains = [value - other for value, other in zip(values, baseline, strict=True)]
        alone.add_row(method, *cells, spread(values), spread(gains))
    combined = Table("taught by", *CONNECTIONS, title="outputs, mean over the twelve exits, test top-1 %")
    last = Table("taught by", *CONNECTIONS, title="output of the last exit, test top-1 %")
    exits = list(dict.fromkeys(row["exit"] for row in rows))
    for method in methods:
        for table, chosen in ((combined, exits), (last, exits[-1:])):
            outputs = (over_seeds(rows, "output", chosen, method=method, connection=c) for c in CONNECTIONS)
            table.add_row(method, *map(spread, outputs))
    for table in (alone, combined, last):
        Console(width=110).print(table)


def show_curvature(rows: Sequence[Row], methods: Sequence[str]) -> None:
    """A table of Hessian traces and top eigenvalues."""
    title = "internal classifiers: Hessian trace / top eigenvalue of the cross-entropy"
    table = Table("taught by", *STREAMS, title=title)
    for method in methods:
        cells = []
        for stream in STREAMS:
            chosen = [row for row in rows if row["method"] == method and row["network"] == stream]
            cells.append(" / ".join(spread([row[column] for row in chosen]) for column in ("trace", "top eigenvalue")))
        table.add_row(method, *cells)
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--methods", nargs="+", choices=TEACHERS, default=["cross-entropy", "single teacher", "progressive"]
    )
    parser.add_argument("--curvature", nargs="*", choices=TEACHERS, default=[], help="methods to measure flatness of")
    parser.add_argument("--folder", type=Path, help="of the networks' runs")
    parser.add_argument("--root", type=Path, help="of the data")
    parser.add_argument("--output", type=Path, help="CSV file")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one thread")
    given = parser.parse_args()
    units_of, folder = SUBJECTS[given.subject]
    units = units_of(given.seeds, given.folder or folder, given.root)
    missing = [str(unit.folder) for unit in units if not (unit.folder / "iframe" / "fit.json").exists()]
    if missing:
        parser.error(f"no networks in {', '.join(missing)}: run `make {folder.name}` first")
    os.environ["OMP_NUM_THREADS"] = "1"
    began = time.monotonic()
    with ThreadPoolExecutor(given.jobs) as pool:
        rows = [row for found in pool.map(lambda unit: unit.measure(given.methods), units) for row in found]
        curvature = [row for found in pool.map(lambda unit: unit.curvature(given.curvature), units) for row in found]
    output = given.output or Path(f"tests/benchmarks/results/{given.subject}_study.csv")
    write_rows(output, rows)
    show(rows, given.methods)
    if curvature:
        write_rows(output.with_stem(f"{output.stem}_curvature"), curvature)
        show_curvature(curvature, given.curvature)
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
