"""The data of an experiment across resolutions: a small and a large view of the same frames of ordinary videos.

"Rethinking Resolution in the Context of Efficient Video Recognition" (ResKD), NeurIPS 2022. Where we differ: crops are
cut out of the frames as they are, and not of frames resized to a short side of 256 before; `crop_fraction` 0.875 is
224 of those 256.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

from datamodules.annotations import Annotations
from datamodules.clip_reader import Backend, ClipReader
from datamodules.decord_video import import_decord
from datamodules.low_resolution import LowResolution
from datamodules.option_checks import check_choice, check_counts
from datamodules.video_data_module import VideoDataModule

_AS_THE_PAPER = LowResolution()


class MultiResolutionDataModule(VideoDataModule):
    """Batches of clips (`ClipBatch`) of plain frames: `rgb`, which a deployed network sees, and `rgb_high`.

    Colours are converted as files are tagged, by BT.601 where they are not. Further keys, and what holds of samples:
    `VideoDataModule`.

    Args:
        annotations: which videos there are and what they show; not needed to predict.
        num_segments: T, frames per clip. ResKD: 16 untrimmed, 8 trimmed.
        size: side of `rgb_high` in pixels, of `rgb` without `low_resolution`; the short side with `pixel_crop`.
        low_resolution: how `rgb` is made; None: `rgb` alone, of `size`.
        backend: what decodes. "pyav" brings a current FFmpeg: for files of unknown origin. "decord", as in the paper's
            code, is for x86-64 Linux and Windows and brings one of 2018: a file of which it would give wrong frames
            counts as unreadable, but damaged frames it passes on as they are, so there is no `on_corrupt` "skip". See
            `decord_video.py`.
        scales: of training crops, see `RandomCrops`.
    """

    def __init__(
        self,
        annotations: Annotations | None = None,
        num_segments: int = 8,
        size: int = 224,
        *,
        low_resolution: LowResolution | None = _AS_THE_PAPER,
        backend: Backend = "pyav",
        scales: Sequence[float] = (1.0, 0.875, 0.75, 0.66),
        **options: Any,
    ) -> None:
        check_counts(size=size)
        check_choice("backend", backend, get_args(Backend))
        if backend == "decord":
            import_decord()
            check_choice("on_corrupt (with backend 'decord')", options.get("on_corrupt", "raise"), ["raise"])
        super().__init__(
            annotations,
            {"rgb": size},
            num_segments,
            make_reader=partial(ClipReader, colorspace="tagged", backend=backend),
            low_resolution=low_resolution,
            scales=scales,
            **options,
        )
