"""Ratios of times, taken in turns: a machine that slows down slows both."""

import statistics
import time
from collections.abc import Callable

from rich.progress import track


def seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def ratios(ours: Callable[[], object], baseline: Callable[[], object], rounds: int, name: str) -> list[float]:
    """Ratio of times in every round, after one that does not count; who goes first takes turns."""
    ours(), baseline()
    found = []
    for number in track(range(rounds), description=name, transient=True):
        pair = [ours, baseline] if number % 2 else [baseline, ours]
        taken = {job: seconds(job) for job in pair}
        found.append(taken[ours] / taken[baseline])
    return found


def quartiles(values: list[float]) -> tuple[str, str]:
    """Median, and the two quartiles around it, as text."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f}", f"{low:.2f}-{high:.2f}"
