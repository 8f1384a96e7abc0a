"""What studies over several seeds share: running commands, mean and spread, tables that are written whole."""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.whole_file import open_whole

PLAIN = "--trainer.callbacks=[{class_path: callbacks.channels_last.ChannelsLast}]"  # no analyses


def command(*arguments: object, log: Path | None = None) -> None:
    """Runs `streamkd` with these arguments; raises if it fails.

    Args:
        arguments: of the command line.
        log: file that its output is appended to; None: this program's own output.
    """
    program = [str(Path(sys.executable).with_name("streamkd")), *map(str, arguments)]
    if log is None:
        subprocess.run(program, check=True)
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        subprocess.run(program, check=True, stdout=file, stderr=subprocess.STDOUT)


def seeded_options(config: str, run: Path, seed: int, root: Path, fold: int | None = None) -> list[str]:
    """What differs from a configuration in a run of one seed, and of one fold where there are folds.

    Args:
        config: the YAML file.
        run: the run's directory.
        seed: of weights and data.
        root: of the videos.
        fold: which is tested on.
    """
    found = [
        f"--config={config}",
        f"--run_dir={run}",
        f"--seed_everything={seed}",
        f"--data.seed={seed}",
        f"--data.annotations.init_args.root={root}",
    ]
    return found if fold is None else [*found, f"--data.annotations.init_args.fold={fold}"]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, e.g. `46.3 ± 1.2`."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes dictionaries of the same keys as CSV, whole or not at all."""
    with open_whole(path) as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def run_of(method: str) -> str:
    """The folder of a method's run."""
    return method.replace(", ", "-").replace(" ", "-")


@dataclass(frozen=True)
class Score:
    """Top-1 in percent, of the epoch that was best on the validation split."""

    test: float
    validation: float


@dataclass(frozen=True)
class DemoSeed:
    """The demo's experiments with one seed of data, weights and order.

    Args:
        folder: where runs go; its `data` are the videos.
        seed: of all that is drawn.
        log: file in `folder` for what commands say.
    """

    folder: Path
    seed: int
    log: str

    def command(self, *arguments: object) -> None:
        """Runs `streamkd` with these arguments, its output in the log."""
        command(*arguments, log=self.folder / self.log)

    def make_data(self) -> None:
        """Makes the videos, unless they are there."""
        if not (self.folder / "data" / "manifest.json").exists():
            self.command("demo-data", f"--root={self.folder / 'data'}", f"--seed={self.seed}")

    def best(self, run: str) -> Path:
        """The checkpoint of a run that was best on the validation split."""
        return self.folder / run / "checkpoints" / "best.ckpt"

    def options(self, config: str, run: str) -> list[str]:
        """What differs from `configs/demo/<config>.yaml` for the run in `folder / run`; no analyses."""
        file, root = f"configs/demo/{config}.yaml", self.folder / "data"
        return [*seeded_options(file, self.folder / run, self.seed, root), PLAIN]

    def score(self, config: str, run: str, *differing: str, in_tests: Sequence[str] = ()) -> Score:
        """Fits and tests one run, unless it is there.

        Args:
            config: its configuration in `configs/demo`.
            run: its folder.
            differing: options by which it differs from the configuration.
            in_tests: further ones of the test.
        """
        options = [*self.options(config, run), *differing]
        fitted, tested = self.folder / run / "fit.json", self.folder / run / "test.json"
        if not fitted.exists():
            self.command("fit", *options)
        if not tested.exists():
            self.command("test", *options, *in_tests)
        return Score(test=top1(tested), validation=100 * json.loads(fitted.read_text())["best_score"])


def top1(report: Path) -> float:
    """In percent, of `test.json` or `validate.json`."""
    split = "test" if report.stem == "test" else "val"
    return 100 * json.loads(report.read_text())["metrics"][f"{split}/top1"]


def score_columns(scores: Sequence[Score]) -> tuple[str, str, str]:
    """Validation, test, and test of each seed."""
    validation = spread([score.validation for score in scores])
    return validation, spread([score.test for score in scores]), "  ".join(f"{score.test:.1f}" for score in scores)


Scores = dict[str, Score]


def study(
    description: str, output: str, measure: Callable[[DemoSeed], Scores], show: Callable[[Sequence[Scores]], None]
) -> None:
    """Runs a study by its command line: measures every seed, writes a table and shows it.

    Args:
        description: for `--help`.
        output: name of the table in `tests/benchmarks/results`, without ".csv".
        measure: of one seed.
        show: of all seeds.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/demo-figures"))
    parser.add_argument("--output", type=Path, default=Path(f"tests/benchmarks/results/{output}.csv"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one thread")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    began = time.monotonic()

    def measured(seed: int) -> Scores:
        unit = DemoSeed(given.folder / f"seed{seed}", seed, f"{output}.log")
        unit.make_data()
        scores = measure(unit)
        print(f"seed {seed}: done", flush=True)
        return scores

    with ThreadPoolExecutor(given.jobs) as pool:
        scores = list(pool.map(measured, given.seeds))
    rows = [
        {"seed": seed, "split": split, **{name: f"{getattr(each, split):.2f}" for name, each in found.items()}}
        for seed, found in zip(given.seeds, scores, strict=True)
        for split in ("validation", "test")
    ]
    write_rows(given.output, rows)
    show(scores)
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")
