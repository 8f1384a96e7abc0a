"""metrics.csv: appended, healed, and after a resume what it would have been anyway."""

import csv
from pathlib import Path

import pytest

from callbacks.csv_log import CsvLog, read_rows

LOGGED: list[tuple[int, dict[str, float]]] = [
    (0, {"lr": 0.1}),
    (2, {"epoch": 0, "loss": 1.5}),
    (4, {"epoch": 0, "loss": 1.25}),
    (4, {"epoch": 0, "val/top1": 0.5}),
    (5, {"lr": 0.05}),
    (7, {"epoch": 1, "loss": 1.0}),
    (9, {"epoch": 1, "loss": 0.75, "a,b": 3}),
    (9, {"epoch": 1, "val/top1": 0.75}),
]
WHOLE = """step,epoch,lr,loss,val/top1,"a,b"
0,,0.1,,,
2,0,,1.5,,
4,0,,1.25,0.5,
5,,0.05,,,
7,1,,1.0,,
9,1,,0.75,0.75,3
"""


def log(folder: Path, entries: list[tuple[int, dict[str, float]]]) -> str:
    logger = CsvLog(folder)
    for step, metrics in entries:
        logger.log_metrics(metrics, step)
    return (folder / "metrics.csv").read_text()


def test_values_of_one_step_share_a_row_and_columns_keep_their_order(tmp_path: Path) -> None:
    assert log(tmp_path, LOGGED) == WHOLE


@pytest.mark.parametrize("killed_after", range(1, len(LOGGED) + 1))
def test_a_resumed_log_equals_an_undisturbed_one(tmp_path: Path, killed_after: int) -> None:
    for resumed_at in range(min(killed_after + 1, len(LOGGED))):
        log(tmp_path / str(resumed_at), LOGGED[:killed_after])
        assert log(tmp_path / str(resumed_at), LOGGED[resumed_at:]) == WHOLE


@pytest.mark.parametrize("torn", ["9,1,,0.7", "9", '9,1,,0.75,"0.', "9,1,,0.75,0.5,3"])
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: str) -> None:
    log(tmp_path, LOGGED)
    path = tmp_path / "metrics.csv"
    path.write_text(WHOLE[: WHOLE.rindex("9,1")] + torn)
    assert log(tmp_path, LOGGED[-2:]) == WHOLE


def test_a_shorter_value_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    assert log(tmp_path, [(1, {"loss": 0.123456789}), (1, {"loss": 1})]) == "step,epoch,loss\n1,,1\n"


def test_values_survive_exactly(tmp_path: Path) -> None:
    values = {"third": 1 / 3, "tiny": 5e-324, "infinite": float("inf"), "quote": 1e16}
    log(tmp_path, [(3, values)])
    with open(tmp_path / "metrics.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert {name: float(row[name]) for name in values} == values


def test_empty_or_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "none.csv") == []
    (tmp_path / "empty.csv").write_text("")
    assert read_rows(tmp_path / "empty.csv") == []
