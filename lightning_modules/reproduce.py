"""The command `streamkd reproduce`: a data set's experiments, one after the other, beside what papers report.

Each step is a command of its own process, as a user would type it. The same `streamkd reproduce` continues after
whatever stopped it: steps that are done are left out, a fit that was interrupted resumes.
"""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning_modules.chain import Chain, Step, read_chain

Run = Callable[[Sequence[str]], int | None]
# By exit status of a command, that of the chain.
_INTERRUPTED = {130: 130, -signal.SIGINT: 130, 143: 143, -signal.SIGTERM: 143}


def reproduce(
    data_set: str,
    *,
    data: str | None = None,
    split: int | None = None,
    seed: int = 0,
    fraction: float = 1.0,
    experiments: list[str] | None = None,
    options: dict[str, Any] | None = None,
    dry_run: bool = False,
) -> None:
    """Run a data set's experiments in order, then print their results beside the papers' figures.

    Args:
        data_set: folder in `configs` with a chain.yaml, e.g. ucf101.
        data: the folder of the data set; by default as `configs/<data_set>/annotations.yaml` has it.
        split: its official split, where there are several; by default as the annotations have it.
        seed: of weights, order and augmentation.
        fraction: below 1, a rehearsal with that share of the videos and epochs, whose runs lie apart.
        experiments: the ones to run, with those whose networks they take; by default all.
        options: further ones of every fit and test, e.g. '{trainer.devices: 2, data.batch_size: 40}'.
        dry_run: print the commands that would run, and do nothing.

    Raises:
        ValueError: no such data set, experiment or split.
        ChildProcessError: a command failed.
        Exception: what `check_steps` finds, before anything runs.
    """
    chain = Chain(data_set, read_chain(data_set), data, split, seed, fraction, options or {})
    chain = chain if experiments is None else chain.only(experiments)
    if dry_run:
        print("\n".join(str(step) for step in chain.steps() if not step.is_done))
        return
    run_chain(chain, _run)


def run_chain(chain: Chain, run: Run) -> None:
    """Run what is left of a chain, and print its table.

    Args:
        chain: which.
        run: runs one command, given without the program's name, and returns its exit status.

    Raises:
        ChildProcessError: a command failed.
    """
    # Imported late: Lightning takes seconds that a dry run need not wait for.
    from lightning_modules.chain_checks import check_steps
    from lightning_modules.results import results_table

    check_steps([step for step in chain.steps() if not step.is_done])
    with _alone(chain.root / ".chain" / "lock"):
        for step in chain.steps():
            if not step.is_done:
                _take(step, run)
    table = results_table({chain.data_set: chain.experiments}, {chain.data_set: [chain.root]})
    print(f"\n{table}\n\nruns: {chain.root}", flush=True)


def _take(step: Step, run: Run) -> None:
    print(f"\n{step}", flush=True)
    step.begin()
    status = run(step.command)
    if status in _INTERRUPTED:
        sys.exit(_INTERRUPTED[status])
    if status:
        raise ChildProcessError(f"exit status {status} of `{step}`; mend that, and the same command continues here")
    step.end()


def _run(command: Sequence[str]) -> int:
    """In a process of its own, which is told when this one is to end."""
    program = Path(sys.executable).with_name("streamkd")
    with subprocess.Popen([program, *command], close_fds=False) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            while True:
                with suppress(KeyboardInterrupt):  # which a terminal sends to both
                    return process.wait()
        finally:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until no other process works on the same runs.

    The processes that are started meanwhile inherit the lock: where this one is killed, the next waits for them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        os.set_inheritable(file.fileno(), True)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that works on {path.parent.parent}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
