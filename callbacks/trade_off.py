"""Accuracy against cost over thresholds of early exits: `trade_off.json`, the same as CSV, a picture and a table."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from callbacks.all_ranks import gather_objects
from datamodules.clip import ClipBatch, LazyClipBatch
from datamodules.clip_dataset import ClipDataset
from datamodules.index_cache import IndexCache
from datamodules.lazy_clip_dataset import LazyClipDataset
from datamodules.whole_file import open_whole
from lightning_modules.analysis.efficiency import exit_costs
from lightning_modules.analysis.exit_seconds import seconds_to_exits
from lightning_modules.analysis.published_trade_off import published_points
from lightning_modules.analysis.trade_off import (
    ExitCosts,
    MeasuredTradeOff,
    NetworkPoint,
    OperatingPoint,
    choose_threshold,
    sweep,
)
from lightning_modules.analysis.trade_off_plot import draw_trade_off
from lightning_modules.analysis.trade_off_table import table_of, write_table
from lightning_modules.metrics import hard_labels
from lightning_modules.networks.early_exit import FINAL, EarlyExitNetwork, EarlyExitNetworks
from lightning_modules.weighted_inference import WeightedInferenceModule

TIMED_ROUNDS = 3


@dataclass(frozen=True)
class _Evaluation:
    """Indices and labels (N,) int64, logits (K, N, C) float32 of each exit alone, on the CPU; N may be 0."""

    indices: Tensor
    labels: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, batch: ClipBatch, exit_logits: Tensor) -> "_Evaluation":
        return cls(batch.indices.cpu(), hard_labels(batch.labels).cpu(), exit_logits.float().cpu())

    @classmethod
    def joined(cls, parts: Sequence["_Evaluation"]) -> "_Evaluation":
        """By index."""
        indices, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("indices", "labels"))
        order = indices.argsort(stable=True)
        return cls(indices[order], labels[order], torch.cat([part.logits for part in parts], dim=1)[:, order])


class TradeOff(pl.Callback):
    """Sweeps the threshold of a `WeightedInferenceModule` over the test split that `test` has read anyway.

    Writes into the run directory `trade_off.json`, `trade_off.csv` (accuracy, multiply-adds and seconds of a video and
    the fraction that leaves at each exit, by threshold) and `trade_off.png`. The threshold to use is chosen on the
    validation split, which is read for that as the test split is, and only then applied to the test split.

    Seconds are of lazy inference in this process, decoding and the index of the file included: videos of the test
    split go through all exits in batches of the test, those of single networks from their own streams alone. Each step
    counts as in the fastest of three rounds. That batches shrink is left out; a test with `data.init_args.lazy: true`
    measures one threshold with it (`exits.json`). Such a test cannot be swept, and leaves the files alone.

    Over segments: `test` with other `data.init_args.num_segments`, each into its own `run_dir`, with the same
    `ckpt_path`; `streamkd trade-off` puts the runs side by side.

    Runs on `setup`, `on_test_start`, `on_test_batch_end` and `on_test_end`; on all ranks but for seconds, which rank
    zero measures while the others wait.

    Args:
        max_loss: points (hundredths) of validation accuracy that the choice of a threshold may lose.
        timed_videos: on which seconds are measured, spread evenly over the test split; 0: they are not.
    """

    def __init__(self, *, max_loss: float = 0.5, timed_videos: int = 96) -> None:
        if not max_loss >= 0 or timed_videos < 0:
            raise ValueError(f"expected `max_loss` and `timed_videos` >= 0, came {max_loss} and {timed_videos}")
        self.max_loss = max_loss
        self.timed_videos = timed_videos
        self._parts: list[_Evaluation] = []
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._num_views = 1

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not isinstance(pl_module, WeightedInferenceModule):
            raise ValueError(
                f"TradeOff is for WeightedInferenceModule, came {type(pl_module).__name__}; take it out of "
                "`trainer.callbacks`"
            )

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._parts = []

    @override
    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if outputs.exit_logits is None or not len(batch):
            return
        self._shapes = {stream: tuple(clips.shape[1:]) for stream, clips in batch.streams.items()}
        self._num_views = batch.num_views
        self._parts.append(_Evaluation.of(batch, outputs.exit_logits))

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, WeightedInferenceModule)
        test = _gather(self._parts, trainer)
        if not len(test) or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        validation = _gather(_evaluate(trainer, pl_module), trainer)
        if trainer.is_global_zero:
            measured = self._measure(trainer, pl_module, test, validation)
            write_trade_off(Path(trainer.default_root_dir), measured)
        trainer.strategy.barrier("trade-off")

    def _measure(
        self,
        trainer: pl.Trainer,
        module: WeightedInferenceModule,
        test: _Evaluation,
        validation: _Evaluation,
    ) -> MeasuredTradeOff:
        timer = _Timer(trainer, test.indices, self.timed_videos)
        costs = self._costs(timer, module.networks, module.weights)
        weights = module.weights.cpu()
        points = {split: _sweep(found, weights, costs) for split, found in {"val": validation, "test": test}.items()}
        return MeasuredTradeOff(
            exit_names=list(module.networks.exit_names),
            num_segments=next(iter(self._shapes.values()))[0],
            num_views=self._num_views,
            num_videos=len(test),
            timed_videos=len(timer),
            timed_batch=timer.batch_size,
            max_loss=self.max_loss,
            chosen=choose_threshold(points["val"], self.max_loss) if points["val"] else None,
            validation=points["val"],
            test=points["test"],
            networks=self._single_networks(timer, module.networks, test),
            data_set=type(getattr(_datamodule(trainer), "annotations", None)).__name__,
        )

    def _costs(self, timer: "_Timer", networks: EarlyExitNetworks, weights: Tensor) -> ExitCosts:
        multiply_adds = exit_costs(networks, self._shapes, num_views=self._num_views)
        return ExitCosts(multiply_adds, timer.seconds(networks, weights))

    def _single_networks(
        self, timer: "_Timer", networks: EarlyExitNetworks, test: _Evaluation
    ) -> dict[str, NetworkPoint]:
        """Each network without internal classifiers, with its accuracy in the reads of the test."""
        points = {}
        for stream, network in networks.networks.items():
            alone = EarlyExitNetworks({stream: EarlyExitNetwork(network.backbone, {})}).eval()  # type: ignore[arg-type]
            costs = self._costs(timer, alone, torch.ones(1, 1, device=_device(networks)))
            is_right = test.logits[networks.exit_names.index(f"{stream}/{FINAL}")].argmax(dim=1) == test.labels
            seconds = None if costs.seconds is None else costs.seconds[-1]
            points[stream] = NetworkPoint(float(is_right.double().mean()), costs.multiply_adds[-1], seconds)
        return points


def write_trade_off(folder: Path, measured: MeasuredTradeOff) -> None:
    """Write JSON, CSV and picture, each whole, and print a table.

    Args:
        folder: the run directory.
        measured: what to write.
    """
    with open_whole(folder / "trade_off.json") as file:
        json.dump(measured.to_record(), file, indent=1, ensure_ascii=False)
    with open_whole(folder / "trade_off.csv") as file:
        write_table(file, {folder.name: measured})
    with open_whole(folder / "trade_off.png", "wb") as file:
        draw_trade_off(measured, published_points(measured.data_set)).savefig(file, format="png", dpi=150)
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table_of({folder.name: measured}))


class _Timer:
    """Measures ensembles on some of the videos that the test could read.

    Args:
        trainer: of the test.
        indices: of those videos.
        count: how many of them; fewer where there are not as many, none of data that cannot be read lazily.
    """

    def __init__(self, trainer: pl.Trainer, indices: Tensor, count: int) -> None:
        loader = _test_loader(trainer)
        self.dataset = loader.dataset if isinstance(loader.dataset, ClipDataset) else None
        count = 0 if self.dataset is None else min(count, len(indices))
        self.indices = [int(indices[(2 * place + 1) * len(indices) // (2 * count)]) for place in range(count)]
        self.batch_size = max(1, min(loader.batch_size or 1, count))

    def __len__(self) -> int:
        return len(self.indices)

    def seconds(self, networks: EarlyExitNetworks, weights: Tensor) -> list[float] | None:
        """Of a video to each exit, None if there are no videos."""
        if not self.indices:
            return None
        rounds = (self._batches(list(networks.networks), weights.device) for _ in range(TIMED_ROUNDS))
        return seconds_to_exits(networks, weights, rounds).tolist()

    def _batches(self, streams: Sequence[str], device: torch.device) -> Iterator[LazyClipBatch]:
        assert self.dataset is not None
        dataset = _lazily(self.dataset, streams)
        for start in range(0, len(self), self.batch_size):
            indices = self.indices[start : start + self.batch_size]
            yield dataset.collate([dataset[index] for index in indices]).to(device)


def _lazily(dataset: ClipDataset, streams: Sequence[str]) -> LazyClipDataset:
    """Videos whose indices nobody keeps in memory, of these streams alone."""
    reader = dataset.reader.narrowed(streams)
    source = replace(reader.source, indices=IndexCache(reader.source.indices.directory))
    return LazyClipDataset(ClipDataset(dataset.records, replace(reader, source=source)))


def _evaluate(trainer: pl.Trainer, module: WeightedInferenceModule) -> Iterator[_Evaluation]:
    """This rank's share of the validation split, as the test reads videos; nothing where there is no such split."""
    for batch in _validation_batches(trainer):
        # Onto the device, and normalised by the hooks; what cannot be read is left out here, and `validate` lists it.
        found = trainer.strategy.batch_to_device(replace(batch, failures=[]))
        if len(found):
            yield _Evaluation.of(found, module.exit_logits(found))


