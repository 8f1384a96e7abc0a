"""Accuracy against cost over thresholds of early exits: `trade_off.json`, the same as CSV, a picture and a table."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from callbacks.exit_timer import ExitTimer
from callbacks.split_evaluation import SplitEvaluation, evaluate_validation, test_loader
from datamodules.whole_file import open_whole
from lightning_modules.analysis.efficiency import exit_costs
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
from lightning_modules.console_table import print_table
from lightning_modules.networks.early_exit import FINAL, EarlyExitNetwork, EarlyExitNetworks
from lightning_modules.weighted_inference import WeightedInferenceModule


class TradeOff(pl.Callback):
    """Sweeps the threshold of a `WeightedInferenceModule` over the test split that `test` has read anyway.

    Writes into the run directory `trade_off.json`, `trade_off.csv` (accuracy, multiply-adds and seconds of a video and
    the fraction that leaves at each exit, by threshold) and `trade_off.png`. As the fit chooses a
    threshold on its videos, so here one is chosen on the validation split, by the module's `max_loss`; the split is
    read for that as the test split is.

    Seconds are of lazy inference in this process, decoding and the index of the file included: videos of the test
    split go through all exits in batches of the test, those of single networks from their own streams alone. Each step
    counts as in the fastest of three rounds. That batches shrink is left out; a test with `data.init_args.lazy: true`
    measures one threshold with it (`exits.json`). Such a test cannot be swept, and leaves the files alone.

    Over segments: `test` with other `data.init_args.num_segments`, each into its own `run_dir`, with the same
    `ckpt_path`; `streamkd trade-off` puts the runs side by side.

    Runs on `setup`, `on_test_start`, `on_test_batch_end` and `on_test_end`; on all ranks but for seconds, which rank
    zero measures while the others wait.

    Args:
        timed_videos: on which seconds are measured, spread evenly over the test split; 0: they are not.
    """

    def __init__(self, *, timed_videos: int = 96) -> None:
        if timed_videos < 0:
            raise ValueError(f"expected `timed_videos` >= 0, came {timed_videos}")
        self.timed_videos = timed_videos
        self._parts: list[SplitEvaluation] = []
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
        self._parts.append(SplitEvaluation.of(batch, outputs.exit_logits))

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, WeightedInferenceModule)
        test = SplitEvaluation.gathered(self._parts, trainer)
        if not len(test) or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        validation = SplitEvaluation.gathered(evaluate_validation(trainer, pl_module), trainer)
        if trainer.is_global_zero:
            measured = self._measure(trainer, pl_module, test, validation)
            write_trade_off(Path(trainer.default_root_dir), measured)
        trainer.strategy.barrier("trade-off")

    def _measure(
        self,
        trainer: pl.Trainer,
        module: WeightedInferenceModule,
        test: SplitEvaluation,
        validation: SplitEvaluation,
    ) -> MeasuredTradeOff:
        timer = ExitTimer(test_loader(trainer), test.indices, self.timed_videos)
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
            max_loss=module.max_loss,
            chosen=choose_threshold(points["val"], module.max_loss) if points["val"] else None,
            validation=points["val"],
            test=points["test"],
            networks=self._single_networks(timer, module.networks, test),
            data_set=type(getattr(getattr(trainer, "datamodule", None), "annotations", None)).__name__,
        )

    def _costs(self, timer: ExitTimer, networks: EarlyExitNetworks, weights: Tensor) -> ExitCosts:
        multiply_adds = exit_costs(networks, self._shapes, num_views=self._num_views)
        return ExitCosts(multiply_adds, timer.seconds(networks, weights))

    def _single_networks(
        self, timer: ExitTimer, networks: EarlyExitNetworks, test: SplitEvaluation
    ) -> dict[str, NetworkPoint]:
        """Each network without internal classifiers, with its accuracy in the reads of the test."""
        points, device = {}, next(networks.parameters()).device
        for stream, network in networks.networks.items():
            alone = EarlyExitNetworks({stream: EarlyExitNetwork(network.backbone, {})}).eval()  # type: ignore[arg-type]
            costs = self._costs(timer, alone, torch.ones(1, 1, device=device))
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
    print_table(table_of({folder.name: measured}))


def _sweep(found: SplitEvaluation, weights: Tensor, costs: ExitCosts) -> list[OperatingPoint]:
    return sweep(found.logits, found.labels, weights, costs) if len(found) else []
