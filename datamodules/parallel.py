"""Does the same to many items in several processes, with a progress bar."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def mapped(
    function: Callable[[_Item], _Result], items: Sequence[_Item], num_workers: int | None, *, label: str
) -> Iterator[_Result]:
    """Results in the order of the items; `function` and items are pickled.

    Args:
        function: what to do.
        items: to what.
        num_workers: processes, 0 for none but this one; as many as there are CPUs if None.
        label: of the progress bar.
    """
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        results = _results(function, items, os.cpu_count() or 1 if num_workers is None else num_workers)
        yield from progress.track(results, total=len(items))


def _results(function: Callable[[_Item], _Result], items: Sequence[_Item], num_workers: int) -> Iterator[_Result]:
    if num_workers <= 1:
        yield from map(function, items)
        return
    # Spawned, because a fork would inherit the locks of whatever threads the caller runs.
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, items, chunksize=max(1, min(8, len(items) // (4 * num_workers))))
