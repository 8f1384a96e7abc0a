"""HMDB-51 (Kuehne et al., "HMDB: A Large Video Database for Human Motion Recognition", ICCV 2011), as distributed."""

import os
from collections.abc import Mapping

from typing_extensions import override

from datamodules.annotations.list_files import Line, read_lines
from datamodules.annotations.official_splits import ListedVideo, NumberedSplits
from datamodules.annotations.protocol import Split
from datamodules.annotations.video_files import check_folder

SIDES: dict[str, Split | None] = {"0": None, "1": "train", "2": "test"}


class HMDB51(NumberedSplits):
    """HMDB-51: `testTrainMulti_7030_splits/<class>_test_split1.txt` and `hmdb51_org/<class>/<video>.avi`.

    Each list has lines `<video>.avi 1` (1: train, 2: test, 0: neither). The classes are those that have a list, sorted.
    A group is a source, the film or upload that clips of one or several classes were cut from: what stands before the
    class in the name, `RATRACE` for `RATRACE_wave_f_nm_np1_fr_goo_37.avi`. A name without its class is a source of its
    own.
    """

    default_lists = "testTrainMulti_7030_splits"
    num_classes = 51
    sizes: Mapping[Split, int] = {"train": 3570, "test": 1530}
    class_sizes: Mapping[Split, int] = {"train": 70, "test": 30}

    @override
    def read_classes(self) -> list[str]:
        check_folder(self.lists, "lists")
        return sorted(path.name.removesuffix(self._ending) for path in self.lists.glob(f"*{self._ending}"))

    @override
    def read_split(self, split: Split) -> list[ListedVideo]:
        return [
            _listed(name, line)
            for name in self.classes
            for line in read_lines(self.lists / f"{name}{self._ending}", "lists")
            if _side(line) == split
        ]

    @property
    def _ending(self) -> str:
        return f"_test_split{self.split}.txt"


def _side(line: Line) -> Split | None:
    name, number = line.split_last()
    if not name or number not in SIDES:
        raise ValueError(f"{line.where}: expected `video.avi 1` (0, 1 or 2), got {line.text!r}")
    return SIDES[number]


def _listed(name: str, line: Line) -> ListedVideo:
    stem = os.path.splitext(line.split_last()[0])[0]
    source = stem.rpartition(f"_{name}_")[0] or stem
    return ListedVideo((stem,), (name,), source, line.where)
