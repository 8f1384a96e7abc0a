"""Cross-resolution distillation on the demo: what teaches (Table 5) and who (Table 6 of ResKD, NeurIPS 2022).

Every student is `configs/demo/reskd_baseline.yaml`'s network on frames at 56 pixels, with the same data, epochs and
optimizer; epochs are chosen on the validation split. Each seed has data, weights and order of its own, the data those
of `make demo-figures`. Resumable: a run that is finished is not repeated. Run by `make demo-study`.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from seeded_runs import command, spread, write_rows

LOSSES = "lightning_modules.losses"
# Of these the best on the validation split, over all seeds, teaches wherever features do; the paper's is 100.
WEIGHTS = (0.1, 1.0, 10.0, 100.0)
FEATURES = 1.0
LARGE = "lightning_modules.networks.resnet18"
SMALL = ("--data.low_resolution.size=56",)
# Without the analyses of the demo.
CALLBACKS = "--trainer.callbacks=[{class_path: callbacks.channels_last.ChannelsLast}]"


@dataclass(frozen=True)
class Teacher:
    """A network that teaches.

    Args:
        options: by which it differs from `reskd_teacher.yaml`.
        stream: the view it sees when it teaches.
    """

    options: tuple[str, ...]
    stream: str


TEACHERS = {
    "same-high": Teacher((), "rgb_high"),
    "large-high": Teacher((f"--model.network={LARGE}",), "rgb_high"),
    "large-low": Teacher((f"--model.network={LARGE}", *SMALL), "rgb"),
}


@dataclass(frozen=True)
class Student:
    """A way to teach the student.

    Args:
        teacher: its name; None: labels alone.
        matching: what is learned from it.
        weight: of that.
        table: of the paper in which it stands.
    """

    teacher: str | None
    matching: str
    weight: float
    table: str


STUDENTS = {
    "labels alone": Student(None, "", 0.0, "5, 6"),
    "clip logits": Student("large-high", "ClipLogitMatching", 1.0, "5"),
    "frame logits": Student("large-high", "FrameLogitMatching", 1.0, "5"),
    "position logits": Student("large-high", "PositionLogitMatching", 0.5, "5"),
    "features (ResKD)": Student("large-high", "FeatureMatching", FEATURES, "5, 6"),
    "model only": Student("large-low", "FeatureMatching", FEATURES, "6"),
    "resolution only": Student("same-high", "FeatureMatching", FEATURES, "6"),
    **{
        f"features, weight {weight:g}": Student("large-high", "FeatureMatching", weight, "")
        for weight in WEIGHTS
        if weight != FEATURES
    },
}


@dataclass(frozen=True)
class Score:
    """Top-1 in percent, of the epoch that was best on the validation split."""

    test: float
    validation: float


@dataclass(frozen=True)
class Unit:
    """The runs of one seed.

    Args:
        folder: where they go; its `data` are the videos.
        seed: of all that is drawn.
    """

    folder: Path
    seed: int

    def measure(self) -> dict[str, Score]:
        """Top-1 of teachers and students."""
        if not (self.folder / "data" / "manifest.json").exists():
            command("demo-data", f"--root={self.folder / 'data'}", f"--seed={self.seed}", log=self.log)
        scores = {name: self._run("reskd_teacher", name, teacher.options) for name, teacher in TEACHERS.items()}
        for name, student in STUDENTS.items():
            if student.teacher is None:
                scores[name] = self._run("reskd_baseline", "reskd-labels", ())
                continue
            options = (
                f"--model.teacher={self.folder / student.teacher / 'checkpoints' / 'best.ckpt'}",
                f"--model.teacher_stream={TEACHERS[student.teacher].stream}",
                f"--model.matching={LOSSES}.{student.matching}",
                f"--model.matching.init_args.weight={student.weight}",
            )
            scores[name] = self._run("reskd", f"reskd-{name.split(' (')[0].replace(' ', '-')}", options)
        print(f"seed {self.seed}: done", flush=True)
        return scores

    @property
    def log(self) -> Path:
        return self.folder / "resolution-study.log"

    def _run(self, config: str, name: str, differing: Sequence[str]) -> Score:
        """Fits and tests one run, unless it is there."""
        fitted, tested = self.folder / name / "fit.json", self.folder / name / "test.json"
        options = (
            f"--config=configs/demo/{config}.yaml",
            f"--run_dir={self.folder / name}",
            f"--seed_everything={self.seed}",
            f"--data.seed={self.seed}",
            f"--data.annotations.init_args.root={self.folder / 'data'}",
            CALLBACKS,
            *differing,
        )
        if not fitted.exists():
            command("fit", *options, log=self.log)
        if not tested.exists():
            command("test", *options, log=self.log)
        return Score(
            test=100 * json.loads(tested.read_text())["metrics"]["test/top1"],
            validation=100 * json.loads(fitted.read_text())["best_score"],
        )


def show(scores: Sequence[dict[str, Score]]) -> None:
    """Teachers and students, and what students gain over labels alone."""
    teachers = Table("teacher", "validation top-1 %", "test", "each seed")
    for name in TEACHERS:
        teachers.add_row(name, *_columns([score[name] for score in scores]))
    students = Table("student, 56 pixels", "teacher", "table", "validation", "test", "each seed", "- labels alone")
    for name, student in STUDENTS.items():
        gains = [score[name].test - score["labels alone"].test for score in scores]
        columns = _columns([score[name] for score in scores])
        students.add_row(name, student.teacher or "", student.table, *columns, spread(gains))
    for table in (teachers, students):
        Console(width=130).print(table)


def _columns(scores: Sequence[Score]) -> tuple[str, str, str]:
    validation = spread([score.validation for score in scores])
    return validation, spread([score.test for score in scores]), "  ".join(f"{score.test:.1f}" for score in scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/demo-figures"))
    parser.add_argument("--output", type=Path, default=Path("tests/benchmarks/results/resolution_study.csv"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one thread")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    began = time.monotonic()
    with ThreadPoolExecutor(given.jobs) as pool:
        scores = list(pool.map(lambda seed: Unit(given.folder / f"seed{seed}", seed).measure(), given.seeds))
    rows = [
        {"seed": seed, "split": split, **{name: f"{getattr(each, split):.2f}" for name, each in score.items()}}
        for seed, score in zip(given.seeds, scores, strict=True)
        for split in ("validation", "test")
    ]
    write_rows(given.output, rows)
    show(scores)
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
