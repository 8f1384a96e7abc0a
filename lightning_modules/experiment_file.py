"""The YAML file of an experiment as it is written: nothing of it is checked, built or looked for."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml


def read_experiment(path: str | Path) -> Any:
    """What a YAML file says, with the files that it names by relative paths in their place.

    Args:
        path: e.g. ``configs/ucf101/mv.yaml``, which has ``annotations: annotations.yaml``.

    Raises:
        FileNotFoundError: there is no such file.
    """
    return _filled(yaml.safe_load(Path(path).read_text(encoding="utf-8")), Path(path).parent)


def options_of(experiment: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Its values by their names on the command line; lists are values.

    {"model": {"init_args": {"exits": {"mv": "resnet18"}}}} -> ("model.exits.mv", "resnet18")
    """
    for key, value in experiment.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}".lstrip(".")
        if isinstance(value, Mapping):
            yield from options_of(value, name)
        else:
            yield name, value


def _filled(value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping):
        return {key: _filled(child, folder) for key, child in value.items()}
    if isinstance(value, list):
        return [_filled(child, folder) for child in value]
    if isinstance(value, str) and value.endswith(".yaml") and (folder / value).is_file():
        return read_experiment(folder / value)
    return value
