"""Training: a step of each module's fit against the same in plain PyTorch, and against forward and backward alone.

Fits are the demo's own, by their configs and with all callbacks, on batches that stay in memory; another at the size of
ResNet-18 on 224 pixels. Blocks of ten steps take turns in one process. Waiting for data is measured in fits of their
own, with the configs' loaders, beside the time of their steps. Run by `make bench`, after `make demo`.
"""

import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

from bench_rows import Effort, Row, row
from fit_in_turns import BLOCK, FIT, FitInTurns, Steps
from interleaved import over
from plain_loops import plain_loop
from typing_extensions import override

from datamodules.clip import ClipBatch
from lightning_modules.trainer_cli import TrainerCLI

PART = "training"
PLAIN, PURE = "plain PyTorch", "forward and backward alone"


class Fit(NamedTuple):
    """One that is measured.

    Args:
        name: in the table.
        options: of the command line.
        rounds: of ten steps.
        target: what the ratio to plain PyTorch is to be at most.
    """

    name: str
    options: Sequence[str]
    rounds: int
    target: float | None = None


def demo(config: str) -> list[str]:
    return [f"--config=configs/demo/{config}.yaml"]


RESNET18 = [
    *demo("iframe"),
    "--model.network=lightning_modules.networks.resnet18",
    "--model.network.width=64",
    "--data.size=224",
    "--data.batch_size=2",
]
FITS = (
    Fit("recognition, demo", demo("iframe"), 24, 1.03),
    Fit("PKD, demo", demo("pkd"), 8, 1.05),
    Fit("ResKD, demo", demo("reskd"), 8),
    Fit("IP TSN's P-stream, demo", demo("p_stream"), 8),
    Fit("recognition, ResNet-18 at 224", RESNET18, 3, 1.02),
)


def loops(cli: TrainerCLI, batches: Sequence[ClipBatch]) -> Mapping[str, Steps]:
    """What takes turns with a fit."""
    plain = plain_loop(cli.model, cli.trainer.optimizers[0])
    ready = [(plain.clips(batch), batch.labels) for batch in batches]

    def steps(block: Sequence[ClipBatch]) -> None:
        for batch in block:
            plain.step(batch)

    def pure(block: Sequence[ClipBatch]) -> None:
        for number in range(len(block)):
            plain.pure(*ready[number % len(ready)])

    return {PLAIN: steps, PURE: pure}


def overhead(fit: Fit, effort: Effort) -> Iterator[Row]:
    """Time and memory of a step, over what else does it."""
    with tempfile.TemporaryDirectory() as folder:
        found = FitInTurns([*fit.options, f"--run_dir={folder}"], loops, effort.rounds(fit.rounds), effort.clock)
    step = f"{1e3 * statistics.median(found.taken[FIT]) / BLOCK:.1f} ms"
    job = f"{fit.name}: a step of fit"
    yield row(PART, job, PLAIN, over(found.taken, PLAIN)[FIT], step, at_most=fit.target)
    yield row(PART, job, PURE, over(found.taken, PURE)[FIT], step)
    if found.peaks:
        peak = f"{found.peaks[FIT] / 1e6:.0f} MB beyond what is held between steps"
        ratio = found.peaks[FIT] / found.peaks[PLAIN]
        yield row(PART, f"{fit.name}: memory at its peak", PLAIN, [ratio], peak)


class Waiting(TrainerCLI):
    """A fit by a config that measures how long it waits for batches.

    Attributes: `shares`, of the time of each block of steps.
    """

    def __init__(self, options: Sequence[str], num_steps: int) -> None:
        self.shares: list[float] = []
        always = [f"--trainer.max_steps={num_steps}", "--trainer.limit_val_batches=0", "--monitor=null"]
        with redirect_stdout(StringIO()):
            super().__init__(["fit", *options, *always])

    @override
    def before_fit(self) -> None:
        super().before_fit()
        make = self.datamodule.train_dataloader
        self.datamodule.train_dataloader = lambda: _Watched(make(), self.shares)


class _Watched:
    """A loader's batches; of every ten steps, the share of the time until the batch was there."""

    def __init__(self, loader: Any, shares: list[float]) -> None:
        self._loader, self._shares = loader, shares

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._loader)
        yield next(batches)  # workers start
        waited, began = 0.0, time.perf_counter()
        for number, (batch, seconds) in enumerate(_timed(batches), start=1):
            waited += seconds
            if number % BLOCK == 0:
                now = time.perf_counter()
                self._shares.append(waited / (now - began))
                waited, began = 0.0, now
            yield batch


def _timed(batches: Iterable[Any]) -> Iterator[tuple[Any, float]]:
    began = time.perf_counter()
    for batch in batches:
        yield batch, time.perf_counter() - began
        began = time.perf_counter()


def waiting(fit: Fit, effort: Effort) -> Row:
    """The share of a fit's time in which it waits for data, by its config's one worker."""
    with tempfile.TemporaryDirectory() as folder:
        num_steps = BLOCK * effort.rounds(4) + 1
        found = Waiting([*fit.options, f"--run_dir={folder}"], num_steps)
    return row(PART, f"{fit.name}: waiting for data, 1 worker", "all time of fit", found.shares)


def measure(effort: Effort) -> Iterator[Row]:
    """All rows of this part."""
    for fit in FITS:
        yield from overhead(fit, effort)
        yield waiting(fit, effort)
