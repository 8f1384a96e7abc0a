"""The figures of `configs/ut_interaction`: every clip tested once per seed, beside what its metadata alone give away.

For each seed and fold trains the three streams' networks and their fusion by the configs' own commands, and predicts
the fold's test clips. The metadata baseline takes the class of the nearest other clip by width, height and number of
frames, standardised, among all clips outside the fold. The sequence is the unit of the comparison: people and
background recur in it. Resumable: what is finished is not repeated. Run by `make ut-interaction-figures`.
"""

import argparse
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table
from scipy import stats
from seeded_runs import command, seeded_options, spread, write_rows

from datamodules.annotations import GroupedFolders
from datamodules.bitstream import build_index

CONFIGS = Path("configs/ut_interaction")
STREAMS = ("mv", "residual", "iframe")
RUNS = (*STREAMS, "fusion")
BASELINE = "metadata"
NUM_FOLDS = 5
NO_DATA = """{root}: no such folder, so no figures.
Give the folder with UT-Interaction's segmented clips of set 1 (a folder per class; files called set1_seq<01..10>_*.avi)
by `make ut-interaction-figures UT_INTERACTION=folder`."""

Row = dict[str, Any]


def annotations(root: Path, fold: int, num_folds: int = NUM_FOLDS) -> GroupedFolders:
    """The split that the configs name, of another fold."""
    arguments = yaml.safe_load((CONFIGS / "annotations.yaml").read_text())["init_args"]
    return GroupedFolders(**arguments | {"root": str(root), "fold": fold, "num_folds": num_folds})


def clips_of(root: Path, fold: int, num_folds: int = NUM_FOLDS) -> list[str]:
    """Paths of the clips that a fold tests on."""
    return [record.path for record in annotations(root, fold, num_folds).records("test")]


def class_of(path: str) -> str:
    return Path(path).parent.name


def nearest_neighbours(root: Path, num_folds: int) -> dict[str, str]:
    """The metadata baseline: the class it gives each clip."""
    folds = [clips_of(root, fold, num_folds) for fold in range(num_folds)]
    features = {path: _metadata(path) for fold in folds for path in fold}
    guesses = {}
    for fold in folds:
        known = [path for path in features if path not in fold]
        place = _standardised(np.array([features[path] for path in known]))
        places = place(np.array([features[path] for path in known]))
        for path in fold:
            distances = np.linalg.norm(places - place(np.array(features[path])), axis=1)
            guesses[path] = class_of(known[distances.argmin()])
    return guesses


def _metadata(path: str) -> tuple[int, int, int]:
    index = build_index(path)
    return index.width, index.height, index.num_frames


def _standardised(known: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    return lambda values: (values - mean) / deviation


def options(name: str, root: Path, folder: Path, seed: int, fold: int) -> list[str]:
    """What differs from `configs/ut_interaction/<name>.yaml`."""
    found = seeded_options(f"{CONFIGS / name}.yaml", folder / name, seed, root, fold)
    if name == "fusion":
        found += [f"--model.networks.{s}={folder / s / 'checkpoints' / 'best.ckpt'}" for s in STREAMS]
    return found


def train_and_predict(root: Path, folder: Path, seed: int, fold: int) -> dict[str, dict[str, str]]:
    """The class that each run of a seed and fold gives its test clips, by run and path."""
    clips = ",".join(clips_of(root, fold))
    found = {}
    for name in RUNS:
        predictions, log = folder / name / "predictions.jsonl", folder / f"{name}.log"
        if not predictions.exists():
            command("fit", *options(name, root, folder, seed, fold), log=log)
            command("predict", *options(name, root, folder, seed, fold), f"--data.predict_paths=[{clips}]", log=log)
        lines = map(json.loads, predictions.read_text().splitlines())
        found[name] = {line["path"]: line["top"][0]["class"] for line in lines}
    print(f"seed {seed}, fold {fold}: done", flush=True)
    return found


def measure(root: Path, folder: Path, seeds: Sequence[int], jobs: int) -> list[Row]:
    """A row per seed and clip: its sequence, its class, and the one that each run and the baseline give it."""
    guesses, keys = nearest_neighbours(root, NUM_FOLDS), list(product(seeds, range(NUM_FOLDS)))
    with ThreadPoolExecutor(jobs) as pool:
        found = pool.map(lambda key: train_and_predict(root, folder / "seed{}-fold{}".format(*key), *key), keys)
        return [
            {
                "seed": seed,
                "fold": fold,
                "sequence": Path(path).name.split("_")[1],
                "clip": Path(path).name,
                "class": class_of(path),
                BASELINE: guesses[path],
                **{name: predicted[name][path] for name in RUNS},
            }
            for (seed, fold), predicted in zip(keys, found, strict=True)
            for path in clips_of(root, fold)
        ]


def accuracies(rows: Sequence[Row], name: str, *, by: str) -> list[float]:
    """Percent of right answers of one run, for each value of the column `by`."""
    right = defaultdict(list)
    for row in rows:
        right[row[by]].append(row[name] == row["class"])
    return [100 * statistics.mean(answers) for answers in right.values()]


def surplus(rows: Sequence[Row], name: str) -> str:
    """Accuracy less the baseline's, in points, with a 95 % t interval over sequences."""
    per_sequence: dict[str, int] = defaultdict(int)
    for row in rows:
        per_sequence[row["sequence"]] += (row[name] == row["class"]) - (row[BASELINE] == row["class"])
    # In points of the whole, so that their mean is the difference of the accuracies.
    points = np.array(list(per_sequence.values())) * len(per_sequence) * 100 / len(rows)
    interval = stats.ttest_1samp(points, 0).confidence_interval(0.95)
    return f"{points.mean():+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]"


def show(rows: Sequence[Row], leave_one_out: float) -> None:
    """A line per run."""
    table = Table("run", "top-1 %, ± s.d. of seeds", "each seed", "± s.d. of folds", "less metadata, 95 % interval")
    for name in (*RUNS, BASELINE):
        seeds, folds = accuracies(rows, name, by="seed"), accuracies(rows, name, by="fold")
        each = "  ".join(f"{value:.1f}" for value in seeds)
        compared = "" if name == BASELINE else surplus(rows, name)
        table.add_row(name, spread(seeds), each, f"± {statistics.stdev(folds):.1f}", compared)
    console = Console(width=120)
    console.print(table)
    console.print(f"Chance: 16.7 %. Metadata, leaving one sequence out: {leave_one_out:.1f} %.")
    console.print("60 clips: the 95 % interval of any accuracy here is about 12 points to each side.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("data/ut_interaction"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/ut-interaction-figures"))
    parser.add_argument("--output", type=Path, default=Path("tests/benchmarks/results/ut_interaction_figures.csv"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one thread")
    given = parser.parse_args()
    if not given.root.is_dir():
        print(NO_DATA.format(root=given.root))
        return
    began = time.monotonic()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = measure(given.root, given.folder, given.seeds, given.jobs)
    write_rows(given.output, rows)
    guesses = nearest_neighbours(given.root, 10)
    show(rows, 100 * statistics.mean(guess == class_of(path) for path, guess in guesses.items()))
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
