"""Networks out of the checkpoints of ``RecognitionModule``: no pickle is executed, the config rebuilds them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import nn

NETWORK = "network."


@dataclass
class TrainedNetwork:
    """A network as a run left it.

    Args:
        network: in eval mode, its parameters frozen.
        config: ``class_path`` and ``init_args`` that rebuild it, without initial weights.
        stream: which stream it was trained on.
        classes: names of its classes, empty if the run did not keep them.
        multi_label: whether it was trained on videos with several labels.
    """

    network: nn.Module
    config: dict[str, Any]
    stream: str
    classes: list[str]
    multi_label: bool


def load_network(path: str) -> TrainedNetwork:
    """Read the network of a ``RecognitionModule`` from its checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of a ``RecognitionModule`` trained from a config.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such checkpoint: {path}; train the network first, or correct the path")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    hparams = checkpoint.get("hyper_parameters", {}) if isinstance(checkpoint, Mapping) else {}
    if not isinstance(hparams.get("network"), Mapping) or "stream" not in hparams:
        raise ValueError(
            f"{path}: expected a checkpoint of a RecognitionModule trained from a config, came one with "
            f"hyper-parameters {list(hparams)}"
        )
    config = without_weights(hparams["network"])
    network = freeze(build_network(config))
    state = {k.removeprefix(NETWORK): v for k, v in checkpoint["state_dict"].items() if k.startswith(NETWORK)}
    network.load_state_dict(state)
    return TrainedNetwork(
        network, config, hparams["stream"], _classes(checkpoint), bool(hparams.get("multi_label", False))
    )


def build_network(config: Mapping[str, Any]) -> nn.Module:
    """Build a network from its ``class_path`` and ``init_args``."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=nn.Module)
    return parser.instantiate(parser.parse_object({"network": dict(config)})).network


def freeze(module: nn.Module) -> nn.Module:
    """Put ``module`` in eval mode and stop gradients to its parameters; keep ``train()`` away from it."""
    return module.eval().requires_grad_(False)


def without_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """A network's config without the weights it started from: ``weights`` and ``sha256`` are None."""
    init_args = config.get("init_args", {})
    sources = {key: None for key in ("weights", "sha256") if key in init_args}
    return {**config, "init_args": {**init_args, **sources}}


def _classes(checkpoint: Mapping[str, Any]) -> list[str]:
    """The class names that the DataModule of the run put into its state."""
    states = [state for state in checkpoint.values() if isinstance(state, Mapping) and "classes" in state]
    return list(states[0]["classes"]) if states else []
