"""What networks look at: effective receptive fields, and attention over frames, as pictures and data."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from callbacks.spread_videos import Split, read_spread, spread
from datamodules.clip import ClipBatch, parts_of
from datamodules.transforms import num_channels
from datamodules.visualise.colors import motion_colors
from datamodules.whole_file import open_whole
from lightning_modules.agreement import stream_of
from lightning_modules.analysis.attention import attention_of
from lightning_modules.analysis.attention_plot import SeenVideos, draw_attention
from lightning_modules.analysis.receptive_field import (
    THRESHOLD,
    FieldArea,
    area_above,
    depth_of,
    effective_receptive_field,
)
from lightning_modules.analysis.receptive_field_plot import MeasuredField, draw_receptive_fields
from lightning_modules.analysis.receptive_field_table import table_of
from lightning_modules.analysis.target import AnalysisTarget, OffersAnalysisTargets
from lightning_modules.console_table import print_table
from lightning_modules.networks.backbone import Backbone

Record = dict[str, Any]


class VisualExplanations(pl.Callback):
    """Looks at the networks with depths (``Backbone``) that the module names in ``analysis_targets()``.

    Writes into the run directory, for all of them side by side: ``receptive_field.png``, ``.json`` (areas) and ``.npz``
    (a map (H, W) of each network); ``attention.png``, ``.json`` (videos) and ``.npz`` (of each network ``frames``
    (N, T, H, W, 3) uint8 and ``attention`` (N, t, h, w) float32, before it is up-sampled). Prints the areas.
    ``streamkd receptive-field`` and ``streamkd attention`` put runs side by side.

    Runs on `setup`, and on `on_test_end`, on rank zero while the others wait. The videos are spread evenly over the
    split, so the same in every run; of several views the first is taken.

    Args:
        split: whose videos; "val" where the test is lazy.
        num_videos: over how many receptive fields are averaged; all of the split where it has fewer.
        shown_videos: of how many of them attention is shown.
        shown_frames: of how many frames of each, spread evenly over the clip.
        depth: name of the feature map, as in the networks' ``feature_info``; null: the last of each.
        threshold: of the largest value, above which a pixel belongs to a receptive field.
        power: of activities in attention.
    """

    def __init__(
        self,
        *,
        split: Split = "test",
        num_videos: int = 16,
        shown_videos: int = 4,
        shown_frames: int = 3,
        depth: str | None = None,
        threshold: float = THRESHOLD,
        power: float = 2.0,
    ) -> None:
        if not 1 <= shown_videos <= num_videos or shown_frames < 1:
            raise ValueError(
                f"expected 1 <= `shown_videos` <= `num_videos` and 1 <= `shown_frames`, came {shown_videos}, "
                f"{num_videos} and {shown_frames}"
            )
        if not 0 < threshold < 1 or power <= 0:
            raise ValueError(f"expected 0 < `threshold` < 1 and `power` > 0, came {threshold} and {power}")
        self.split: Split = split
        self.num_videos = num_videos
        self.shown_videos = shown_videos
        self.shown_frames = shown_frames
        self.depth = depth
        self.threshold = threshold
        self.power = power

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not hasattr(pl_module, "analysis_targets"):
            raise ValueError(
                f"VisualExplanations is for modules with a method `analysis_targets`, {type(pl_module).__name__} has "
                "none; take it out of `trainer.callbacks`"
            )

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            targets = _backbones(cast(OffersAnalysisTargets, pl_module).analysis_targets())
            # One by one: the receptive field takes them so.
            videos = read_spread(trainer, self.split, self.num_videos, batch_size=1, reader=type(self).__name__)
            if not videos:
                raise ValueError(f"no video of the split {self.split!r} could be read; see `test.json`")
            folder = Path(trainer.default_root_dir)
            write_receptive_fields(folder, {name: self._field(target, videos) for name, target in targets.items()})
            shown = [videos[place] for place in spread(len(videos), self.shown_videos)]
            seen = {name: self._see(target, shown) for name, target in targets.items()}
            write_attention(folder, seen, self._record(targets, shown, _classes(trainer)))
        trainer.strategy.barrier("visual-explanations")

    def _field(self, target: AnalysisTarget, videos: Sequence[ClipBatch]) -> MeasuredField:
        clips = _clips(target, videos)
        values = effective_receptive_field(cast(Backbone, target.model), clips, depth=self.depth)
        num_videos, num_frames, _, height, width = clips.shape
        area = FieldArea(
            stream=target.stream,
            depth=depth_of(cast(Backbone, target.model), self.depth),
            frame=(height, width),
            threshold=self.threshold,
            **dict(zip(("pixels", "fraction"), area_above(values, self.threshold), strict=True)),  # type: ignore[arg-type]
            num_videos=num_videos,
            num_frames=num_frames,
        )
        return MeasuredField(values.numpy(), area)

    def _see(self, target: AnalysisTarget, videos: Sequence[ClipBatch]) -> SeenVideos:
        """All frames go through the network, of which some are shown."""
        clips = _clips(target, videos)
        attention = attention_of(cast(Backbone, target.model), clips, depth=self.depth, power=self.power)
        frames = spread(clips.shape[1], self.shown_frames)
        maps = [frame * attention.shape[1] // clips.shape[1] for frame in frames]
        return SeenVideos(_pictures(_shown(target.stream, clips[:, frames])), attention[:, maps].float().cpu().numpy())

    def _record(
        self, targets: Mapping[str, AnalysisTarget], videos: Sequence[ClipBatch], classes: Sequence[str]
    ) -> Record:
        """What stands in ``attention.json``."""
        networks = {
            name: {"stream": target.stream, "depth": depth_of(cast(Backbone, target.model), self.depth)}
            for name, target in targets.items()
        }
        shown = [{"path": video.paths[0], "class": _class_of(video, classes)} for video in videos]
        return {"power": self.power, "split": self.split, "videos": shown, "targets": networks}


def write_receptive_fields(folder: Path, measured: Mapping[str, MeasuredField]) -> None:
    """Write picture, areas and maps, each whole, and print the areas.

    Args:
        folder: the run directory.
        measured: by the network's name.
    """
    areas = {name: field.area for name, field in measured.items()}
    with open_whole(folder / "receptive_field.json") as file:
        json.dump({name: area.to_record() for name, area in areas.items()}, file, indent=1)
    with open_whole(folder / "receptive_field.npz", "wb") as file:
        np.savez_compressed(file, **{name: field.values for name, field in measured.items()})  # type: ignore[arg-type]
    with open_whole(folder / "receptive_field.png", "wb") as file:
        draw_receptive_fields(measured).savefig(file, format="png", dpi=150)
    print_table(table_of(areas))


def write_attention(folder: Path, seen: Mapping[str, SeenVideos], record: Record) -> None:
    """Write picture, videos and maps, each whole.

    Args:
        folder: the run directory.
        seen: by the network's name.
        record: ``videos`` with ``path`` and ``class`` of each, and what else there is to say.
    """
    arrays = {f"{name}/{kind}": array for name, videos in seen.items() for kind, array in vars(videos).items()}
    with open_whole(folder / "attention.json") as file:
        json.dump(record, file, indent=1, ensure_ascii=False)
    with open_whole(folder / "attention.npz", "wb") as file:
        np.savez_compressed(file, **arrays)
    with open_whole(folder / "attention.png", "wb") as file:
        draw_attention(seen, record["videos"]).savefig(file, format="png", dpi=150)


def _backbones(targets: Mapping[str, AnalysisTarget]) -> dict[str, AnalysisTarget]:
    found = {name: target for name, target in targets.items() if isinstance(target.model, Backbone)}
    if not found:
        came = {name: type(target.model).__name__ for name, target in targets.items()}
        raise ValueError(f"VisualExplanations needs a network with depths (`Backbone`), came {came}")
    return found


def _clips(target: AnalysisTarget, videos: Sequence[ClipBatch]) -> Tensor:
    """(N, T, C, H, W), the first view of each video."""
    return torch.cat([stream_of(video, target.stream, target.model)[:1] for video in videos])


def _shown(stream: str, clips: Tensor) -> Tensor:
    """Of several streams joined (N, T, C, H, W) one, if possible with the three channels of a picture."""
    parts = parts_of(stream)
    if len(parts) == 1:
        return clips
    return max(clips.split([num_channels(part) for part in parts], dim=2), key=lambda part: part.shape[2])


def _pictures(clips: Tensor) -> np.ndarray:
    """Normalised clips (N, T, C, H, W) as (N, T, H, W, 3) uint8: vectors as colours, else from darkest to brightest.

    Modules may make streams of others on the device, with a normalisation of their own, which nobody need know here.
    """
    values = clips.movedim(2, -1).float().cpu().numpy()
    if values.shape[-1] == 2:
        return motion_colors(values, max(float(np.hypot(values[..., 0], values[..., 1]).max()), 1e-6))
    low, high = (edge(values, axis=(1, 2, 3, 4), keepdims=True) for edge in (np.min, np.max))
    levels = np.round(255 * (values - low) / np.maximum(high - low, 1e-6)).astype(np.uint8)
    return levels if levels.shape[-1] == 3 else np.repeat(levels[..., :1], 3, axis=-1)


def _classes(trainer: pl.Trainer) -> list[str]:
    return list(getattr(getattr(trainer, "datamodule", None), "classes", None) or [])


def _class_of(video: ClipBatch, classes: Sequence[str]) -> str:
    """The names of its classes; "" where they are unknown."""
    labels = video.labels[0]
    places = [int(labels)] if labels.ndim == 0 else labels.nonzero().flatten().tolist()
    return ", ".join(classes[place] for place in places if 0 <= place < len(classes))
