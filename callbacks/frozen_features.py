"""What frozen networks make of videos that are read alike in every epoch, computed once and kept on disk."""

import hashlib
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import av
import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from callbacks.all_ranks import gather_objects
from datamodules.clip import ClipBatch
from datamodules.clip_dataset import ClipDataset
from datamodules.feature_store import FeatureFile, FeatureLayout, FeatureStore, UnreadVideos, key_of
from datamodules.video_data_module import FitPart, VideoDataModule
from datamodules.whole_file import remove_leftovers
from lightning_modules.agreement import stream_of
from lightning_modules.analysis.hardware import device_name, versions
from lightning_modules.networks.early_exit import EarlyExitNetworks
from lightning_modules.progressive_distillation import ProgressiveDistillationModule


class FrozenFeatures(pl.Callback):
    """Lets a ``ProgressiveDistillationModule`` learn from stored features in place of videos, without augmentation.

    ::

        first fit:  videos --> frozen networks --> folder: what classifiers see, logits of the networks' own
        every epoch, any fit on the same videos, networks and depths: folder --> classifiers learn

    Runs on `on_fit_start`, when networks are there and loaders are not. It prints how much there is, and computes what
    the folder lacks, each rank its share. Weights, metrics and checkpoints are those of a fit that reads the videos;
    videos that cannot be read are left out and counted as there. All else reads videos: `validate`, `test`,
    `predict`, and callbacks that look at samples.

    Features are found again by all that they depend on: weights of the networks and depths of the classifiers; videos,
    their sizes and times of change; how the data reads them; batch size, ranks, precision, device and versions.

    Args:
        folder: may serve any number of experiments, of which each has its own files; all ranks must reach it.
        max_gigabytes: what the features of one fit may take there.
    """

    def __init__(self, folder: str, max_gigabytes: float = 8.0) -> None:
        self.folder = Path(folder)
        self.max_gigabytes = max_gigabytes

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the data give features.

        Raises:
            ValueError: data or module are of another kind, clips are augmented, or features need too much room.
        """
        datamodule, module = _checked(trainer, pl_module)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        parts: list[FitPart] = ["train", "val"] if trainer.enable_validation else ["train"]
        loaders = {part: datamodule.every_clip(part) for part in parts}
        files = {part: self._file(trainer, module, loader) for part, loader in loaders.items()}
        self._announce(trainer, list(files.values()))
        datamodule.serve_features({part: _ready(trainer, module, files[part], loaders[part]) for part in parts})

    @torch.no_grad()
    def _file(self, trainer: pl.Trainer, module: ProgressiveDistillationModule, loader: DataLoader) -> FeatureFile:
        dataset, networks = _dataset_of(loader), module.networks
        blank = networks.blank_clips(dataset.reader.shapes)
        with trainer.precision_plugin.forward_context():
            layouts = {name: FeatureLayout.of(maps) for name, maps in networks.features(blank).items()}
        key = key_of(
            dataset,
            networks=_digest(networks),
            configs=_backbone_configs(module),
            layouts={name: asdict(layout) for name, layout in layouts.items()},
            batches=(loader.batch_size, trainer.world_size),
            numbers=(trainer.precision, torch.get_float32_matmul_precision(), device_name(module.device)),
            versions=(versions(module.device), av.__version__),
        )
        # Ranks may differ in their processors' names.
        return FeatureFile(self.folder / f"{trainer.strategy.broadcast(key)}.bin", len(dataset), layouts)

    def _announce(self, trainer: pl.Trainer, files: list[FeatureFile]) -> None:
        count, size = " + ".join(f"{file.num_videos:,}" for file in files), sum(file.num_bytes for file in files)
        text = f"features of {count} videos: {size / 1e9:.3g} GB in {self.folder}"
        if size > 1e9 * self.max_gigabytes:
            raise ValueError(f"FrozenFeatures: {text}, more than `max_gigabytes: {self.max_gigabytes:g}`; raise it")
        trainer.print(text)


def _checked(trainer: pl.Trainer, module: pl.LightningModule) -> tuple[VideoDataModule, ProgressiveDistillationModule]:
    datamodule = getattr(trainer, "datamodule", None)
    if not isinstance(module, ProgressiveDistillationModule) or not isinstance(datamodule, VideoDataModule):
        raise ValueError(
            "FrozenFeatures expects a ProgressiveDistillationModule and a VideoDataModule, came "
            f"{type(module).__name__} and {type(datamodule).__name__}; take it out of `trainer.callbacks`"
        )
    if datamodule.augment:
        raise ValueError(
            "FrozenFeatures expects clips that are the same in every epoch, came augmented ones; set `--data.augment "
            "false`, and `--data.shuffle true` for another order in every epoch"
        )
    return datamodule, module


def _ready(
    trainer: pl.Trainer, module: ProgressiveDistillationModule, file: FeatureFile, loader: DataLoader
) -> FeatureStore:
    """The features of a loader's videos, computed where the folder lacks them; ranks do the same."""
    if not trainer.strategy.broadcast(file.open() is not None):
        _fill(trainer, module, file, loader)
    store = file.open()
    if store is None:
        raise RuntimeError(f"FrozenFeatures: expected a `folder` that all ranks reach, {file.path} is not there")
    return store


