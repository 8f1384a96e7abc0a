"""Counts the videos that could not be read, whole or in part, and stops a run that has too many of them."""

import logging
from collections.abc import Iterable

from datamodules.failure import Failure

_log = logging.getLogger(__name__)


class TooManyBadVideosError(RuntimeError):
    """More videos cannot be read than the config allows."""


class FailureLedger:
    """The unreadable videos of one split that this process has met; each is logged once, as a warning of one line.

    Args:
        split: name of the split.
        num_videos: in it.
        limit: number of bad videos that is still accepted; None: any.
        remedy: what to do where there are more.
    """

    def __init__(self, split: str, num_videos: int, *, limit: int | None, remedy: str = "") -> None:
        self.split, self.num_videos, self.limit, self.remedy = split, num_videos, limit, remedy
        self._failures: dict[str, Failure] = {}
        self._damaged: set[str] = set()

    @property
    def failures(self) -> list[Failure]:
        """What could not be read, by path."""
        return [self._failures[path] for path in sorted(self._failures)]

    def add(self, failures: Iterable[Failure]) -> None:
        """Counts these.

        Raises:
            TooManyBadVideosError: there are more than the limit.
        """
        for failure in failures:
            if failure.path not in self._failures:
                self._failures[failure.path] = failure
                _log.warning("unreadable video in split %r: %s", self.split, failure)
                self._check(failure)

    @property
    def damaged(self) -> list[str]:
        """The videos with damaged frames for which earlier ones stood in."""
        return sorted(self._damaged)

    def add_damaged(self, paths: Iterable[str]) -> None:
        """Notes videos some of whose frames are damaged and were passed over."""
        for path in paths:
            if path not in self._damaged:
                self._damaged.add(path)
                _log.warning("damaged frames in split %r, earlier ones stand in for them: %s", self.split, path)

    def _check(self, last: Failure) -> None:
        if self.limit is not None and len(self._failures) > self.limit:
            raise TooManyBadVideosError(
                f"{len(self._failures)} of the {self.num_videos} videos of split {self.split!r} cannot be read, "
                f"at most {self.limit} may be; {self.remedy}; the last one: {last}"
            )
