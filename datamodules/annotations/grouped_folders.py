"""One folder per class, split by groups that file names tell."""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from typing_extensions import override

from datamodules.annotations.groups import check_fraction, first_share, shuffled
from datamodules.annotations.protocol import Annotations, Split, VideoRecord, check_known, check_split
from datamodules.annotations.video_files import check_folder, class_videos, subfolders


class GroupedFolders(Annotations):
    """One folder per class, `root/<class>/<video>`, split by groups (a person, a scene) that file names tell.

    A group stands on one side only. `val` is carved out of the groups that `test` leaves, and `train` is the rest.
    Groups of one name are one group in all classes. The classes are sorted.

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
        check_fraction("test_fraction", test_fraction)
        check_fraction("val_fraction", val_fraction)
        if num_folds is not None and not (num_folds >= 2 and 0 <= fold < num_folds):
            raise ValueError(f"fold: expected 0 to num_folds - 1, num_folds >= 2, got {fold} of {num_folds}")
        self.test_fraction, self.val_fraction = test_fraction, val_fraction
        self.num_folds, self.fold = num_folds, fold

    @override
    @cached_property
    def classes(self) -> list[str]:
        check_folder(self.root, "root")
        return subfolders(self.root)

    @cached_property
    def groups(self) -> dict[Split, list[str]]:
        """The groups of each split."""
        order = shuffled((group for _, group in self._videos), self.seed)
        test = self._test_groups(order)
        rest = [group for group in order if group not in set(test)]
        val = first_share(rest, self.val_fraction)
        return {"train": sorted(rest[len(val) :]), "val": sorted(val), "test": sorted(test)}

    @override
    def records(self, split: Split) -> list[VideoRecord]:
        check_split(split)
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
        check_known(tested, trained, where=f"{self.root}, split {split!r}", remedy=remedy)
        return records

    @cached_property
    def _videos(self) -> list[tuple[VideoRecord, str]]:
        return [
            (VideoRecord(str(path), label), self._group(path))
            for label, name in enumerate(self.classes)
            for path in class_videos(self.root / name)
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
            return first_share(order, self.test_fraction)
        if len(order) < self.num_folds:
            raise ValueError(f"num_folds: expected at most the {len(order)} groups there are, got {self.num_folds}")
        return list(order[self.fold :: self.num_folds])


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern: expected a regular expression, got {pattern!r} ({error})") from error
    if compiled.groups != 1:
        raise ValueError(f"pattern: expected exactly one group in {pattern!r}, got {compiled.groups}")
    return compiled
