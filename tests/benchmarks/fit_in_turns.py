"""A fit as users run it that takes turns with other loops on the same batches: a block of steps each, in one process.

The fit's loader hands over a block of batches; when it is asked for the next one, the block's last step is done, and
the others have their turn before it answers.
"""

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from itertools import cycle, islice
from pathlib import Path

from interleaved import Clock
from typing_extensions import override

from datamodules.clip import ClipBatch
from lightning_modules.trainer_cli import TrainerCLI

FIT = "fit"
BLOCK = 10  # steps, as often as the Trainer logs
Steps = Callable[[Sequence[ClipBatch]], None]
Others = Callable[[TrainerCLI, list[ClipBatch]], Mapping[str, Steps]]


class FitInTurns(TrainerCLI):
    """A fit by a config, of a few batches that stay in memory.

    Attributes: `taken`, seconds of each block by loop; `peaks`, bytes that a block takes beyond what is held between
    blocks, where the system tells.

    Args:
        options: of the command line, from `--config` on.
        others: what takes turns with it, made where the fit begins.
        rounds: blocks that count.
        clock: tells seconds.
        num_batches: that blocks go round.
    """

    def __init__(self, options: Sequence[str], others: Others, rounds: int, clock: Clock, num_batches: int = 4) -> None:
        self.clock, self._num_batches = clock, num_batches
        self._others, self._rounds = others, rounds
        self.taken: dict[str, list[float]] = {}
        self.peaks: dict[str, int] = {}
        length = f"--trainer.max_steps={self.num_blocks * BLOCK + 1}"
        always = [length, "--data.num_workers=0", "--trainer.limit_val_batches=0", "--monitor=null"]
        with redirect_stdout(StringIO()):
            super().__init__(["fit", *options, *always])

    @override
    def before_fit(self) -> None:
        super().before_fit()
        self.datamodule.setup("fit")
        batches = list(islice(self.datamodule.train_dataloader(), self._num_batches))
        loader = _Turns(self, batches)
        self.datamodule.train_dataloader = lambda: loader

    def turns(self, batches: list[ClipBatch]) -> Iterator[ClipBatch]:
        """Batches for the fit: blocks that do not count, that count, and that memory is measured over."""
        loops: Mapping[str, Steps] = {}
        endless = cycle(batches)
        for number in range(self.num_blocks):
            block = list(islice(endless, BLOCK))
            is_last = number == self.num_blocks - 1
            with _Block(self, FIT, number, is_last):
                yield from block
            loops = loops or self._others(self, batches)
            for name, steps in list(loops.items())[:: 1 if number % 2 else -1]:
                with _Block(self, name, number, is_last):
                    steps(block)
        yield batches[0]  # asked for when the last block is over

    @property
    def num_blocks(self) -> int:
        """Of the fit."""
        return self._rounds + 2


class _Turns:
    """The loader of such a fit."""

    def __init__(self, fit: FitInTurns, batches: list[ClipBatch]) -> None:
        self._fit, self._batches = fit, batches

    def __len__(self) -> int:
        return self._fit.num_blocks * BLOCK + 1

    def __iter__(self) -> Iterator[ClipBatch]:
        return self._fit.turns(self._batches)


class _Block:
    """Keeps the time of a block, or the memory of the last one; the first counts for nothing."""

    def __init__(self, fit: FitInTurns, name: str, number: int, is_last: bool) -> None:
        self._fit, self._name, self._number, self._is_last = fit, name, number, is_last

    def __enter__(self) -> None:
        self._before = _start_peak() if self._is_last else None
        self._began = self._fit.clock()

    def __exit__(self, *error: object) -> None:
        seconds = self._fit.clock() - self._began
        if self._before is not None:
            self._fit.peaks[self._name] = _memory("VmHWM") - self._before
        elif self._number and not self._is_last:
            self._fit.taken.setdefault(self._name, []).append(seconds)


def _start_peak() -> int | None:
    """Bytes held now, from which peaks count anew; None where the system does not tell."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    return _memory("VmRSS")


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
