"""TEAM-Net on the demo: the network, who teaches its internal classifiers, and all its exits combined.

The networks are those of `configs/demo/team_net.yaml`, `team_net_pkd.yaml` and `team_net_wise.yaml`; who teaches is all
that differs between internal classifiers, which have the same data, epochs and optimizer. Epochs, scales and the
threshold are chosen on the validation split. Each seed has data, weights and order of its own, the data those of
`make demo-figures`. Resumable: a run that is finished is not repeated. Run by `make demo-study`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from seeded_runs import DemoSeed, Score, Scores, run_of, score_columns, study

TEACHERS = {
    "labels": (["labels"], [12]),
    "progressive": (["mv", "residual", "iframe"], [1, 1, 10]),
    "progressive, then the sum": (["mv", "residual", "own"], [1, 1, 10]),
}
FINAL = "top1/iframe+mv+residual/final"


def all_exits(run: Path) -> Score:
    """Top-1 of all exits combined, for every video."""
    tested, fitted = (json.loads((run / name).read_text())["metrics"] for name in ("test.json", "fit.json"))
    return Score(100 * tested[f"test/{FINAL}"], 100 * fitted[f"val/{FINAL}"])


def measure(unit: DemoSeed) -> Scores:
    """Top-1 of the network, and with every teacher of its internal classifiers (their mean) and of all exits."""
    scores = {"TEAM-Net": unit.score("team_net", "team-net")}
    for name, (teachers, lengths) in TEACHERS.items():
        run = f"team-{run_of(name)}"
        scores[f"internal classifiers: {name}"] = unit.score(
            "team_net_pkd",
            run,
            f"--model.networks={{iframe+mv+residual: {unit.best('team-net')}}}",
            f"--model.stages.init_args.teachers={json.dumps(teachers)}",
            f"--model.stages.init_args.lengths={lengths}",
        )
        early = unit.score("team_net_wise", f"{run}-wise", f"--model.exits={unit.best(run)}")
        scores[f"all exits: {name}"] = all_exits(unit.folder / f"{run}-wise")
        scores[f"leaving early: {name}"] = early
    return scores


def show(scores: Sequence[Scores]) -> None:
    """Validation and test, mean and spread."""
    table = Table("exits", "validation top-1 %", "test", "each seed")
    for name in scores[0]:
        table.add_row(name, *score_columns([score[name] for score in scores]))
    Console(width=130).print(table)


if __name__ == "__main__":
    study(__doc__ or "", "team_study", measure, show)
