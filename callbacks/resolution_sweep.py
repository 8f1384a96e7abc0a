"""Metric, cost and throughput over resolutions of what a trained network sees: JSON, CSV, a picture and a table."""

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from typing_extensions import override

from callbacks.all_ranks import gather_objects
from datamodules.whole_file import open_whole
from lightning_modules.agreement import stream_of
from lightning_modules.analysis.published_resolutions import published_resolutions
from lightning_modules.analysis.resolution_plot import draw_resolutions
from lightning_modules.analysis.resolution_sweep import (
    SIZES,
    TREATMENTS,
    MeasuredResolutions,
    ResolutionPoint,
    Treatment,
    costs_of,
    treat,
)
from lightning_modules.analysis.resolution_table import conditions_of, table_of, write_table
from lightning_modules.analysis.throughput import Throughput, measure_throughput
from lightning_modules.console_table import print_table
from lightning_modules.metrics import ClassificationMetrics
from lightning_modules.networks.resize import resized_shape

NEEDED = ("network", "stream", "test_metrics")


class ResolutionSweep(pl.Callback):
    """Tests a trained network on lower resolutions of the test split that `test` reads anyway.

    Each batch is resized as the network sees it, normalised: to each size (``native``), and from there up to the full
    size again (``upsampled``). Writes ``resolution_sweep.json``, ``.csv`` and ``.png`` into the run directory, and
    prints a table; points of the paper and its competitors stand beside on data sets that are theirs.

    The network keeps the weights that it has got at the full size. What training at each size gives, as in the paper's
    figures, is a run each (``--data.init_args.size``), which `streamkd resolutions` puts side by side.

    For modules with one ``network`` on one ``stream`` and ``test_metrics``, which classify a batch when they are
    called, such as `RecognitionModule`. Runs on `setup`, `on_test_start`, `on_test_batch_end` and `on_test_end`; on all
    ranks but for throughput, which rank zero measures while the others wait.

    Args:
        sizes: short sides in pixels. Those above the stream's own are left out; its own is always there.
        timed_batch: videos at a time in the measurement of throughput, whose shapes are those of the test; 0: none.
    """

    def __init__(self, *, sizes: Sequence[int] = SIZES, timed_batch: int = 8) -> None:
        if not sizes or min(sizes) < 1 or timed_batch < 0:
            raise ValueError(
                f"expected `sizes` of 1 pixel or more and `timed_batch` >= 0, came {list(sizes)} and {timed_batch}"
            )
        self.sizes = tuple(sizes)
        self.timed_batch = timed_batch
        self._metrics: dict[tuple[Treatment, int], ClassificationMetrics] = {}
        self._clip: tuple[int, ...] = ()
        self._num_views = 1

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        lacking = [name for name in NEEDED if not hasattr(pl_module, name)]
        if lacking:
            raise ValueError(
                f"ResolutionSweep is for modules with {', '.join(NEEDED)}, such as RecognitionModule; "
                f"{type(pl_module).__name__} has no {', '.join(lacking)}; take it out of `trainer.callbacks`"
            )

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._metrics, self._clip = {}, ()

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
        if not len(batch):
            return
        module = cast(Any, pl_module)
        clips = stream_of(batch, module.stream, module.network)
        self._clip, self._num_views = tuple(clips.shape[1:]), batch.num_views
        for treatment, size in self._cases(self._clip):
            streams = {**batch.streams, module.stream: treat(clips, size, treatment)}
            with trainer.precision_plugin.forward_context():
                logits = module(replace(batch, streams=streams))
            # Nobody asks for the loss.
            self._metric(module, treatment, size).update(logits, batch.labels, logits.new_zeros(()))

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A rank without videos takes part in the sums over all.
        seen = [shape for shape in gather_objects((self._clip, self._num_views), trainer.world_size) if shape[0]]
        if not seen or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._clip, self._num_views = seen[0]
        scores = {case: self._metric(pl_module, *case).compute() for case in self._cases(self._clip)}
        if trainer.is_global_zero:
            metrics = cast(ClassificationMetrics, pl_module.test_metrics)
            found = {case: float(values["mAP" if metrics.multi_label else "top1"]) for case, values in scores.items()}
            measured = MeasuredResolutions(
                metric="mAP" if metrics.multi_label else "top1",
                data_set=type(getattr(getattr(trainer, "datamodule", None), "annotations", None)).__name__,
                num_videos=int(next(iter(scores.values()))["num_videos"]),
                points=list(self._points(trainer, pl_module, found)),
            )
            write_resolutions(Path(trainer.default_root_dir) / "resolution_sweep", measured)
        trainer.strategy.barrier("resolution-sweep")

    def _cases(self, clip: Sequence[int]) -> list[tuple[Treatment, int]]:
        """What is tested; at the full size there is nothing to up-sample."""
        full = min(clip[-2:])
        sizes = sorted({size for size in self.sizes if size < full} | {full})
        return [
            (treatment, size) for treatment in TREATMENTS for size in sizes if (treatment, size) != ("upsampled", full)
        ]

    def _metric(self, module: Any, treatment: Treatment, size: int) -> ClassificationMetrics:
        case = treatment, size
        if case not in self._metrics:
            self._metrics[case] = deepcopy(module.test_metrics)
            self._metrics[case].reset()
        return self._metrics[case]

    def _points(
        self, trainer: pl.Trainer, module: Any, scores: dict[tuple[Treatment, int], float]
    ) -> Iterator[ResolutionPoint]:
        full = min(self._clip[-2:])
        scores = scores | {("upsampled", full): scores["native", full]}
        shapes = {size: resized_shape(self._clip, size) for treatment, size in scores if treatment == "native"}
        costs = {size: costs_of(module.network, shape, num_views=self._num_views) for size, shape in shapes.items()}
        with trainer.precision_plugin.forward_context():
            speeds = {size: self._throughput(module, shape) for size, shape in shapes.items()}
        for (treatment, size), score in scores.items():
            computed = size if treatment == "native" else full
            yield ResolutionPoint(
                series=treatment,
                size=size,
                input_size=computed,
                score=score,
                multiply_adds=costs[computed]["multiply_adds"],
                paper=costs[computed]["paper"],
                throughput=speeds[computed],
            )

    def _throughput(self, module: Any, clip: Sequence[int]) -> Throughput | None:
        if not self.timed_batch:
            return None
        clips = torch.zeros(self.timed_batch * self._num_views, *clip, device=module.device, dtype=module.dtype)
        return measure_throughput(module.network, clips, num_views=self._num_views)


def write_resolutions(path: Path, measured: MeasuredResolutions) -> None:
    """Write JSON, CSV and picture, each whole, and print a table.

    Args:
        path: of the files, without what tells them apart.
        measured: what to write.
    """
    with open_whole(path.with_suffix(".json")) as file:
        json.dump(measured.to_record(), file, indent=1)
    with open_whole(path.with_suffix(".csv")) as file:
        write_table(file, measured)
    published = published_resolutions(measured.data_set, measured.metric)
    with open_whole(path.with_suffix(".png"), "wb") as file:
        draw_resolutions(measured, published).savefig(file, format="png", dpi=150)
    print_table(table_of(measured))
    if conditions := conditions_of(measured):
        print(f"throughput: {conditions}", flush=True)
