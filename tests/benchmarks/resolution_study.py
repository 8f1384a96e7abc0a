"""Cross-resolution distillation on the demo: what teaches (Table 5) and who (Table 6 of ResKD, NeurIPS 2022).

Every student is `configs/demo/reskd_baseline.yaml`'s network on frames at 56 pixels, with the same data, epochs and
optimizer; epochs are chosen on the validation split. Each seed has data, weights and order of its own, the data those
of `make demo-figures`. Resumable: a run that is finished is not repeated. Run by `make demo-study`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from seeded_runs import DemoSeed, Scores, score_columns, spread, study

LOSSES = "lightning_modules.losses"
# Of these the best on the validation split, over all seeds, teaches wherever features do; the paper's is 100.
WEIGHTS = (0.1, 1.0, 10.0, 100.0)
FEATURES = 1.0
LARGE = "lightning_modules.networks.resnet18"
SMALL = ("--data.low_resolution.size=56",)


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


def measure(unit: DemoSeed) -> Scores:
    """Top-1 of teachers and students."""
    scores = {name: unit.score("reskd_teacher", name, *teacher.options) for name, teacher in TEACHERS.items()}
    for name, student in STUDENTS.items():
        if student.teacher is None:
            scores[name] = unit.score("reskd_baseline", "reskd-labels")
            continue
        options = (
            f"--model.teacher={unit.best(student.teacher)}",
            f"--model.teacher_stream={TEACHERS[student.teacher].stream}",
            f"--model.matching={LOSSES}.{student.matching}",
            f"--model.matching.init_args.weight={student.weight}",
        )
        scores[name] = unit.score("reskd", f"reskd-{name.split(' (')[0].replace(' ', '-')}", *options)
    return scores


def show(scores: Sequence[Scores]) -> None:
    """Teachers and students, and what students gain over labels alone."""
    teachers = Table("teacher", "validation top-1 %", "test", "each seed")
    for name in TEACHERS:
        teachers.add_row(name, *score_columns([score[name] for score in scores]))
    students = Table("student, 56 pixels", "teacher", "table", "validation", "test", "each seed", "- labels alone")
    for name, student in STUDENTS.items():
        gains = [score[name].test - score["labels alone"].test for score in scores]
        columns = score_columns([score[name] for score in scores])
        students.add_row(name, student.teacher or "", student.table, *columns, spread(gains))
    for table in (teachers, students):
        Console(width=130).print(table)


if __name__ == "__main__":
    study(__doc__ or "", "resolution_study", measure, show)
