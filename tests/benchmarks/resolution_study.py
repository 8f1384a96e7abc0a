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
# Of 100, the paper's, and 1 the better on the validation split of seed 0.
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
}


@dataclass(frozen=True)
class Unit:
    """The runs of one seed.

    Args:
        folder: where they go; its `data` are the videos.
        seed: of all that is drawn.
    """

    folder: Path
    seed: int

    def measure(self) -> dict[str, float]:
        """Test top-1 of teachers and students, in percent."""
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

    def _run(self, config: str, name: str, differing: Sequence[str]) -> float:
        """Fits and tests one run, unless it is there."""
        report = self.folder / name / "test.json"
        options = (
            f"--config=configs/demo/{config}.yaml",
            f"--run_dir={self.folder / name}",
            f"--seed_everything={self.seed}",
            f"--data.seed={self.seed}",
            f"--data.annotations.init_args.root={self.folder / 'data'}",
            CALLBACKS,
            *differing,
        )
        if not report.exists():
            if not (self.folder / name / "fit.json").exists():
                command("fit", *options, log=self.log)
            command("test", *options, log=self.log)
        return 100 * json.loads(report.read_text())["metrics"]["test/top1"]


def show(scores: Sequence[dict[str, float]]) -> None:
    """Teachers and students, and what students gain over labels alone."""
    teachers = Table("teacher", "test top-1 %", "each seed")
    for name in TEACHERS:
        values = [score[name] for score in scores]
        teachers.add_row(name, spread(values), "  ".join(f"{value:.1f}" for value in values))
    students = Table("student, 56 pixels", "teacher", "table", "test top-1 %", "- labels alone", "each seed")
    for name, student in STUDENTS.items():
        values = [score[name] for score in scores]
        gains = [score[name] - score["labels alone"] for score in scores]
        each = "  ".join(f"{value:.1f}" for value in values)
        students.add_row(name, student.teacher or "", student.table, spread(values), spread(gains), each)
    for table in (teachers, students):
        Console(width=110).print(table)


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
    rows = zip(given.seeds, scores, strict=True)
    write_rows(given.output, [{"seed": seed, **{k: f"{v:.2f}" for k, v in score.items()}} for seed, score in rows])
    show(scores)
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
