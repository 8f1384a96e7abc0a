"""The data of a compressed-video experiment: motion vectors, residuals and I-frames, each at its own resolution.

Test protocol and representations as in Wu et al., "Compressed Video Action Recognition" (CoViAR), CVPR 2018. Optical
flow as privileged information, read in training alone, as in IP TSN (arXiv 1912.04462).
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

from typing_extensions import override

from datamodules.annotations import Annotations
from datamodules.bitstream.flow import import_opencv
from datamodules.clip import JOINT, parts_of
from datamodules.clip_dataset import ClipDataset
from datamodules.clip_reader import ClipReader, Colorspace, Reference
from datamodules.flow_cache import FlowSettings
from datamodules.flow_cost import cost_of_uncached_flow
from datamodules.option_checks import check_choice, check_counts
from datamodules.transforms import STREAM_FORMATS
from datamodules.video_data_module import VideoDataModule

_log = logging.getLogger(__name__)
_FLOW = FlowSettings()


class CompressedVideoDataModule(VideoDataModule):
    """Batches of clips (`ClipBatch`) of the streams that a compressed video holds.

    Further keys, and what holds of samples: `VideoDataModule`.

    Args:
        annotations: which videos there are and what they show; not needed to predict.
        streams: any of "iframe", "mv", "residual", "rgb" (plain frames), "flow" (optical flow, of the same motion
            and at the same places as "mv"; needs the extra `flow`); or several joined by "+" as channels of one stream
            for one network: "mv+residual", all that P-frames hold.
        num_segments: T, frames per clip.
        size: side of the network's input in pixels, for all streams or for each; its short side with `pixel_crop`; of
            the larger view with `low_resolution`.
        reference: what vectors, residuals and flow refer to: the GOP's I-frame (accumulated) or the previous frame.
        flow: how optical flow is computed, and where it is kept.
        privileged: those of `streams` that training alone sees: validate, test and predict never read them.
        colorspace: "bt601" as CoViAR, whatever a file's tags say, or "tagged".
        rescale_vectors: whether vectors scale with the resize of a crop; CoViAR keeps them.
    """

    def __init__(
        self,
        annotations: Annotations | None = None,
        streams: Sequence[str] = ("iframe",),
        num_segments: int = 3,
        size: int | dict[str, int] = 224,
        *,
        reference: Reference = "iframe",
        flow: FlowSettings = _FLOW,
        privileged: Sequence[str] = (),
        colorspace: Colorspace = "bt601",
        rescale_vectors: bool = False,
        **options: Any,
    ) -> None:
        check_choice("reference", reference, get_args(Reference))
        super().__init__(
            annotations,
            _sizes(streams, size),
            num_segments,
            make_reader=partial(
                ClipReader, reference=reference, flow=flow, colorspace=colorspace, rescale_vectors=rescale_vectors
            ),
            **options,
        )
        self.privileged = _checked_privileged(privileged, streams)
        deployed = [name for name, view in self.reader.views.items() if view.stream not in self.privileged]
        self.eval_reader, self.test_reader = (r.narrowed(deployed) for r in (self.eval_reader, self.test_reader))
        self._announces_flow = True

    @override
    def _dataset(self, split: str, reader: ClipReader, **options: Any) -> ClipDataset:
        dataset = super()._dataset(split, reader, **options)
        if "flow" in reader.streams:
            self._prepare_flow(dataset)
        return dataset

    def _prepare_flow(self, dataset: ClipDataset) -> None:
        """Fails early where OpenCV is missing, and says once, on one rank, what flow without a cache costs."""
        if dataset.reader.flow.may_compute:
            import_opencv()
        if self._announces_flow and self._rank == 0:
            note = cost_of_uncached_flow(dataset.reader, [record.path for record in dataset.records])
            self._announces_flow = note is None
            if note is not None:
                _log.warning(note)


def _checked_privileged(privileged: Sequence[str], streams: Sequence[str]) -> frozenset[str]:
    chosen = frozenset([privileged] if isinstance(privileged, str) else privileged)
    if not chosen < frozenset(streams):
        raise ValueError(f"privileged: expected some of streams {', '.join(streams)}, not all, got {privileged!r}")
    return chosen


def _sizes(streams: Sequence[str], size: int | dict[str, int]) -> dict[str, int]:
    if isinstance(streams, str) or not streams or len(set(streams)) != len(streams):
        raise ValueError(f"streams: expected a list of different stream names, got {streams!r}")
    for stream in streams:
        for part in parts_of(stream):
            check_choice("streams", part, STREAM_FORMATS)
        if len(parts_of(stream)) <= stream.count(JOINT):
            raise ValueError(f"streams: expected different streams joined by {JOINT!r}, got {stream!r}")
    missing = [stream for stream in streams if isinstance(size, dict) and stream not in size]
    if missing:
        raise ValueError(f"size: expected an entry for each of {', '.join(streams)}, got {size}")
    sizes = {stream: size[stream] if isinstance(size, dict) else size for stream in streams}
    for side in sizes.values():
        check_counts(size=side)
    return sizes
