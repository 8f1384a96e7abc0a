"""What a data set tells about itself: its classes, and the videos of each split with their labels.

Nothing is read before it is asked for, so that a predict run needs no data set.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class VideoRecord:
    """One video of a split.

    Args:
        path: the file.
        label: its class, its classes (multi-label), or -1 where unknown.
    """

    path: str
    label: int | tuple[int, ...]


class Annotations(Protocol):
    """What a data set must tell about itself."""

    @property
    def classes(self) -> list[str]:
        """Class names; a label is a position in this list."""
        ...

    def records(self, split: Split) -> list[VideoRecord]:
        """The videos of one split.

        Raises:
            FileNotFoundError: a folder or list file is missing.
            ValueError: an unknown or absent split, an empty class, or a class that training does not have.
        """
        ...


def check_split(split: str) -> None:
    """Raise ValueError where `split` is none of `SPLITS`."""
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")


def check_known(names: Collection[str], known: Collection[str], *, where: str, remedy: str) -> None:
    """Raise ValueError where `names` has a class that the classes trained on, `known`, have not."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"{where}: training has no class {', '.join(map(repr, unknown[:5]))}; {remedy}")
