"""Time of cross-resolution distillation: a step, and inference of ResNet-50 by resolution; in one process, interleaved.

A step of `CrossResolutionModule` is compared with the teacher's forward pass without gradients and a step of the
student by labels alone. Inference at each resolution is compared with that at 224 pixels, beside the ratio of
multiply-adds. Run by `make bench-resolution`.
"""

import argparse
import platform
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from interleaved import quartiles, ratios
from random_batch import random_batch
from rich.console import Console
from rich.table import Table
from torch import nn

from datamodules.clip import ClipBatch
from lightning_modules.analysis.cost import cost_of
from lightning_modules.checkpoints import build_network, load_network
from lightning_modules.cross_resolution import CrossResolutionModule
from lightning_modules.freed_memory import keep_freed_memory
from lightning_modules.frozen_teacher import FrozenTeacher
from lightning_modules.networks import resnet50
from lightning_modules.recognition import RecognitionModule

SIDES = (144, 112, 96, 72, 56)
Config = dict[str, Any]


def config_of(name: str, **options: Any) -> Config:
    return {"class_path": f"lightning_modules.networks.{name}", "init_args": {"num_classes": 12, **options}}


def clips_of(batch_size: int, frames: int, low: int) -> ClipBatch:
    """Both views."""
    return random_batch(batch_size, frames, {"rgb": (3, low), "rgb_high": (3, 2 * low)})


def teacher_of(config: Config, folder: Path) -> FrozenTeacher:
    """A network of random weights, as a run leaves it."""
    state = {f"network.{name}": value for name, value in build_network(config).state_dict().items()}
    hyper_parameters = {"network": config, "stream": "rgb"}
    checkpoint = {"hyper_parameters": hyper_parameters, "pytorch-lightning_version": "", "state_dict": state}
    torch.save(checkpoint, folder / "teacher.ckpt")
    return FrozenTeacher(load_network(str(folder / "teacher.ckpt")))


class Step:
    """A distillation step, and its necessary parts."""

    def __init__(self, config: Config, batch: ClipBatch, folder: Path) -> None:
        self.batch = batch
        self.alone = self._trained(RecognitionModule(build_network(config), "rgb"))
        self.distilled = self._trained(CrossResolutionModule(build_network(config), "rgb", ""))
        self.distilled[0].teacher = teacher_of(config, folder)

    @staticmethod
    def _trained(module: Any) -> tuple[Any, torch.optim.Optimizer]:
        module.train().to(memory_format=torch.channels_last)
        return module, torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)

    def ours(self) -> None:
        self._step(*self.distilled)

    def necessary(self) -> None:
        self.distilled[0].teacher(self.batch.streams["rgb_high"])
        self._step(*self.alone)

    def _step(self, module: Any, optimizer: torch.optim.Optimizer) -> None:
        loss = module.training_step(self.batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def inference(network: nn.Module, clip: torch.Tensor) -> None:
    with torch.inference_mode():
        network(clip)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    keep_freed_memory()
    torch.manual_seed(0)
    console = Console(width=110)
    versions = f"{torch.get_num_threads()} threads; torch {torch.__version__}; {rounds} rounds"
    console.print(f"{platform.processor() or platform.machine()}, {versions}")
    steps = Table("a distillation step", "ratio", "quartiles", title="over teacher's forward and student's step")
    with TemporaryDirectory() as folder:
        for name, config, batch in (
            ("demo: ResNet-10 of width 16, 112 to 56, 24 x 3", config_of("resnet10", width=16), (24, 3, 56)),
            ("ResNet-50 to itself, 224 to 112, 2 x 4", config_of("resnet50"), (2, 4, 112)),
        ):
            step = Step(config, clips_of(*batch), Path(folder))
            steps.add_row(name, *quartiles(ratios(step.ours, step.necessary, rounds, name)))
    console.print(steps)
    network = resnet50(200).eval().to(memory_format=torch.channels_last)
    clips = {side: torch.randn(1, 8, 3, side, side) for side in (224, *SIDES)}
    costs = {side: cost_of(network, clip).total for side, clip in clips.items()}
    sides = Table("side", "multiply-adds", "time", "quartiles", title="ResNet-50, 8 frames: over 224 pixels")
    for side in SIDES:
        jobs = (partial(inference, network, clips[side]), partial(inference, network, clips[224]))
        sides.add_row(str(side), f"{costs[side] / costs[224]:.3f}", *quartiles(ratios(*jobs, rounds, str(side))))
    console.print(sides)


if __name__ == "__main__":
    main()
