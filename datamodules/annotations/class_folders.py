"""One folder per split and class."""

from functools import cached_property
from pathlib import Path

from typing_extensions import override

from datamodules.annotations.protocol import SPLITS, Annotations, Split, VideoRecord, check_known, check_split
from datamodules.annotations.video_files import check_folder, class_videos, subfolders


class ClassFolders(Annotations):
    """One folder per split and class: `root/{train,val,test}/<class>/<video>`.

    The classes are those of `train`, or of the splits there are where there is no `train`, sorted.

    Args:
        root: the data set's folder.
    """

    def __init__(self, root: str) -> None:
        self.root = Path(root)

    @override
    @cached_property
    def classes(self) -> list[str]:
        check_folder(self.root, "root")
        splits = [split for split in SPLITS if (self.root / split).is_dir()]
        if not splits:
            raise FileNotFoundError(f"{self.root}: expected folders {', '.join(SPLITS)} (config key: root)")
        splits = ["train"] if "train" in splits else splits
        return sorted({name for split in splits for name in subfolders(self.root / split)})

    @override
    def records(self, split: Split) -> list[VideoRecord]:
        check_split(split)
        folder = self.root / split
        check_folder(folder, "root")
        names = subfolders(folder)
        check_known(names, self.classes, where=str(folder), remedy="add it to train, or remove it here")
        labels = {name: label for label, name in enumerate(self.classes)}
        return [VideoRecord(str(p), labels[name]) for name in names for p in class_videos(folder / name)]
