"""What all data sets with official lists have in common: a carved validation split, checked sizes, missing videos.

A data set says which classes it has and which videos its lists name (`read_classes`, `read_split`); the rest is here.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from typing_extensions import override

from datamodules.annotations.groups import check_fraction, check_share, first_share, ranked, shuffled
from datamodules.annotations.list_files import first_file
from datamodules.annotations.missing_videos import accept_missing
from datamodules.annotations.protocol import Annotations, Split, VideoRecord, check_known, check_split
from datamodules.annotations.split_size import check_num_classes, check_split_size
from datamodules.annotations.video_files import VideoFolder, check_folder
from datamodules.tolerance import check_tolerance

SplitNumber = Literal[1, 2, 3]
TestedOn = Literal["val", "test"]


@dataclass(frozen=True, slots=True)
class ListedVideo:
    """A video that an official list names.

    Args:
        names: file names without extension that it may have; with its folder, where that is needed to tell it apart.
        classes: what it shows; None where that is not published.
        group: videos of one group never stand on both sides of a carved split.
        where: `file:line`, for messages.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...] | None
    group: str
    where: str


class OfficialSplits(Annotations):
    """A data set with official training and test lists; `val` is carved out of the training list by groups.

    The test split takes no part in the carving, and which videos are on the disk neither: the same seed gives the same
    split everywhere. Videos are looked for by name, below `videos` to any depth and with any video's extension, so that
    re-encoded ones are found too.

    Args:
        root: the data set's folder.
        lists: the folder of the official lists, relative to `root`; None: as the data set is distributed.
        videos: the folder of the videos, relative to `root`.
        val_fraction: share of the training list's groups that is validated on; 0: no `val`, to train on everything.
        seed: of the choice of these groups.
        max_missing: videos of a split that may be missing on the disk: a number, or a fraction (float) of the split.
        check_sizes: whether the lists must have as many videos and classes as the official ones.
        fraction: share of the videos of every split that is used, to rehearse on few what is meant for all; which ones
            depends on their names and `seed` alone.
    """

    default_lists: ClassVar[str] = "."
    files: Mapping[Split, Sequence[str]] = {}
    """Names that the list file of each split may have."""
    multi_label: ClassVar[bool] = False
    num_classes: int = 0
    """Official number of classes; 0: not checked."""
    sizes: Mapping[Split, int] = {}
    """Official numbers of videos; a split that is not here is not checked."""
    class_sizes: Mapping[Split, int] = {}
    """Official numbers of videos per class, where they are the same for all."""
    tested_on: Split = "test"
    """The official split that is tested on."""
    has_val: ClassVar[bool] = False
    """Whether there is an official `val`."""

    def __init__(
        self,
        root: str,
        *,
        lists: str | None = None,
        videos: str = ".",
        val_fraction: float = 0.1,
        seed: int = 0,
        max_missing: int | float = 0,
        check_sizes: bool = True,
        fraction: float = 1.0,
    ) -> None:
        check_fraction("val_fraction", val_fraction)
        check_tolerance("max_missing", max_missing)
        check_share("fraction", fraction)
        self.root = Path(root)
        self.lists = self.root / (self.default_lists if lists is None else lists)
        self.folder = VideoFolder(self.root / videos)
        self.val_fraction, self.seed = val_fraction, seed
        self.max_missing, self.check_sizes, self.fraction = max_missing, check_sizes, fraction
        self._lists: dict[Split, list[ListedVideo]] = {}

    @abstractmethod
    def read_classes(self) -> list[str]:
        """Class names, in order of label."""

    @abstractmethod
    def read_split(self, split: Split) -> list[ListedVideo]:
        """The videos of an official list, in its order."""

    @override
    @cached_property
    def classes(self) -> list[str]:
        self._check_root()
        classes = self.read_classes()
        if self.check_sizes and self.num_classes:
            check_num_classes(classes, self.num_classes, where=str(self.lists))
        return classes

    @override
    def records(self, split: Split) -> list[VideoRecord]:
        check_split(split)
        listed = self._used(self._side(split))
        if not listed:
            raise ValueError(f"{self.lists}: no video is left for split {split!r} (config key: val_fraction)")
        paths = [self.folder.find(video.names) for video in listed]
        missing = [video.names[0] for video, path in zip(listed, paths, strict=True) if path is None]
        accept_missing(missing, len(listed), self.max_missing, where=f"split {split!r}: {self.folder.folder}")
        found = zip(listed, paths, strict=True)
        return [VideoRecord(path, self._label(video)) for video, path in found if path is not None]

    def listed(self, split: Split) -> list[ListedVideo]:
        """The videos of an official list, in its order; read once."""
        if split not in self._lists:
            self._check_root()
            self._lists[split] = self.read_split(split)
        return self._lists[split]

    def list_file(self, split: Split) -> Path:
        """The list of an official split, by the first of its names in `files` that is there."""
        return first_file(self.lists, self.files[split], "lists")

    def _check_root(self) -> None:
        """A data set that is not there is not taken for one that lacks a list."""
        if not self.lists.is_dir():
            check_folder(self.root, "root")

    def _side(self, split: Split) -> list[ListedVideo]:
        if split == "test":
            return self._labelled(self.tested_on)
        if self.has_val and self.tested_on == "test":
            return self._labelled(split)
        return self._carved[split]

    def _used(self, listed: list[ListedVideo]) -> list[ListedVideo]:
        if self.fraction == 1:
            return listed
        names = set(first_share(ranked((video.names[0] for video in listed), self.seed), self.fraction))
        return [video for video in listed if video.names[0] in names]

    @cached_property
    def _carved(self) -> dict[Split, list[ListedVideo]]:
        """`train` and `val` out of the official training list."""
        listed = self._labelled("train")
        groups = set(first_share(shuffled((video.group for video in listed), self.seed), self.val_fraction))
        train = [video for video in listed if video.group not in groups]
        val = [video for video in listed if video.group in groups]
        remedy = "each class needs a group in train: change seed or val_fraction"
        check_known(_classes_in(val), _classes_in(train), where=f"{self.lists}, split 'val'", remedy=remedy)
        return {"train": train, "val": val}

    def _labelled(self, split: Split) -> list[ListedVideo]:
        """An official list, checked."""
        listed = self.listed(split)
        if self.check_sizes and split in self.sizes:
            check_split_size(
                [(video.names[0], video.classes or ()) for video in listed],
                self.sizes[split],
                per_class=self.class_sizes.get(split),
                others=self._unlisted,
                where=f"{self.lists}: {type(self).__name__}, official split {split!r}",
            )
        self._check_labels(split, listed)
        return listed

    def _unlisted(self) -> list[str]:
        """Paths of the videos that are on the disk and in no list, where the lists are to name them all."""
        names: list[str] = []
        for split in () if self.class_sizes else self.sizes:
            with suppress(FileNotFoundError):
                names += (name for video in self.listed(split) for name in video.names)
        return self.folder.others(names) if names else []

    def _check_labels(self, split: Split, listed: list[ListedVideo]) -> None:
        for video in listed:
            if video.classes is None:
                raise ValueError(
                    f"{video.where}: no label in the official split {split!r}; where its labels are not published, "
                    "val is what is tested on (config key: tested_on)"
                )
            remedy = f"expected one of the {len(self.classes)} classes of {self.lists}"
            check_known(video.classes, self._labels, where=video.where, remedy=remedy)

    @cached_property
    def _labels(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self.classes)}

    def _label(self, video: ListedVideo) -> int | tuple[int, ...]:
        labels = tuple(sorted({self._labels[name] for name in video.classes or ()}))
        return labels if self.multi_label else labels[0]


