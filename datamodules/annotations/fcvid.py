"""FCVID, the Fudan-Columbia Video Dataset (Jiang et al., TPAMI 2018; fvl.fudan.edu.cn), by its text files."""

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from typing_extensions import override

from datamodules.annotations.list_files import Line, read_classes, read_lines
from datamodules.annotations.official_splits import ListedVideo, OfficialSplits
from datamodules.annotations.protocol import Split

VIDEOS, LABELS = "FCVID_VideoName_TrainTestSplit.txt", "FCVID_Label.txt"


class FCVID(OfficialSplits):
    """FCVID: `materials/FCVID_VideoName_TrainTestSplit.txt`, `materials/FCVID_Label.txt`; several labels a video.

    The first has lines `<folder>/<video> train` (or `test`), the second a row of 0 and 1 for each of these lines, a
    column per class. The data set is sent on request: this layout is that of public code that reads it, and the sizes
    are those of Meng et al. (AR-Net, ECCV 2020), 91,223 videos in all. Labels follow the columns. A group is a video.

    Args:
        root: the data set's folder.
        classes_file: names of the classes, relative to `root`: a line per column, `name` or `number name`. None: the
            columns' numbers, from 0.
        **options: as in `OfficialSplits`.
    """

    default_lists = "materials"
    multi_label = True
    num_classes = 239
    sizes: Mapping[Split, int] = {"train": 45611, "test": 45612}

    def __init__(self, root: str, classes_file: str | None = None, **options: Any) -> None:
        super().__init__(root, **options)
        self.classes_file = classes_file

    @override
    def read_classes(self) -> list[str]:
        if self.classes_file is None:
            return [str(column) for column in range(self._num_columns)]
        path = self.root / self.classes_file
        classes = [name for _, name in read_classes(path, "classes_file")]
        if len(classes) != self._num_columns:
            raise ValueError(
                f"{path}: expected a class for each of the {self._num_columns} columns of {self.lists / LABELS}, "
                f"got {len(classes)} (config key: classes_file)"
            )
        return classes

    @override
    def read_split(self, split: Split) -> list[ListedVideo]:
        videos, rows = read_lines(self.lists / VIDEOS, "lists"), self._rows
        if len(videos) != len(rows):
            expected = f"a row for each of the {len(videos)} lines of {VIDEOS}"
            raise ValueError(f"{self.lists / LABELS}: expected {expected}, got {len(rows)}")
        sides = zip(map(_name_and_side, videos), rows, videos, strict=True)
        return [self._listed(name, row, line) for (name, side), row, line in sides if side == split]

    @cached_property
    def _rows(self) -> list[Line]:
        return read_lines(self.lists / LABELS, "lists")

    @property
    def _num_columns(self) -> int:
        return len(self._rows[0].text.split()) if self._rows else 0

    def _listed(self, name: str, row: Line, line: Line) -> ListedVideo:
        fields = row.text.split()
        if len(fields) != self._num_columns or not {"0", "1"}.issuperset(fields):
            raise ValueError(f"{row.where}: expected {self._num_columns} columns of 0 or 1, got {row.text[:50]!r}")
        classes = tuple(self.classes[column] for column, field in enumerate(fields) if field == "1")
        return ListedVideo((name,), classes, name, line.where)


def _name_and_side(line: Line) -> tuple[str, str]:
    name, side = line.split_last()
    if not name or side not in ("train", "test"):
        raise ValueError(f"{line.where}: expected `folder/video train` or `test`, got {line.text!r}")
    return os.path.splitext(os.path.normpath(name))[0], side
