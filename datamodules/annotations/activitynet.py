"""ActivityNet 1.3 (Caba Heilbron et al., CVPR 2015; activity-net.org/download.html), by the published JSON file."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from typing_extensions import override

from datamodules.annotations.list_files import fields_of, read_json
from datamodules.annotations.official_splits import ListedVideo, ValidatedSplits
from datamodules.annotations.protocol import SPLITS, Split

FILE = "activity_net.v1-3.min.json"
SUBSETS: dict[Split, str] = {"train": "training", "val": "validation", "test": "testing"}


class ActivityNet(ValidatedSplits):
    """ActivityNet 1.3: `activity_net.v1-3.min.json` and whole, untrimmed videos `v_<id>.mp4`; several labels a video.

    A video's labels are those of all its annotated segments; the segments themselves are not used. The labels of the
    test split are not published. Videos may be named by their id alone. The classes are those annotated, sorted. A
    group is a video.
    """

    multi_label = True
    num_classes = 200
    sizes: Mapping[Split, int] = {"train": 10024, "val": 4926, "test": 5044}

    @override
    def read_classes(self) -> list[str]:
        return sorted({name for split in SPLITS for video in self.listed(split) for name in video.classes or ()})

    @override
    def read_split(self, split: Split) -> list[ListedVideo]:
        return self._subsets[split]

    @cached_property
    def _subsets(self) -> dict[Split, list[ListedVideo]]:
        path = self.lists / FILE
        (database,) = fields_of(read_json(path, "lists", dict), {"database": dict}, str(path))
        subsets: dict[Split, list[ListedVideo]] = {split: [] for split in SPLITS}
        for name, entry in database.items():
            split, video = _listed(name, entry, f"{path}, {name}")
            subsets[split].append(video)
        return subsets


def _listed(name: str, entry: Any, where: str) -> tuple[Split, ListedVideo]:
    subset, annotations = fields_of(entry, {"subset": str, "annotations": list}, where)
    split = next((split for split, official in SUBSETS.items() if official == subset), None)
    if split is None:
        raise ValueError(f"{where}: expected subset {', '.join(SUBSETS.values())}, got {subset!r}")
    classes = {fields_of(annotation, {"label": str}, where)[0] for annotation in annotations}
    return split, ListedVideo((f"v_{name}", name), tuple(sorted(classes)) or None, name, where)
