"""Config files choose a data set by its `class_path`."""

from typing import Any

import pytest
from jsonargparse import ArgumentParser

import datamodules.annotations
from datamodules.annotations import Annotations

READERS = sorted(
    name
    for name, value in vars(datamodules.annotations).items()
    if isinstance(value, type) and Annotations in value.__mro__ and value is not Annotations
)


def test_all_readers_are_here():
    assert len(READERS) == 11


@pytest.mark.parametrize("name", READERS)
def test_a_class_path_is_enough_and_nothing_is_read(name: str, tmp_path) -> None:
    required: dict[str, Any] = {
        "GroupedFolders": {"pattern": "_g(.)"},
        "KineticsSubset": {"class_names": ["vault"], "videos_per_class": 1},
    }.get(name, {})
    value = {"class_path": f"datamodules.annotations.{name}", "init_args": {"root": "nowhere", **required}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--annotations", type=Annotations)
    parsed = parser.parse_object({"annotations": value})
    assert parsed.annotations.class_path == f"datamodules.annotations.{name}"
    reader = parser.instantiate_classes(parsed).annotations
    with pytest.raises(ValueError if name == "VideoLists" else FileNotFoundError, match=r"nowhere|config key: train"):
        reader.records("train")
