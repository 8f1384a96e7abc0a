"""Time of progressive distillation, as ratios within a round, interleaved, in one process.

A step is compared with what it has to compute: three forward passes without gradients, and forward and backward
through the nine internal classifiers. A run is compared with three separate ones, one for each network, in which a
network learns from one teacher after the other as in the public code: each loads the streams of its network and of
the teacher in charge in one pass over its videos, and runs both. Run by `make bench-distillation`.
"""

import argparse
import platform
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from interleaved import quartiles, ratios
from random_batch import random_batch
from rich.console import Console
from rich.table import Table

from datamodules.annotations import ClassFolders
from datamodules.clip import ClipBatch
from datamodules.compressed_video import CompressedVideoDataModule
from datamodules.demo import make_demo_data
from datamodules.stream_views import normalise_batch
from lightning_modules.exit_networks import ExitNetworks
from lightning_modules.freed_memory import keep_freed_memory
from lightning_modules.losses import soft_target_cross_entropy
from lightning_modules.networks import EarlyExitNetwork, EarlyExitNetworks, resnet10, resnet18, resnet50
from lightning_modules.progressive_distillation import ProgressiveDistillationModule

CHANNELS = {"mv": 2, "residual": 3, "iframe": 3}
Networks = dict[str, EarlyExitNetwork]


def demo_networks() -> Networks:
    """Those of `configs/demo`."""
    return {s: EarlyExitNetwork(resnet10(12, channels, width=16)) for s, channels in CHANNELS.items()}


def paper_networks() -> Networks:
    """ResNet-18, -18 and -50 with the paper's internal classifiers."""
    backbones = {"mv": resnet18(101, 2), "residual": resnet18(101, 3), "iframe": resnet50(101, 3)}
    layouts = {"mv": "resnet18", "residual": "resnet18", "iframe": "resnet50"}
    return {s: EarlyExitNetwork(backbone, layouts[s]) for s, backbone in backbones.items()}


def clips_of(batch_size: int, side: int) -> ClipBatch:
    """Three frames of each stream."""
    return random_batch(batch_size, 3, {stream: (channels, side) for stream, channels in CHANNELS.items()})


def classifiers_of(networks: Networks) -> list[torch.nn.Parameter]:
    return [p for network in networks.values() for p in network.classifiers.parameters()]


class Distillation:
    """The product's own training step, and an optimizer for it."""

    def __init__(self, networks: Networks) -> None:
        self.module = ProgressiveDistillationModule(dict.fromkeys(networks, ""))
        self.module.adopt(ExitNetworks(EarlyExitNetworks(networks), {}, [], {}))
        self.module.train()
        self.optimizer = torch.optim.Adam(classifiers_of(networks))

    def step(self, batch: ClipBatch, teacher: str) -> None:
        """Forward, loss, backward and the optimizer's step."""
        self.module.teacher = teacher
        loss = self.module.training_step(batch, 0)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Step:
    """A distillation step and its necessary part."""

    def __init__(self, networks: Networks, batch: ClipBatch) -> None:
        self.networks, self.batch = networks, batch
        self.distillation = Distillation(networks)

    def ours(self) -> None:
        self.distillation.step(self.batch, "iframe")

    def necessary(self) -> None:
        """Three forward passes, and the classifiers' forward and backward, without a loss or an optimizer."""
        outputs = []
        for stream, network in self.networks.items():
            with torch.no_grad():
                features = network.backbone.forward_features(self.batch.streams[stream])
                network.backbone.forward_head(features["layer4"])
            outputs += [classifier(features[name]).sum() for name, classifier in network.classifiers.items()]
        self.distillation.optimizer.zero_grad()
        torch.stack(outputs).sum().backward()


class Run:
    """A share of a distillation run, an epoch of each teacher, over the demo's videos."""

    def __init__(self, root: Path, networks: Networks) -> None:
        self.root, self.networks = root, networks

    def ours(self) -> None:
        """One run teaches the exits of all networks."""
        distillation = Distillation(self.networks)
        for teacher in CHANNELS:
            for batch in self._batches([*CHANNELS]):
                distillation.step(batch, teacher)

    def separate(self) -> None:
        """A run for each network; the teacher's stream and forward pass where it is another's."""
        for student in CHANNELS:
            for teacher in CHANNELS:
                self._epoch(student, teacher)

    def _epoch(self, student: str, teacher: str) -> None:
        optimizer = torch.optim.Adam(classifiers_of({student: self.networks[student]}))
        for batch in self._batches(list(dict.fromkeys([student, teacher]))):
            logits = self.networks[student](batch.streams[student])
            targets = logits[:, -1]
            if teacher != student:
                with torch.no_grad():
                    targets = self.networks[teacher].backbone(batch.streams[teacher])
            optimizer.zero_grad()
            soft_target_cross_entropy(logits[:, :-1], targets).sum().backward()
            optimizer.step()

    def _batches(self, streams: list[str]) -> Iterator[ClipBatch]:
        data = CompressedVideoDataModule(
            ClassFolders(str(self.root)), streams, size=112, scales=[0.875], batch_size=24, num_workers=1
        )
        data.setup("fit")
        return map(partial(normalise_batch, data.reader.views), data.train_dataloader())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    keep_freed_memory()
    torch.manual_seed(0)
    console = Console(width=110)
    console.print(
        f"{platform.machine()}, {torch.get_num_threads()} threads; torch {torch.__version__}; {rounds} rounds"
    )
    table = Table("job", "baseline", "ratio", "quartiles")
    demo = Step(demo_networks(), clips_of(24, 112))
    paper = Step(paper_networks(), clips_of(4, 224))
    with tempfile.TemporaryDirectory() as folder:
        make_demo_data(folder, num_train=120, num_val=12, num_test=12)
        run = Run(Path(folder), demo_networks())
        jobs = {
            ("a step, demo", "what it has to compute"): (demo.ours, demo.necessary, rounds),
            ("a step, paper's networks at 224", "what it has to compute"): (paper.ours, paper.necessary, rounds),
            ("a run, demo, loading included", "three separate runs"): (run.ours, run.separate, max(rounds // 2, 2)),
        }
        for (job, baseline), arguments in jobs.items():
            table.add_row(job, baseline, *quartiles(ratios(*arguments, job)))
    console.print(table)


if __name__ == "__main__":
    main()
