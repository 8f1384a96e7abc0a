"""Rows of the benchmark: each a ratio, median and quartiles over the rounds of one interleaved run."""

import csv
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

from interleaved import Clock
from rich.table import Table

Bound = Literal["at most", "at least"]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        part: of the benchmark.
        job: what was measured.
        over: what it is a ratio to.
        ratio: the median over rounds.
        low: the lower quartile.
        high: the upper one.
        figure: what stands beside it, in words: an absolute figure, an accuracy.
        bound: which side of `target` is wanted; "" where nothing is aimed at.
        target: what the ratio is to be.
    """

    part: str
    job: str
    over: str
    ratio: float
    low: float
    high: float
    figure: str = ""
    bound: Bound | Literal[""] = ""
    target: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the target holds; "" where there is none."""
        if self.target is None:
            return ""
        holds = self.ratio >= self.target if self.bound == "at least" else self.ratio <= self.target
        return f"{self.bound} {three_digits(self.target)}: {'yes' if holds else 'no'}"

    @property
    def cells(self) -> list[str]:
        """As people read it."""
        spread = f"{three_digits(self.low)}-{three_digits(self.high)}"
        return [self.job, self.over, three_digits(self.ratio), spread, self.figure, self.verdict]


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Args:
        factor: that numbers of rounds are multiplied by.
        clock: tells seconds; of jobs in several processes it is always the wall's.
    """

    factor: float = 1.0
    clock: Clock = time.perf_counter

    def rounds(self, number: int) -> int:
        """So many of so many, but two at least."""
        return max(round(number * self.factor), 2)


COLUMNS = ("job", "over", "ratio", "quartiles", "beside", "target")


def row(
    part: str,
    job: str,
    over: str,
    ratios: Sequence[float],
    figure: str = "",
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Row:
    """A row of the ratios of all rounds; `at_most` or `at_least` is what they are to be."""
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else list(ratios) * 3
    result = Row(part, job, over, middle, low, high, figure)
    if at_least is not None:
        return replace(result, bound="at least", target=at_least)
    return result if at_most is None else replace(result, bound="at most", target=at_most)


def three_digits(value: float) -> str:
    """0.0123, 0.987, 1.03, 12.3, 123."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line a row; empty where there is no target."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _rounded(value) for name, value in asdict(each).items()} for each in rows)


def read_csv(path: Path) -> list[Row]:
    """What `write_csv` wrote."""
    with open(path, newline="", encoding="utf-8") as file:
        return [_row_of(record) for record in csv.DictReader(file)]


def table(title: str, rows: Sequence[Row]) -> Table:
    """For a terminal."""
    result = Table(*COLUMNS, title=title)
    for each in rows:
        result.add_row(*each.cells)
    return result


def markdown(rows: Sequence[Row], note: str) -> str:
    """For people: a table a part."""
    lines = ["# Benchmark", "", f"{note}. Ratios are medians over interleaved rounds.", ""]
    for part in dict.fromkeys(each.part for each in rows):
        lines += [f"## {part.capitalize()}", "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        lines += [f"| {' | '.join(each.cells)} |" for each in rows if each.part == part] + [""]
    return "\n".join(lines)


def _rounded(value: object) -> object:
    return f"{value:.5g}" if isinstance(value, float) else value


def _row_of(record: dict[str, str]) -> Row:
    numbers = {name: float(record[name]) for name in ("ratio", "low", "high")}
    target = float(record["target"]) if record["target"] else None
    return Row(**{**record, **numbers, "target": target})  # type: ignore[arg-type]
