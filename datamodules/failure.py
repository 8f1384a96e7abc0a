"""A video that could not be read, and why. No PyTorch here: processes that prepare videos begin sooner without."""

from dataclasses import dataclass

from av.error import FFmpegError

from datamodules.bitstream import UnreadableVideoError


@dataclass(frozen=True)
class Failure:
    """A video that could not be read.

    Args:
        path: the file.
        reason: one line that says what is wrong with it, and the remedy where there is one.
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return self.reason if self.path in self.reason else f"{self.path}: {self.reason}"


def failure_of(path: str, error: UnreadableVideoError | OSError | FFmpegError) -> Failure:
    """What an exception says about the video at `path`."""
    if isinstance(error, UnreadableVideoError):
        return Failure(path, f"{error.reason}; {error.remedy}")
    return Failure(path, f"{error.strerror or error}; check the file system")
