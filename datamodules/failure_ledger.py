"""Counts the videos that could not be read, and stops a run that has too many of them."""

import logging
from collections.abc import Iterable

from datamodules.clip import Failure

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

    def _check(self, last: Failure) -> None:
        if self.limit is not None and len(self._failures) > self.limit:
            raise TooManyBadVideosError(
                f"{len(self._failures)} of the {self.num_videos} videos of split {self.split!r} cannot be read, "
                f"at most {self.limit} may be; {self.remedy}; the last one: {last}"
            )
