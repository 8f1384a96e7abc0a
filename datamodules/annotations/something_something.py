"""Something-Something V2 (Goyal et al., ICCV 2017; version 2 of 2018), by the published JSON files."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from typing_extensions import override

from datamodules.annotations.list_files import fields_of, first_file, read_json, read_lines
from datamodules.annotations.official_splits import ListedVideo, ValidatedSplits
from datamodules.annotations.protocol import Split

PREFIXES = ("something-something-v2-", "")
"""Of the file names: as first published, and in the later archive `labels`."""


def _either(name: str) -> tuple[str, ...]:
    return tuple(f"{prefix}{name}" for prefix in PREFIXES)


class SomethingSomethingV2(ValidatedSplits):
    """Something-Something V2: `labels/something-something-v2-{labels,train,validation,test}.json` and `<id>.webm`.

    The prefix of the JSON files may be absent, as in the later archive. A video's class is its template without
    brackets (`Putting [something] into [something]`); labels follow `labels.json`. The labels of the test split come
    from `test-answers.csv` (`id;class`) where it is there. Who filmed a video is not published: each is a group of its
    own. Left and right matter here: set `data.flip: 0`.
    """

    default_lists = "labels"
    files: Mapping[Split, Sequence[str]] = {
        "train": _either("train.json"),
        "val": _either("validation.json"),
        "test": _either("test.json"),
    }
    num_classes = 174
    sizes: Mapping[Split, int] = {"train": 168913, "val": 24777, "test": 27157}

    @override
    def read_classes(self) -> list[str]:
        path = first_file(self.lists, _either("labels.json"), "lists")
        numbers = read_json(path, "lists", dict)
        if not all(str(number).isdigit() for number in numbers.values()):
            raise ValueError(f"{path}: expected a number for each class (config key: lists)")
        return sorted(numbers, key=lambda name: int(numbers[name]))

    @override
    def read_split(self, split: Split) -> list[ListedVideo]:
        path = self.list_file(split)
        entries = enumerate(read_json(path, "lists", list))
        return [self._listed(entry, split, f"{path}, entry {number}") for number, entry in entries]

    def _listed(self, entry: object, split: Split, where: str) -> ListedVideo:
        if split == "test":
            (name,) = fields_of(entry, {"id": str}, where)
            template = self._answers.get(name)
        else:
            name, template = fields_of(entry, {"id": str, "template": str}, where)
        classes = None if template is None else (template.replace("[", "").replace("]", ""),)
        return ListedVideo((name,), classes, name, where)

    @cached_property
    def _answers(self) -> dict[str, str]:
        """Class by id, of the test split."""
        path = next((self.lists / name for name in _either("test-answers.csv") if (self.lists / name).is_file()), None)
        lines = [] if path is None else read_lines(path, "lists")
        for line in lines:
            if ";" not in line.text:
                raise ValueError(f"{line.where}: expected `id;class`, got {line.text!r}")
        return {name: template for name, _, template in (line.text.partition(";") for line in lines)}
