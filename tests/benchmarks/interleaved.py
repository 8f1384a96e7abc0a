"""Ratios of times, taken in turns: a machine that slows down slows both."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from rich.progress import track

Job = Callable[[], object]
Clock = Callable[[], float]
Name = TypeVar("Name")


def seconds(job: Job, clock: Clock = time.perf_counter) -> float:
    start = clock()
    job()
    return clock() - start


def in_turns(
    jobs: Mapping[Name, Job], rounds: int, *, clock: Clock = time.perf_counter, name: str = "", warm_up: bool = True
) -> dict[Name, list[float]]:
    """Seconds of every job in every round, their order reversed from one round to the next.

    Args:
        jobs: by name.
        rounds: that count.
        clock: tells seconds.
        name: of the progress bar; none: there is no bar.
        warm_up: whether a round that does not count comes first.
    """
    if warm_up:
        for job in jobs.values():
            job()
    taken: dict[Name, list[float]] = {job: [] for job in jobs}
    for number in track(range(rounds), description=name, transient=True, disable=not name):
        for job in list(jobs)[:: 1 if number % 2 else -1]:
            taken[job].append(seconds(jobs[job], clock))
    return taken


def over(taken: Mapping[Name, list[float]], baseline: Name) -> dict[Name, list[float]]:
    """Ratios to the baseline, within each round."""
    return {name: [a / b for a, b in zip(found, taken[baseline], strict=True)] for name, found in taken.items()}


def ratios(ours: Job, baseline: Job, rounds: int, name: str) -> list[float]:
    """Ratio of times in every round, after one that does not count; who goes first takes turns."""
    return over(in_turns({"ours": ours, "baseline": baseline}, rounds, name=name), "baseline")["ours"]


def quartiles(values: list[float]) -> tuple[str, str]:
    """Median, and the two quartiles around it, as text."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return _figure(middle), f"{_figure(low)}-{_figure(high)}"


def _figure(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}"
