"""The command `streamkd cost`: what the network of a configuration computes; nothing is trained, read or fetched."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_modules.analysis.cost import Convention, cost_of
from lightning_modules.checkpoints import build_network, without_weights


def print_cost(
    experiment: str,
    *,
    convention: Convention = "multiply_adds",
    num_frames: int = 1,
    size: int | None = None,
    depth: int = 2,
) -> None:
    """Print what the network of an experiment computes for one clip, by module and by exit.

    Args:
        experiment: YAML file with `model.init_args.network`.
        convention: what counts: multiply_adds, paper (ResKD's tables) or with_attention.
        num_frames: frames of the clip; 1 gives the cost of a frame.
        size: side of the frames in pixels; None takes `data.init_args.size`.
        depth: how deep into the network the table goes.

    Raises:
        ValueError: the file has no such network, or no size while none is given.
    """
    config = yaml.safe_load(Path(experiment).read_text())
    section = _lookup(config, "model", "init_args", "network")
    if not isinstance(section, Mapping):
        raise ValueError(f"{experiment}: expected a network in `model.init_args.network`, came {section!r}")
    size = size or _lookup(config, "data", "init_args", "size")
    if not isinstance(size, int):
        raise ValueError(
            f"{experiment}: expected one side in pixels in `data.init_args.size`, came {size!r}; use --size"
        )
    with torch.device("meta"):
        network = build_network(without_weights(section))
        channels = int(network.in_channels)  # type: ignore[arg-type]
        clip = torch.empty(1, num_frames, channels, size, size)
        cost = cost_of(network, clip, convention=convention)
    print(f"{section['class_path']} on a clip of {tuple(clip.shape)}\n\n{cost.table(depth)}")


def _lookup(values: Any, *keys: str) -> Any:
    """What stands under nested keys, or None."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values
