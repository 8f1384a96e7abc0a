"""The one exception the reader raises for a video it cannot read right."""

import os


class UnreadableVideoError(Exception):
    """A video that cannot be read, or cannot be read right.

    Args:
        path: the file.
        reason: what was expected and what came.
        remedy: what the user can do about it.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str, remedy: str) -> None:
        super().__init__(os.fspath(path), reason, remedy)
        self.path, self.reason, self.remedy = os.fspath(path), reason, remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; {self.remedy}"
