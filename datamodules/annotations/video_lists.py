"""List files with a line per video."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from typing_extensions import override

from datamodules.annotations.list_files import Line, read_classes, read_lines
from datamodules.annotations.protocol import SPLITS, Annotations, Split, VideoRecord, check_known, check_split
from datamodules.annotations.video_files import is_video


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
        check_split(split)
        if self.lists[split] is None:
            raise ValueError(f"split {split!r}: expected a list file (config key: {split}), got none")
        lines = list(self._lines(split))
        if not lines:
            raise ValueError(f"{self.lists[split]}: expected a line per video, got none (config key: {split})")
        found = {name for _, names in lines for name in names}
        remedy = "name it in the lists of the config keys train or classes_file, or remove its videos here"
        check_known(found, self._labels, where=str(self.lists[split]), remedy=remedy)
        return [VideoRecord(path, self._label(names)) for path, names in lines]

    @cached_property
    def _numbered(self) -> list[tuple[str, str]]:
        """(number, name) of each class, in order of label."""
        if self.classes_file is None:
            return [(name, name) for name in sorted(self._found_labels(), key=_natural)]
        return read_classes(self.root / self.classes_file, "classes_file")

    @cached_property
    def _labels(self) -> dict[str, int]:
        """Label of each class, by number and by name; a name wins."""
        numbers = {number: label for label, (number, _) in enumerate(self._numbered)}
        return numbers | {name: label for label, (_, name) in enumerate(self._numbered)}

    def _found_labels(self) -> set[str]:
        splits: list[Split] = ["train"] if self.lists["train"] else [s for s in SPLITS if self.lists[s]]
        return {name for split in splits for _, names in self._lines(split) for name in names}

    def _lines(self, split: Split) -> Iterator[tuple[str, list[str]]]:
        for line in read_lines(self.root / str(self.lists[split]), split):
            path, label = _split_line(line)
            yield str(self.root / path), label.split(",") if self.multi_label else [label]

    def _label(self, names: list[str]) -> int | tuple[int, ...]:
        labels = tuple(sorted(self._labels[name] for name in names))
        return labels if self.multi_label else labels[0]


def _natural(name: str) -> tuple[bool, int, str]:
    return (not name.isdigit(), int(name) if name.isdigit() else 0, name)


def _split_line(line: Line) -> tuple[str, str]:
    """Path and label: `"a b.mp4 jump" -> ("a b.mp4", "jump")`, `"run/a.mp4" -> ("run/a.mp4", "run")`."""
    text = line.text
    if is_video(text):
        return text, Path(text).parent.name
    path, _, label = text.rpartition(" ") if " " in text else text.rpartition("\t")
    if not path:
        raise ValueError(f"{line.where}: expected `path label`, got {text!r}")
    return path.strip(), label
