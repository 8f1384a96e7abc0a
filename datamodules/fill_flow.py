"""Fills a cache of optical flow for the videos of an experiment, in parallel; what is there already stays."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from datamodules.bitstream import UnreadableVideoError
from datamodules.bitstream.flow import import_opencv
from datamodules.clip_reader import ClipReader
from datamodules.failure import Failure, failure_of
from datamodules.flow_cache import FlowCache
from datamodules.parallel import mapped
from datamodules.prepare import folders_of
from datamodules.whole_file import remove_leftovers

Outcome = Literal["made", "kept"]


@dataclass(frozen=True)
class FilledFlow:
    """What became of the videos.

    Attributes:
        made: videos whose flow was computed.
        kept: those whose flow was there.
        failures: those that cannot be read.
        num_bytes: on disk, of the first two.
    """

    made: int
    kept: int
    failures: list[Failure]
    num_bytes: int


def fill_flow(reader: ClipReader, paths: Sequence[str], *, num_workers: int | None = None) -> FilledFlow:
    """Computes the flow of videos that the reader's cache lacks, or has torn or of another state of the video.

    Args:
        reader: reads flow.
        paths: the videos.
        num_workers: see `mapped`.

    Raises:
        ValueError: the reader has no cache, or reads no flow.
        ModuleNotFoundError: OpenCV is not there.
        OSError: the cache cannot be written.
    """
    if "flow" not in reader.streams:
        raise ValueError(f"data.streams: expected flow among them, got {', '.join(reader.sizes)}")
    if reader.flow.cache is None:
        raise ValueError("data.flow.cache: expected the folder to keep optical flow in, got none")
    import_opencv()
    cache = FlowCache(reader.flow.cache, reader.flow, reader.reference)
    for directory in (cache.directory, *folders_of(reader.source)):
        remove_leftovers(directory)
    paths = list(dict.fromkeys(paths))
    outcomes = list(mapped(partial(_fill, reader, cache), paths, num_workers, label="optical flow"))
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    done = [path for path, outcome in zip(paths, outcomes, strict=True) if not isinstance(outcome, Failure)]
    counts = Counter(outcome for outcome in outcomes if not isinstance(outcome, Failure))
    num_bytes = sum(cache.file_of(path).stat().st_size for path in done)
    return FilledFlow(counts["made"], counts["kept"], failures, num_bytes)


def _fill(reader: ClipReader, cache: FlowCache, path: str) -> Outcome | Failure:
    try:
        with reader.source.open(path) as video:
            if cache.has(path, video):
                return "kept"
            cache.fill(path, video)
            return "made"
    except UnreadableVideoError as error:
        return failure_of(path, error)
