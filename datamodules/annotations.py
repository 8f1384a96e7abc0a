"""Which videos there are, on which side of the split each stands, and what each shows.

Nothing is read before it is asked for, so that a predict run needs no data set. Class names are sorted, so that labels
are the same on every machine.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, get_args

from typing_extensions import override

from datamodules.randomness import generator

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
VIDEO_EXTENSIONS = frozenset(
    {".3gp", ".asf", ".avi", ".divx", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"}
    | {".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)


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


class ClassFolders(Annotations):
    """One folder per split and class: `root/{train,val,test}/<class>/<video>`.

    The classes are those of `train`, or of the splits there are where there is no `train`.

    Args:
        root: the data set's folder.
    """

    def __init__(self, root: str) -> None:
        self.root = Path(root)

    @override
    @cached_property
    def classes(self) -> list[str]:
        _check_folder(self.root, "root")
        splits = [split for split in SPLITS if (self.root / split).is_dir()]
        if not splits:
            raise FileNotFoundError(f"{self.root}: expected folders {', '.join(SPLITS)} (config key: root)")
        splits = ["train"] if "train" in splits else splits
        return sorted({name for split in splits for name in _subfolders(self.root / split)})

    @override
    def records(self, split: Split) -> list[VideoRecord]:
        _check_split(split)
        folder = self.root / split
        _check_folder(folder, "root")
        names = _subfolders(folder)
        _check_known(names, self.classes, where=str(folder), remedy="add it to train, or remove it here")
        labels = {name: label for label, name in enumerate(self.classes)}
        return [VideoRecord(str(p), labels[name]) for name in names for p in _class_videos(folder / name)]


class GroupedFolders(Annotations):
    """One folder per class, `root/<class>/<video>`, split by groups (a person, a scene) that file names tell.

    A group stands on one side only. `val` is carved out of the groups that `test` leaves, and `train` is the rest.
    Groups of one name are one group in all classes.

    Args:
        root: the data set's folder.
        pattern: regular expression searched in the file name; its one group tells the video's group, such as
            `_g(\\d+)_c` for UCF-101.
        test_fraction: share of the groups that are tested on; not used with `num_folds`.
        val_fraction: share of the remaining groups that are validated on.
        num_folds: k of a k-fold split; fold i tests on every k-th group of a seeded order. None: by fractions.
        fold: 0 to num_folds - 1.
        seed: of the order of groups.
    """

    def __init__(
        self,
        root: str,
        pattern: str,
        *,
        test_fraction: float = 0.2,
        val_fraction: float = 0.1,
        num_folds: int | None = None,
        fold: int = 0,
        seed: int = 0,
    ) -> None:
        self.root, self.pattern, self.seed = Path(root), _compiled(pattern), seed
        for key, fraction in {"test_fraction": test_fraction, "val_fraction": val_fraction}.items():
            if not 0 <= fraction < 1:
                raise ValueError(f"{key}: expected a number from 0 to below 1, got {fraction}")
        if num_folds is not None and not (num_folds >= 2 and 0 <= fold < num_folds):
            raise ValueError(f"fold: expected 0 to num_folds - 1, num_folds >= 2, got {fold} of {num_folds}")
        self.test_fraction, self.val_fraction = test_fraction, val_fraction
        self.num_folds, self.fold = num_folds, fold

    @override
    @cached_property
    def classes(self) -> list[str]:
        _check_folder(self.root, "root")
        return _subfolders(self.root)

    @cached_property
    def groups(self) -> dict[Split, list[str]]:
        """The groups of each split."""
        names = sorted({group for _, group in self._videos})
        order = [names[i] for i in generator(self.seed).permutation(len(names))]
        test = self._test_groups(order)
        rest = [group for group in order if group not in set(test)]
        val = rest[: _share(self.val_fraction, len(rest))]
        return {"train": sorted(rest[len(val) :]), "val": sorted(val), "test": sorted(test)}

    @override
    def records(self, split: Split) -> list[VideoRecord]:
        _check_split(split)
        if not self.groups[split]:
            sizes = {name: len(groups) for name, groups in self.groups.items()}
            raise ValueError(
                f"{self.root}: no group is left for split {split!r} (groups: {sizes}); change num_folds, "
                "test_fraction or val_fraction"
            )
        records = self._records(split)
        trained = {self.classes[r.label] for r in self._records("train") if isinstance(r.label, int)}
        tested = {self.classes[r.label] for r in records if isinstance(r.label, int)}
        remedy = "each class needs a group in train: change seed, val_fraction, test_fraction or num_folds"
        _check_known(tested, trained, where=f"{self.root}, split {split!r}", remedy=remedy)
        return records

    @cached_property
    def _videos(self) -> list[tuple[VideoRecord, str]]:
        return [
            (VideoRecord(str(path), label), self._group(path))
            for label, name in enumerate(self.classes)
            for path in _class_videos(self.root / name)
        ]

    def _records(self, split: Split) -> list[VideoRecord]:
        chosen = set(self.groups[split])
        return [record for record, group in self._videos if group in chosen]

    def _group(self, path: Path) -> str:
        match = self.pattern.search(path.name)
        if match is None or match.group(1) is None:
            raise ValueError(f"{path}: pattern {self.pattern.pattern!r} does not match (config key: pattern)")
        return match.group(1)

    def _test_groups(self, order: Sequence[str]) -> list[str]:
        if self.num_folds is None:
            return list(order[: _share(self.test_fraction, len(order))])
        if len(order) < self.num_folds:
            raise ValueError(f"num_folds: expected at most the {len(order)} groups there are, got {self.num_folds}")
        return list(order[self.fold :: self.num_folds])


class VideoLists(Annotations):
    """List files with a line per video: `path label`.

    A label is a class name or a number; a line without one takes the name of the folder that the video lies in.
    With `multi_label`, labels are separated by commas.

    Args:
        root: what the paths in the lists are relative to.
        train: list file of the split (relative to `root`, or absolute); None where there is no such split.
        val: as `train`.
        test: as `train`.
        classes_file: a line per class, `name` (numbers count from 0) or `number name`. None: the labels found in
            the training list, sorted (numbers by value).
        multi_label: whether a video may have more than one label.
    """

    def __init__(
        self,
        root: str,
        *,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        classes_file: str | None = None,
        multi_label: bool = False,
    ) -> None:
        self.root, self.classes_file, self.multi_label = Path(root), classes_file, multi_label
        self.lists: dict[Split, str | None] = {"train": train, "val": val, "test": test}

    @override
    @cached_property
    def classes(self) -> list[str]:
        return [name for _, name in self._numbered]

    @override
    def records(self, split: Split) -> list[VideoRecord]:
        _check_split(split)
        if self.lists[split] is None:
            raise ValueError(f"split {split!r}: expected a list file (config key: {split}), got none")
        lines = list(self._lines(split))
        if not lines:
            raise ValueError(f"{self.lists[split]}: expected a line per video, got none (config key: {split})")
        found = {name for _, names in lines for name in names}
        remedy = "name it in the lists of the config keys train or classes_file, or remove its videos here"
        _check_known(found, self._labels, where=str(self.lists[split]), remedy=remedy)
        return [VideoRecord(path, self._label(path, names)) for path, names in lines]

    @cached_property
    def _numbered(self) -> list[tuple[str, str]]:
        """(number, name) of each class, in order of label."""
        if self.classes_file is None:
            return [(name, name) for name in sorted(self._found_labels(), key=_natural)]
        lines = _read_lines(self.root / self.classes_file, "classes_file")
        pairs = [line.split(maxsplit=1) for line in lines]
        if all(len(pair) == 2 and pair[0].isdigit() for pair in pairs):
            return sorted(((number, name) for number, name in pairs), key=lambda pair: int(pair[0]))
        return [(str(number), line) for number, line in enumerate(lines)]

    @cached_property
    def _labels(self) -> dict[str, int]:
        """Label of each class, by number and by name; a name wins."""
        numbers = {number: label for label, (number, _) in enumerate(self._numbered)}
        return numbers | {name: label for label, (_, name) in enumerate(self._numbered)}

    def _found_labels(self) -> set[str]:
        splits: list[Split] = ["train"] if self.lists["train"] else [s for s in SPLITS if self.lists[s]]
        return {name for split in splits for _, names in self._lines(split) for name in names}

    def _lines(self, split: Split) -> Iterator[tuple[str, list[str]]]:
        for line in _read_lines(self.root / str(self.lists[split]), split):
            path, label = _split_line(line)
            yield str(self.root / path), label.split(",") if self.multi_label else [label]

    def _label(self, path: str, names: list[str]) -> int | tuple[int, ...]:
        labels = tuple(sorted(self._labels[name] for name in names))
        return labels if self.multi_label else labels[0]


def find_videos(paths: Iterable[str]) -> list[str]:
    """The videos among files and folders, in order; folders are searched to any depth, in sorted order.

    A file that is named is taken whatever its extension, and a path without any video is kept as it is, so that
    whoever reads it can say what is wrong with it.
    """
    return [video for path in paths for video in (_videos_below(path) or [path])]


def _videos_below(path: str) -> list[str]:
    if not os.path.isdir(path):
        return []
    found = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sorted(video for video in found if _is_video(Path(video)))


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_EXTENSIONS and not path.name.startswith(".")


def _subfolders(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    if not names:
        raise FileNotFoundError(f"{folder}: expected a folder per class, found none (config key: root)")
    return names


def _class_videos(folder: Path) -> list[Path]:
    videos = sorted(path for path in folder.iterdir() if _is_video(path))
    if not videos:
        raise ValueError(
            f"{folder}: expected videos of the class, found none (extensions: {' '.join(sorted(VIDEO_EXTENSIONS))})"
        )
    return videos


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern: expected a regular expression, got {pattern!r} ({error})") from error
    if compiled.groups != 1:
        raise ValueError(f"pattern: expected exactly one group in {pattern!r}, got {compiled.groups}")
    return compiled


def _share(fraction: float, count: int) -> int:
    """Number of groups that a fraction stands for: at least one, unless it is 0."""
    return max(round(fraction * count), 1) if fraction else 0


def _natural(name: str) -> tuple[bool, int, str]:
    return (not name.isdigit(), int(name) if name.isdigit() else 0, name)


def _split_line(line: str) -> tuple[str, str]:
    """Path and label: `"a b.mp4 jump" -> ("a b.mp4", "jump")`, `"run/a.mp4" -> ("run/a.mp4", "run")`."""
    if _is_video(Path(line)):
        return line, Path(line).parent.name
    path, _, label = line.rpartition(" ") if " " in line else line.rpartition("\t")
    if not path:
        raise ValueError(f"{line!r}: expected `path label` in the list file")
    return path.strip(), label


def _read_lines(path: Path, key: str) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list file (config key: {key})")
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")


def _check_folder(folder: Path, key: str) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder (config key: {key})")


def _check_known(names: Collection[str], known: Collection[str], *, where: str, remedy: str) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"{where}: training has no class {', '.join(map(repr, unknown[:5]))}; {remedy}")
