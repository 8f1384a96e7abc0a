"""Re-encodes and indexes the videos of an experiment, in parallel; what is there already stays."""

import errno
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from av.error import FFmpegError

from datamodules.bitstream import UnreadableVideoError
from datamodules.failure import Failure, failure_of
from datamodules.index_cache import IndexCache, file_stamp
from datamodules.parallel import mapped
from datamodules.video_source import VideoSource
from datamodules.whole_file import remove_leftovers

Outcome = Literal["as_is", "made", "kept"]

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Prepared:
    """What became of the videos.

    Attributes:
        as_is: videos that are read as they are.
        made: those that were re-encoded now.
        kept: those whose stand-in was there.
        failures: those that cannot be read.
    """

    as_is: int
    made: int
    kept: int
    failures: list[Failure]


def prepare_videos(source: VideoSource, paths: Sequence[str], *, num_workers: int | None = None) -> Prepared:
    """Does all that opening each of the videos for the first time would do.

    Args:
        source: opens videos.
        paths: the videos.
        num_workers: see `mapped`.

    Raises:
        OSError: the disk is full.
    """
    source = replace(source, indices=IndexCache(source.indices.directory, must_store=True))
    for directory in folders_of(source):
        remove_leftovers(directory)
    outcomes = list(mapped(partial(_prepare, source), paths, num_workers, label="videos prepared"))
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    counts = Counter(outcome for outcome in outcomes if not isinstance(outcome, Failure))
    return Prepared(counts["as_is"], counts["made"], counts["kept"], failures)


def folders_of(source: VideoSource) -> list[str]:
    """The folders in which a source keeps stand-ins and indices."""
    stand_ins = [] if source.stand_ins is None else [source.stand_ins.directory]
    return stand_ins + ([] if source.indices.directory is None else [str(source.indices.directory)])


def _prepare(source: VideoSource, path: str) -> Outcome | Failure:
    before = None if source.stand_ins is None else file_stamp(str(source.stand_ins.file_of(path)))
    try:
        index = source.index(path)
    except UnreadableVideoError as error:
        return failure_of(path, error)
    except (OSError, FFmpegError) as error:
        if error.errno in _DISK_FULL:  # as it will be for all others
            raise
        return failure_of(path, error)
    if index.path == path:
        return "as_is"
    return "kept" if file_stamp(index.path) == before else "made"
