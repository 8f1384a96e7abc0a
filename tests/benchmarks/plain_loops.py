"""Training steps as one would write them in plain PyTorch, each on a copy of a module's networks and optimizer.

`step` does what the module's fit does to a batch of uint8 clips: normalise, forward, loss, backward, optimizer, means
of loss and accuracy. `pure` is forward and backward alone, on clips that are normalised already.
"""

from collections.abc import Mapping
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from datamodules.clip import ClipBatch
from datamodules.transforms import normalise
from lightning_modules.cross_resolution import CrossResolutionModule
from lightning_modules.distillation import DistillationModule
from lightning_modules.networks.early_exit import EarlyExitNetworks
from lightning_modules.progressive_distillation import ProgressiveDistillationModule
from lightning_modules.recognition import RecognitionModule

Clips = Mapping[str, Tensor]


class PlainRecognition:
    """One network, cross-entropy.

    Args:
        module: whose network is copied.
        optimizer: of that network; copied too.
    """

    def __init__(self, module: RecognitionModule, optimizer: Optimizer) -> None:
        self.network, self.optimizer = deepcopy((module.network, optimizer))
        self.stream = module.stream
        self.totals = torch.zeros(2)

    def clips(self, batch: ClipBatch) -> Clips:
        """What networks see."""
        return {self.stream: normalise(self.stream, batch.streams[self.stream])}

    def step(self, batch: ClipBatch) -> None:
        """A training step on a batch as workers send it."""
        loss, logits = self.loss(self.clips(batch), batch.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        right = (logits.argmax(dim=1) == batch.labels).float().mean()
        self.totals += torch.stack([loss.detach(), right])

    def pure(self, clips: Clips, labels: Tensor) -> None:
        """Forward and backward."""
        self.optimizer.zero_grad()
        self.loss(clips, labels)[0].backward()

    def loss(self, clips: Clips, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(), and logits (B, num_classes)."""
        logits = self.network(clips[self.stream])
        return F.cross_entropy(logits, labels), logits


class PlainDistillation(PlainRecognition):
    """A network that learns features of a frozen teacher too: ResKD's last maps, IP TSN's pooled ones."""

    def __init__(self, module: DistillationModule, optimizer: Optimizer) -> None:
        super().__init__(module, optimizer)
        assert module.teacher is not None
        self.teacher, self.teacher_stream = module.teacher.network, module.teacher_stream
        self.weight = module.matchings[0].weight
        self.is_pooled = not isinstance(module, CrossResolutionModule)

    def clips(self, batch: ClipBatch) -> Clips:
        teacher = normalise(self.teacher_stream.removesuffix("_high"), batch.streams[self.teacher_stream])
        if self.is_pooled:
            return {**super().clips(batch), self.teacher_stream: teacher}
        student = F.interpolate(teacher.flatten(0, 1), scale_factor=0.5, mode="bilinear", align_corners=False)
        return {self.stream: student.unflatten(0, teacher.shape[:2]), self.teacher_stream: teacher}

    def loss(self, clips: Clips, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            target = self.teacher.forward_features(clips[self.teacher_stream])["layer4"]
        features = self.network.forward_features(clips[self.stream])["layer4"]
        logits = self.network.forward_head(features).mean(dim=1)
        if self.is_pooled:
            distance = F.mse_loss(features.mean(dim=(3, 4)), target.mean(dim=(3, 4)))
        else:
            enlarged = F.interpolate(features.flatten(0, 1), target.shape[-2:], mode="bilinear", align_corners=False)
            distance = F.mse_loss(enlarged, target.flatten(0, 1))
        return F.cross_entropy(logits, labels) + self.weight * distance, logits


class PlainProgressive(PlainRecognition):
    """Internal classifiers of three frozen networks that learn what one of these says."""

    networks: EarlyExitNetworks

    def __init__(self, module: ProgressiveDistillationModule, optimizer: Optimizer) -> None:
        self.networks, self.optimizer = deepcopy((module.networks, optimizer))
        assert module.teacher is not None
        self.charge = module.teacher
        self.totals = torch.zeros(2)

    def clips(self, batch: ClipBatch) -> Clips:
        return {stream: normalise(stream, batch.streams[stream]) for stream in self.networks.networks}

    def loss(self, clips: Clips, labels: Tensor) -> tuple[Tensor, Tensor]:
        students, finals = [], {}
        for stream, network in self.networks.networks.items():
            with torch.no_grad():
                features = network.backbone.forward_features(clips[stream])  # type: ignore[operator, union-attr]
                finals[stream] = network.backbone.forward_head(features["layer4"]).mean(dim=1)  # type: ignore[operator, union-attr]
            students += [classifier(features[name]) for name, classifier in network.classifiers.items()]  # type: ignore[operator, union-attr]
        targets = finals[self.charge].softmax(dim=1)
        loss = torch.stack([F.cross_entropy(logits, targets) for logits in students]).sum()
        return loss, finals[self.charge]


def plain_loop(module: RecognitionModule | ProgressiveDistillationModule, optimizer: Optimizer) -> PlainRecognition:
    """The plain counterpart of a module's fit."""
    if isinstance(module, ProgressiveDistillationModule):
        return PlainProgressive(module, optimizer)
    kind = PlainDistillation if isinstance(module, DistillationModule) else PlainRecognition
    return kind(module, optimizer)  # type: ignore[arg-type]
