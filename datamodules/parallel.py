"""Does the same to many items in several processes, and shows how far it is, how fast, and how long it will take."""

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from datetime import timedelta
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from typing_extensions import override

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_AHEAD = 64  # items per process that may be done before the first of them is
_RATE_SECONDS = 300  # that a rate is the mean of


def mapped(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    num_workers: int | None,
    *,
    label: str,
    interval: float = 20,
) -> Iterator[_Result]:
    """Results in the order of the items; `function` and items are pickled.

    Args:
        function: what to do.
        items: to what.
        num_workers: processes, 0 for none but this one. None: as many as this one may use CPUs.
        label: of the progress bar.
        interval: seconds between lines of progress, where the output is no terminal.

    Raises:
        ChildProcessError: a process was killed.
    """
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), _RateColumn(), TimeRemainingColumn())
    is_plain = not Console().is_terminal
    progress = Progress(*columns, speed_estimate_period=_RATE_SECONDS, disable=is_plain)
    with nullcontext() if is_plain else progress:
        results = _results(function, items, num_cpus() if num_workers is None else num_workers)
        task = progress.add_task(label, total=len(items))
        shown = time.monotonic()
        try:
            for result in results:
                progress.advance(task)
                if is_plain and time.monotonic() - shown >= interval:
                    shown = time.monotonic()
                    print(_line(progress.tasks[0]), flush=True)
                yield result
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"{label}: a process was killed, for want of memory perhaps; fewer of them (num_workers) need less"
            ) from error


def num_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _RateColumn(ProgressColumn):
    @override
    def render(self, task: Task) -> Text:
        return Text(_rate(task))


def _rate(task: Task) -> str:
    speed = task.finished_speed or task.speed or 0
    return f"{speed:.1f}/s" if speed >= 1 or not speed else f"{60 * speed:.1f}/min"


def _line(task: Task) -> str:
    """Progress for logs and pipes, where a moving bar would be noise."""
    left = "" if task.time_remaining is None else f", {timedelta(seconds=round(task.time_remaining))} left"
    return f"{task.description}: {task.completed:.0f}/{task.total:.0f}, {_rate(task)}{left}"


def _results(function: Callable[[_Item], _Result], items: Iterable[_Item], num_workers: int) -> Iterator[_Result]:
    if num_workers <= 1:
        yield from map(function, items)
        return
    pending: deque[Future[_Result]] = deque()
    # Spawned, because a fork would inherit the locks of whatever threads the caller runs.
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"), initializer=_follow_parent) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > _AHEAD * num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BaseException:  # nobody waits for what has begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _follow_parent() -> None:
    """Leaves Ctrl-C to the parent; ends when it is killed, whereas workers of a pool would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