def _fill(trainer: pl.Trainer, module: ProgressiveDistillationModule, file: FeatureFile, loader: DataLoader) -> None:
    if trainer.is_global_zero:
        remove_leftovers(file.path.parent)
    with file.made_whole() if trainer.is_global_zero else nullcontext() as made:
        part = Path(trainer.strategy.broadcast(str(made)))
        unread = UnreadVideos.joined(gather_objects(_compute(trainer, module, file, loader, part), trainer.world_size))
    if trainer.is_global_zero:
        file.finish(unread)
    trainer.strategy.barrier("frozen_features")


@torch.no_grad()
def _compute(
    trainer: pl.Trainer, module: ProgressiveDistillationModule, file: FeatureFile, loader: DataLoader, part: Path
) -> UnreadVideos:
    """Writes the features of this rank's share of the videos into a part that ranks share."""
    unread, dataset = UnreadVideos(), _dataset_of(loader)
    with open(part, "r+b") as rows:
        for number, batch in enumerate(loader, 1):
            unread.add(dataset, batch)
            if len(batch):
                file.write(rows, batch.indices.tolist(), _features_of(trainer, module, batch))
            if 10 * number // len(loader) > 10 * (number - 1) // len(loader):
                trainer.print(f"features: {100 * number // len(loader)} % of {len(dataset):,} videos")
    return unread


def _features_of(trainer: pl.Trainer, module: ProgressiveDistillationModule, batch: ClipBatch) -> dict[str, Tensor]:
    # Onto the device, and normalised by the hooks; what cannot be read is counted when an epoch meets it.
    clips = trainer.strategy.batch_to_device(replace(batch, failures=[], corrupt_frames=0 * batch.corrupt_frames))
    networks = module.networks.networks
    with trainer.precision_plugin.forward_context():
        return module.networks.features({stream: stream_of(clips, stream, networks[stream]) for stream in networks})


def _dataset_of(loader: DataLoader) -> ClipDataset:
    assert isinstance(loader.dataset, ClipDataset)
    return loader.dataset


def _digest(networks: EarlyExitNetworks) -> str:
    """Of the frozen weights and buffers."""
    digest = hashlib.sha256()
    for name, value in networks.state_dict().items():
        if ".backbone." in name:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.contiguous().cpu().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _backbone_configs(module: ProgressiveDistillationModule) -> dict[str, Any]:
    assert module.exit_networks is not None
    return {stream: config["init_args"]["backbone"] for stream, config in module.exit_networks.configs.items()}
