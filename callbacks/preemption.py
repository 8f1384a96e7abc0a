"""A run that is told to stop saves what it has and ends; SLURM is asked to start it again.

Lightning's own handlers do not fit runs that resume to the step: they save in the middle of one, into a file of another
name, and speak to other ranks out of a signal handler, wherever these are.
"""

import os
import signal
import subprocess
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from callbacks.run_checkpoints import RunCheckpoints

STOP, REQUEUE = 1, 2


class Preemption(Checkpoint):
    """After SIGTERM, saves `last.ckpt` at the end of the step, and ends the run; the same command continues it.

    So it does after the signal by which a SLURM job announces its end (SIGUSR1, or the ``requeue_signal`` of the
    plugin ``SLURMEnvironment``), and puts the job back into the queue, unless the plugin says ``auto_requeue: false``.

    Ranks agree at the end of every step: one that was told tells all, who act on it a step later, so that nobody waits
    for a GPU. In a validation, from which nothing can be saved, each rank leaves by itself, and the run goes back to
    its last save. Runs on `on_train_start`, `on_train_batch_end`, after the other callbacks, and
    `on_validation_batch_end`.

    Args:
        checkpoints: saves.
    """

    def __init__(self, checkpoints: RunCheckpoints) -> None:
        self.checkpoints = checkpoints
        self.told = 0
        self._told_by_all = torch.tensor(0)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # In the place of Lightning's, which when the run ends puts back what was there before.
        for number, told in _signals(trainer).items():
            signal.signal(number, self._handler(trainer, told))

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop._should_accumulate():
            return
        told = self._tell_others(trainer)
        self.told = max(self.told, told)
        if told and self.checkpoints.save_within_epoch(trainer, batch_idx):
            self._leave(trainer)

    @override
    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if self.told:
            self._leave(trainer)

    def _handler(self, trainer: pl.Trainer, told: int) -> Any:
        def handle(number: int, frame: FrameType | None) -> None:
            self.told = max(self.told, told)
            if trainer.strategy.launcher is not None:  # to the ranks that this process has started
                trainer.strategy.launcher.kill(number)

        return handle

    def _tell_others(self, trainer: pl.Trainer) -> int:
        """The most that ranks told each other a step ago, the same on all; they do so again, without waiting for it."""
        if trainer.world_size == 1:
            return self.told
        before, self._told_by_all = self._told_by_all, torch.tensor(self.told, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(self._told_by_all, torch.distributed.ReduceOp.MAX)
        return int(before)

    def _leave(self, trainer: pl.Trainer) -> None:
        rank_zero_only(print)(f"told to stop; the same command continues from {self.checkpoints.last}", flush=True)
        if self.told == REQUEUE and trainer.is_global_zero:
            _requeue()
        raise SIGTERMException


def _signals(trainer: pl.Trainer) -> dict[int, int]:
    """What to do by signal."""
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
        return {signal.SIGTERM: STOP, environment.requeue_signal or signal.SIGUSR1: REQUEUE}
    return {signal.SIGTERM: STOP}


def _requeue() -> None:
    """Put this SLURM job, or task of a job array, back into the queue."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"cannot put the job back into the queue: {error}; submit it again", flush=True)
