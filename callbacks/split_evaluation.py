"""What a module with exits answers on a split: logits of each exit alone, of one rank or of all."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.all_ranks import gather_objects
from datamodules.clip import ClipBatch
from datamodules.clip_dataset import ClipDataset
from datamodules.shared_memory_collator import SharedMemoryCollator
from lightning_modules.metrics import hard_labels
from lightning_modules.weighted_inference import WeightedInferenceModule


@dataclass(frozen=True)
class SplitEvaluation:
    """Answers on the CPU; N may be 0.

    Args:
        indices: (N,) int64, positions in the split's list of records.
        labels: (N,) int64.
        logits: (K, N, C) float32, of each exit alone.
    """

    indices: Tensor
    labels: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, batch: ClipBatch, exit_logits: Tensor) -> "SplitEvaluation":
        """The answers (K, B, C) on one batch."""
        return cls(batch.indices.cpu(), hard_labels(batch.labels).cpu(), exit_logits.float().cpu())

    @classmethod
    def gathered(cls, parts: Iterable["SplitEvaluation"], trainer: pl.Trainer) -> "SplitEvaluation":
        """The parts of all ranks as one, by index."""
        joined = [part for some in gather_objects(list(parts), trainer.world_size) for part in some]
        if not joined:
            nothing = torch.empty(0, dtype=torch.int64)
            return cls(nothing, nothing, torch.empty(0, 0, 0))
        return cls._joined(joined)

    @classmethod
    def _joined(cls, parts: Sequence["SplitEvaluation"]) -> "SplitEvaluation":
        indices, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("indices", "labels"))
        order = indices.argsort(stable=True)
        return cls(indices[order], labels[order], torch.cat([part.logits for part in parts], dim=1)[:, order])


def evaluate_validation(trainer: pl.Trainer, module: WeightedInferenceModule) -> Iterator[SplitEvaluation]:
    """This rank's share of the validation split, as the test reads videos; nothing where there is no such split."""
    for batch in _validation_batches(trainer):
        # Onto the device, and normalised by the hooks; what cannot be read is left out here, and `validate` lists it.
        found = trainer.strategy.batch_to_device(replace(batch, failures=[]))
        if len(found):
            with trainer.precision_plugin.forward_context():
                logits = module.exit_logits(found)
            yield SplitEvaluation.of(found, logits)


def test_loader(trainer: pl.Trainer) -> DataLoader:
    """The loader of the test that runs."""
    loaders: Any = trainer.test_dataloaders
    return loaders[0] if isinstance(loaders, list) else loaders


def _validation_batches(trainer: pl.Trainer) -> Iterable[Any]:
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is None:
        return []
    datamodule.setup("validate")
    loader, test = datamodule.val_dataloader(), test_loader(trainer)
    if not isinstance(loader.dataset, ClipDataset) or not isinstance(test.dataset, ClipDataset):
        return loader
    known = loader.dataset
    dataset = ClipDataset(known.records, test.dataset.reader, num_classes=known.num_classes)
    options: Any = {"num_workers": test.num_workers, "collate_fn": SharedMemoryCollator(dataset.collate)}
    return DataLoader(dataset, test.batch_size, sampler=loader.sampler, **options)
