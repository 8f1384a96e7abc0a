"""UCF-101 (Soomro, Zamir, Shah, CRCV-TR-12-01), in the layout it is distributed in."""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from typing_extensions import override

from datamodules.annotations.list_files import Line, read_classes, read_lines
from datamodules.annotations.official_splits import ListedVideo, NumberedSplits, SplitNumber
from datamodules.annotations.protocol import Split

SIZES: Mapping[int, Mapping[Split, int]] = {
    1: {"train": 9537, "test": 3783},
    2: {"train": 9586, "test": 3734},
    3: {"train": 9624, "test": 3696},
}


class UCF101(NumberedSplits):
    """UCF-101: `ucfTrainTestlist/{classInd,trainlist01,testlist01}.txt` and `UCF-101/<Class>/v_<Class>_g01_c01.avi`.

    Labels follow the official index, `classInd.txt`, from 0. A group is the number g01 to g25 over all classes, as the
    official splits take it.

    Args:
        root: the data set's folder.
        split: which of the three official splits.
        **options: as in `OfficialSplits`.
    """

    default_lists = "ucfTrainTestlist"
    num_classes = 101

    def __init__(self, root: str, split: SplitNumber = 1, **options: Any) -> None:
        super().__init__(root, split, **options)
        self.files = {side: (f"{side}list{split:02d}.txt",) for side in SIZES[split]}
        self.sizes = SIZES[split]

    @override
    def read_classes(self) -> list[str]:
        return list(self._names.values())

    @override
    def read_split(self, split: Split) -> list[ListedVideo]:
        return [self._listed(line) for line in read_lines(self.list_file(split), "lists")]

    @cached_property
    def _names(self) -> dict[str, str]:
        """Class names by number."""
        return dict(read_classes(self.lists / "classInd.txt", "lists"))

    def _listed(self, line: Line) -> ListedVideo:
        match = re.fullmatch(r"(.+)/(v_.+_g(\d+)_c\d+)\.\w+(?:\s+(\d+))?", line.text)
        if match is None:
            raise ValueError(f"{line.where}: expected `Class/v_Class_g01_c01.avi 1`, got {line.text!r}")
        folder, name, group, number = match.groups()
        if number is not None and self._names.get(number) != folder:
            raise ValueError(f"{line.where}: class {number} is {self._names.get(number)} in classInd.txt, not {folder}")
        return ListedVideo((name,), (folder,), group, line.where)