def _classes_in(listed: Sequence[ListedVideo]) -> set[str]:
    return {name for video in listed for name in video.classes or ()}


class NumberedSplits(OfficialSplits):
    """A data set with three official splits into train and test.

    Args:
        root: the data set's folder.
        split: which of the three.
        **options: as in `OfficialSplits`.
    """

    def __init__(self, root: str, split: SplitNumber = 1, **options: Any) -> None:
        super().__init__(root, **options)
        if split not in get_args(SplitNumber):
            raise ValueError(f"split: expected one of {', '.join(map(str, get_args(SplitNumber)))}, got {split}")
        self.split = split


class ValidatedSplits(OfficialSplits):
    """A data set that has an official `val` too, which is what most papers test on: the labels of `test` are hidden.

    Args:
        root: the data set's folder.
        tested_on: the official split that is tested on. "val": our `val` is carved out of the training list, so that
            no choice is made on what is tested. "test": `train` and `val` are the official ones.
        **options: as in `OfficialSplits`.
    """

    has_val = True

    def __init__(self, root: str, tested_on: TestedOn = "val", **options: Any) -> None:
        super().__init__(root, **options)
        if tested_on not in get_args(TestedOn):
            raise ValueError(f"tested_on: expected one of {', '.join(get_args(TestedOn))}, got {tested_on!r}")
        self.tested_on = tested_on
