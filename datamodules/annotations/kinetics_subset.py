"""Some classes of Kinetics-400 with some videos of each: small enough to train flow, and fixed by a seed.

IP TSN (arXiv 1912.04462) is tested on a subset of Kinetics of which neither classes nor videos are known; this one is
our design.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import override

from datamodules.annotations.groups import ranked
from datamodules.annotations.kinetics import Kinetics400
from datamodules.annotations.official_splits import ListedVideo
from datamodules.annotations.protocol import Split, check_known
from datamodules.whole_file import open_whole

_SPLITS: tuple[Split, ...] = ("train", "val")
_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")


class KineticsSubset(Kinetics400):
    """A part of Kinetics-400, read from its lists: given classes, and of each the same number of training videos.

    The training videos of a class are those that come first in the order of the SHA-256 of `<subset_seed> <video>`,
    the video by its full name, `<youtube_id>_<start, 6 digits>_<end, 6 digits>`: neither the order of the list nor
    which other videos a release has moves any of them. A class that has fewer gives all. `val` and `test` have all
    official videos of the classes. `streamkd kinetics-subset` writes down which they are.

    Args:
        root: the folder of Kinetics-400.
        class_names: as `train.csv` has them; labels follow the sorted names.
        videos_per_class: of the official training list; `val` is carved out of them.
        subset_seed: of the choice of these.
        **options: as in `Kinetics400`.

    Raises:
        ValueError: no class, or one twice; or less than a video of each.
    """

    def __init__(
        self, root: str, class_names: Sequence[str], videos_per_class: int, *, subset_seed: int = 0, **options: Any
    ) -> None:
        super().__init__(root, **options)
        if not class_names or len(set(class_names)) != len(class_names):
            raise ValueError(f"class_names: expected different classes of Kinetics-400, got {list(class_names)}")
        if videos_per_class < 1:
            raise ValueError(f"videos_per_class: expected 1 or more, got {videos_per_class}")
        self.class_names = frozenset(class_names)
        self.videos_per_class, self.subset_seed = videos_per_class, subset_seed
        self.num_classes = len(self.class_names)

    @override
    def read_classes(self) -> list[str]:
        classes = super().read_classes()
        remedy = "write names as they are there (config key: class_names)"
        check_known(self.class_names, classes, where=str(self.list_file("train")), remedy=remedy)
        return classes

    @override
    def read_split(self, split: Split) -> list[ListedVideo]:
        listed = [video for video in super().read_split(split) if self.class_names.issuperset(video.classes or ())]
        return self._first_of_each_class(listed) if split == "train" else listed

    def _first_of_each_class(self, listed: Sequence[ListedVideo]) -> list[ListedVideo]:
        names: Mapping[Any, list[str]] = defaultdict(list)
        for video in listed:
            names[video.classes].append(video.names[0])
        chosen = {name for some in names.values() for name in ranked(some, self.subset_seed)[: self.videos_per_class]}
        return [video for video in listed if video.names[0] in chosen]


def write_subset(annotations: KineticsSubset, output: str) -> None:
    """Write the list of a subset's videos, those of the official `train` and `val`, without looking for any of them.

    Args:
        annotations: the subset, or a YAML file of it, e.g. `configs/kinetics_subset/annotations.yaml`.
        output: the CSV file to write, with the columns of Kinetics' own.

    Raises:
        FileNotFoundError: a list of Kinetics-400 is missing.
        ValueError: training has not all of the classes, or a list is no CSV file of Kinetics.
    """
    classes = annotations.classes
    rows = [_row(video, split) for split in _SPLITS for video in annotations.listed(split)]
    with open_whole(output) as file:
        csv.writer(file, lineterminator="\n").writerows([_COLUMNS, *rows])
    print(f"{output}: {len(rows)} videos of {len(classes)} classes", flush=True)


def _row(video: ListedVideo, split: Split) -> tuple[str | int, ...]:
    _, start, end = video.names[0].rsplit("_", 2)
    (label,) = video.classes or ("",)
    return label, video.group, int(start), int(end), split
