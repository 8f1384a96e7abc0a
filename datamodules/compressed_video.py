"""The data of a compressed-video experiment: motion vectors, residuals and I-frames, each at its own resolution.

Test protocol and representations as in Wu et al., "Compressed Video Action Recognition" (CoViAR), CVPR 2018.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

from datamodules.annotations import Annotations
from datamodules.clip_reader import ClipReader, Colorspace, Reference
from datamodules.option_checks import check_choice, check_counts
from datamodules.transforms import STREAM_FORMATS
from datamodules.video_data_module import VideoDataModule


class CompressedVideoDataModule(VideoDataModule):
    """Batches of clips (`ClipBatch`) of the streams that a compressed video holds.

    Further keys, and what holds of samples: `VideoDataModule`.

    Args:
        annotations: which videos there are and what they show; not needed to predict.
        streams: any of "iframe", "mv", "residual", "rgb" (plain frames).
        num_segments: T, frames per clip.
        size: side of the network's input in pixels, for all streams or for each; its short side with `pixel_crop`; of
            the larger view with `low_resolution`.
        reference: what vectors and residuals refer to: the GOP's I-frame (accumulated) or the previous frame.
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
                ClipReader, reference=reference, colorspace=colorspace, rescale_vectors=rescale_vectors
            ),
            **options,
        )


def _sizes(streams: Sequence[str], size: int | dict[str, int]) -> dict[str, int]:
    if isinstance(streams, str) or not streams or len(set(streams)) != len(streams):
        raise ValueError(f"streams: expected a list of different stream names, got {streams!r}")
    for stream in streams:
        check_choice("streams", stream, STREAM_FORMATS)
    missing = [stream for stream in streams if isinstance(size, dict) and stream not in size]
    if missing:
        raise ValueError(f"size: expected an entry for each of {', '.join(streams)}, got {size}")
    sizes = {stream: size[stream] if isinstance(size, dict) else size for stream in streams}
    for side in sizes.values():
        check_counts(size=side)
    return sizes
