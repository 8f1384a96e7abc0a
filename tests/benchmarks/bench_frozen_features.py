"""Time of an epoch of progressive distillation from stored features, as ratios within a round, interleaved.

It is compared with what is left to compute, a plain loop over the same features in memory in which the classifiers run
forward and backward and the optimizer steps; and with an epoch that reads the videos and runs the networks. Epochs are
those of a Trainer, without its start. Networks, batches and clips are those of `configs/demo/pkd.yaml`. Run by
`make bench-features`.
"""

import argparse
import logging
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from bench_distillation import CHANNELS, classifiers_of, demo_networks
from interleaved import in_turns, over, quartiles
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from callbacks import ProgressiveStages
from callbacks.frozen_features import FrozenFeatures
from datamodules.annotations import ClassFolders
from datamodules.compressed_video import CompressedVideoDataModule
from datamodules.demo import make_demo_data
from lightning_modules.analysis.hardware import device_name, versions
from lightning_modules.exit_networks import ExitNetworks
from lightning_modules.freed_memory import keep_freed_memory
from lightning_modules.losses import soft_target_cross_entropy
from lightning_modules.networks import EarlyExitNetworks
from lightning_modules.networks.channels_last import store_channels_last
from lightning_modules.progressive_distillation import ProgressiveDistillationModule


class Stopwatch(Callback):
    """Adds up the seconds of training epochs."""

    def __init__(self) -> None:
        self.seconds, self._began = 0.0, 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._began = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._began


class Epoch:
    """An epoch of the demo's distillation in three ways, on the same networks."""

    def __init__(self, root: Path) -> None:
        self.root, self.watch = root, Stopwatch()
        self.networks = demo_networks()
        for network in self.networks.values():
            store_channels_last(network)
        self.optimizer = torch.optim.Adam(classifiers_of(self.networks))
        self.batches = self._features_in_memory()

    def from_features(self) -> None:
        self._fit(FrozenFeatures(str(self.root / "features")))

    def from_videos(self) -> None:
        self._fit()

    def bare(self) -> None:
        """Adds up its seconds as the others do."""
        self.watch.on_train_epoch_start()
        for features in self.batches:
            students = [
                classifier(features[f"{stream}/{name}"])
                for stream, network in self.networks.items()
                for name, classifier in network.classifiers.items()
            ]
            teacher = features["iframe/final"].flatten(1)
            self.optimizer.zero_grad()
            soft_target_cross_entropy(torch.stack(students, dim=1), teacher[:, None].expand(-1, 9, -1)).sum().backward()
            self.optimizer.step()
        self.watch.on_train_epoch_end()

    def _features_in_memory(self) -> list[dict[str, Tensor]]:
        data = self._fit(FrozenFeatures(str(self.root / "features")))
        return [batch.streams for batch in data.train_dataloader()]

    def _fit(self, *callbacks: Callback) -> CompressedVideoDataModule:
        module = ProgressiveDistillationModule(dict.fromkeys(CHANNELS, ""), ProgressiveStages(["iframe"]))
        module.adopt(ExitNetworks(EarlyExitNetworks(self.networks), {}, [], {}))
        options: dict[str, Any] = {"size": 112, "scales": [0.875], "batch_size": 24, "num_workers": 1}
        annotations = ClassFolders(str(self.root / "videos"))
        data = CompressedVideoDataModule(annotations, [*CHANNELS], augment=False, shuffle=True, **options)
        trainer = Trainer(
            default_root_dir=self.root,
            accelerator="cpu",
            max_epochs=1,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[self.watch, *callbacks],
        )
        with redirect_stdout(StringIO()):
            trainer.fit(module, data)
        return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--videos", type=int, default=480, help="for training")
    arguments = parser.parse_args()
    keep_freed_memory()
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    console = Console(width=110)
    cpu = torch.device("cpu")
    console.print(f"{device_name(cpu)}; {versions(cpu)}; {arguments.videos} videos, {arguments.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        make_demo_data(Path(folder, "videos"), num_train=arguments.videos, num_val=12, num_test=12)
        epoch = Epoch(Path(folder))
        jobs = {"videos": epoch.from_videos, "features": epoch.from_features, "bare": epoch.bare}
        taken = in_turns(jobs, arguments.rounds, clock=lambda: epoch.watch.seconds, name="epochs")
    table = Table("an epoch from stored features, over", "ratio", "quartiles")
    table.add_row("what is left to compute, in memory", *quartiles(over(taken, "bare")["features"]))
    table.add_row("an epoch from videos", *quartiles(over(taken, "videos")["features"]))
    console.print(table)


if __name__ == "__main__":
    main()
