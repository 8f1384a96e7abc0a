"""What it costs to compute optical flow while videos are read, measured on the first of them."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from statistics import median

from datamodules.bitstream import UnreadableVideoError
from datamodules.bitstream.frames import Stream
from datamodules.clip_reader import ClipReader
from datamodules.flow_cache import FlowCache
from datamodules.sampling import motion_frame

_STREAMS: tuple[Stream, ...] = ("rgb",)
_NUM_MEASURED = 3


def cost_of_uncached_flow(reader: ClipReader, paths: Sequence[str]) -> str | None:
    """One line that says what computing flow costs, and what spares it; None where nothing has to be computed.

    Args:
        reader: reads flow.
        paths: the videos of a split.
    """
    if not reader.flow.may_compute:
        return None
    if reader.flow.cache is None:
        what = f"for the {reader.sampler.num_frames} frames of each sample"
        remedy = "`streamkd flow --config <this experiment> --data.flow.cache <folder>` computes it once for all epochs"
    else:
        cache = FlowCache(reader.flow.cache, reader.flow, reader.reference)
        missing = [path for path in paths if not cache.file_of(path).is_file()]
        if not missing:
            return None
        what = f"for all frames of the {len(missing)} of {len(paths)} videos that {cache.directory} lacks"
        remedy = "`streamkd flow --config <this experiment>` does it beforehand, in parallel"
        paths = missing
    return f"optical flow is computed as videos are read, {what}: {_speed(reader, paths)}; {remedy}"


def _speed(reader: ClipReader, paths: Sequence[str]) -> str:
    measured = list(_seconds(reader, paths[:_NUM_MEASURED]))
    if not measured:
        return f"{reader.flow.name}, speed unknown (the first {_NUM_MEASURED} videos cannot be read)"
    return f"{1000 * median(measured):.1f} ms a frame ({reader.flow.name}, the first {len(measured)} videos)"


def _seconds(reader: ClipReader, paths: Sequence[str]) -> Iterator[float]:
    """Of flow to one P-frame of each video that can be read, decoding not included."""
    for path in paths:
        with suppress(UnreadableVideoError, OSError), reader.source.open(path) as video:
            gop, position = motion_frame(0, video.gops)
            earlier, later = (at.rgb for at in video.read_positions(gop, [position - 1, position], streams=_STREAMS))
            assert earlier is not None
            assert later is not None
            began = time.perf_counter()
            reader.flow.between(earlier, later)
            yield time.perf_counter() - began
