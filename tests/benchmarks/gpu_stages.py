"""Training steps of every method on one device, in several ways to compute: precision, memory layout, compilation."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from random_batch import random_batch

from callbacks.compiled import Compiled
from datamodules.clip import ClipBatch
from lightning_modules.checkpoints import TrainedNetwork
from lightning_modules.cross_resolution import CrossResolutionModule
from lightning_modules.exit_networks import ExitNetworks
from lightning_modules.flow_distillation import FlowDistillationModule
from lightning_modules.frozen_teacher import FrozenTeacher
from lightning_modules.networks import EarlyExitNetwork, EarlyExitNetworks, resnet10, resnet18, resnet50
from lightning_modules.networks.backbone import Backbone
from lightning_modules.networks.channels_last import store_channels_last
from lightning_modules.progressive_distillation import ProgressiveDistillationModule
from lightning_modules.recognition import RecognitionModule


@dataclass(frozen=True)
class Way:
    """How a step is computed.

    Args:
        bf16: by autocast, as the Trainer's `bf16-mixed`.
        channels_last: weights in memory, as by `callbacks.channels_last.ChannelsLast`.
        compiled: stages of networks, as by `callbacks.compiled.Compiled`.
    """

    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False

    def apply(self, module: pl.LightningModule) -> None:
        """Prepares a module and its teacher in place, as callbacks do."""
        if self.channels_last:
            store_channels_last(module)
        if self.compiled:
            Compiled().apply(module)

    def precision(self, device: torch.device) -> AbstractContextManager:
        return torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext()


WAYS = {
    "float32": Way(),
    "bf16": Way(bf16=True),
    "bf16, channels last": Way(bf16=True, channels_last=True),
    "bf16, channels last, compiled": Way(bf16=True, channels_last=True, compiled=True),
}


class Stage:
    """A module's training step on a batch that is on the device already.

    Args:
        module: with its networks.
        streams: channels and side by stream.
        batch_size: videos.
        num_segments: frames of each.
        way: how it is computed.
        device: where.
    """

    def __init__(
        self,
        module: RecognitionModule | ProgressiveDistillationModule,
        streams: Mapping[str, tuple[int, int]],
        batch_size: int,
        num_segments: int,
        way: Way,
        device: torch.device,
    ) -> None:
        self._module, self._way, self.device = module.to(device).train(), way, device
        if isinstance(teacher := getattr(module, "teacher", None), FrozenTeacher):
            teacher.to(device)
        way.apply(module)
        self._optimizer = torch.optim.SGD((p for p in module.parameters() if p.requires_grad), lr=1e-3, momentum=0.9)
        self._batch = random_batch(batch_size, num_segments, streams).to(device)

    def step(self, batch: ClipBatch | None = None) -> None:
        """Forward, loss, backward and the optimizer's step, until the device is done; on another batch, if given."""
        with self._way.precision(self.device):
            loss = self._module.training_step(batch or self._batch, 0)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Args:
        small: network of vectors and residuals, of so many classes and channels.
        large: network of frames.
        side: pixels; of ResKD's teacher, whose student sees half.
        batch_size: videos.
        num_segments: frames of each.
    """

    small: Callable[[int, int], Backbone]
    large: Callable[[int, int], Backbone]
    side: int
    batch_size: int
    num_segments: int = 3

    def maker(self, stream: str) -> Callable[[int, int], Backbone]:
        """Of the network of a stream."""
        return self.large if stream == "iframe" else self.small


PAPERS = Sizes(resnet18, resnet50, side=224, batch_size=32)
TINY = Sizes(partial(resnet10, width=8), partial(resnet10, width=8), side=32, batch_size=2)
NUM_CLASSES = 101
CHANNELS = {"mv": 2, "residual": 3, "iframe": 3}


def stages(sizes: Sizes, way: Way, device: torch.device) -> dict[str, Stage]:
    """One of each method."""
    side, half = sizes.side, sizes.side // 2
    modules: dict[str, tuple[Any, Mapping[str, tuple[int, int]]]] = {
        **{stream: (recognition(sizes, stream), {stream: (CHANNELS[stream], side)}) for stream in CHANNELS},
        "PKD": (progressive(sizes), {stream: (channels, side) for stream, channels in CHANNELS.items()}),
        "ResKD": (cross_resolution(sizes), {"rgb": (3, half), "rgb_high": (3, side)}),
        "IP TSN's P-stream": (flow_distillation(sizes), {"mv+residual": (5, side), "flow": (2, side)}),
    }
    return {
        name: Stage(module, streams, sizes.batch_size, sizes.num_segments, way, device)
        for name, (module, streams) in modules.items()
    }


def recognition(sizes: Sizes, stream: str) -> RecognitionModule:
    return RecognitionModule(sizes.maker(stream)(NUM_CLASSES, CHANNELS[stream]), stream)


def progressive(sizes: Sizes) -> ProgressiveDistillationModule:
    networks = {s: EarlyExitNetwork(sizes.maker(s)(NUM_CLASSES, channels)) for s, channels in CHANNELS.items()}
    module = ProgressiveDistillationModule(dict.fromkeys(networks, ""))
    module.adopt(ExitNetworks(EarlyExitNetworks(networks), {}, [], {}))
    module.teacher = "iframe"
    return module


def cross_resolution(sizes: Sizes) -> CrossResolutionModule:
    module = CrossResolutionModule(sizes.large(NUM_CLASSES, 3), "rgb", "")
    module.teacher = frozen(sizes.large(NUM_CLASSES, 3), "rgb")
    return module


def flow_distillation(sizes: Sizes) -> FlowDistillationModule:
    module = FlowDistillationModule(sizes.small(NUM_CLASSES, 5), "mv+residual", "")
    module.teacher = frozen(sizes.small(NUM_CLASSES, 2), "flow")
    return module


def frozen(network: Backbone, stream: str) -> FrozenTeacher:
    return FrozenTeacher(TrainedNetwork(network.eval().requires_grad_(False), {}, stream, [], False))