def _validation_batches(trainer: pl.Trainer) -> Iterable[Any]:
    datamodule = _datamodule(trainer)
    if datamodule is None:
        return []
    datamodule.setup("validate")
    loader, test = datamodule.val_dataloader(), _test_loader(trainer)
    if not isinstance(loader.dataset, ClipDataset) or not isinstance(test.dataset, ClipDataset):
        return loader
    known = loader.dataset
    dataset = ClipDataset(known.records, test.dataset.reader, num_classes=known.num_classes)
    options: Any = {"num_workers": test.num_workers, "collate_fn": dataset.collate}
    return DataLoader(dataset, test.batch_size, sampler=loader.sampler, **options)


def _datamodule(trainer: pl.Trainer) -> Any:
    return getattr(trainer, "datamodule", None)


def _test_loader(trainer: pl.Trainer) -> DataLoader:
    loaders: Any = trainer.test_dataloaders
    return loaders[0] if isinstance(loaders, list) else loaders


def _device(networks: EarlyExitNetworks) -> torch.device:
    return next(networks.parameters()).device


def _gather(parts: Iterable[_Evaluation], trainer: pl.Trainer) -> _Evaluation:
    """Those of all ranks."""
    gathered = gather_objects(list(parts), trainer.world_size)
    nothing = torch.empty(0, dtype=torch.int64)
    joined = [part for some in gathered for part in some]
    return _Evaluation.joined(joined) if joined else _Evaluation(nothing, nothing, torch.empty(0, 0, 0))


def _sweep(found: _Evaluation, weights: Tensor, costs: ExitCosts) -> list[OperatingPoint]:
    return sweep(found.logits, found.labels, weights, costs) if len(found) else []
