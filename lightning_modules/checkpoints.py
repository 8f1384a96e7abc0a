"""Checkpoints, and networks out of those of ``RecognitionModule``: no pickle is executed, the config rebuilds them."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from torch import nn

from lightning_modules.networks.weights import read_tensors

NETWORK = "network."
KEYS = ("pytorch-lightning_version", "state_dict")


@dataclass
class TrainedNetwork:
    """A network as a run left it.

    Args:
        network: in eval mode, its parameters frozen.
        config: ``class_path`` and ``init_args`` that rebuild it, without initial weights.
        stream: which stream it was trained on.
        classes: names of its classes, empty if the run did not keep them.
        multi_label: whether it was trained on videos with several labels.
        size: (height, width) of the frames it was trained on, None if the run did not keep it.
    """

    network: nn.Module
    config: dict[str, Any]
    stream: str
    classes: list[str]
    multi_label: bool
    size: tuple[int, int] | None = None


def read_checkpoint(path: str | Path, *, key: str = "--ckpt_path") -> dict[str, Any]:
    """Read a checkpoint that Lightning wrote, onto the CPU.

    Args:
        path: the file.
        key: the option that chooses it, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such checkpoint: {path}; train the network first, or correct {key}")
    checkpoint = read_tensors(path, expected=f"a whole Lightning checkpoint ({key})")
    if not isinstance(checkpoint, dict) or not checkpoint.keys() >= set(KEYS):
        came = f"a dict with keys {list(checkpoint)[:5]}" if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(
            f"{path}: expected a whole Lightning checkpoint with {' and '.join(KEYS)}, came {came}; "
            f"train again, or choose another with {key}"
        )
    return checkpoint


def check_model(path: str | Path, model: Mapping[str, Any]) -> None:
    """Check that a checkpoint is whole and of the configured model: the same class and, if it has one, stream.

    Args:
        path: the checkpoint.
        model: ``class_path`` and ``init_args`` of the configuration.

    Raises:
        ValueError: it is not. What else differs, the weights will tell.
    """
    hparams = read_checkpoint(path).get("hyper_parameters", {})
    configured = {"_class_path": model["class_path"], "stream": model.get("init_args", {}).get("stream")}
    for name, expected in configured.items():
        came = hparams.get(name)
        if None not in (came, expected) and came != expected:
            what = "stream" if name == "stream" else "model"
            raise ValueError(
                f"{path}: expected a checkpoint of {what} {expected}, as the configuration has, came one of {came}; "
                "choose another --ckpt_path or --config"
            )


def load_network(path: str, *, key: str = "`model.init_args.networks`") -> TrainedNetwork:
    """Read the network of a ``RecognitionModule`` from its checkpoint.

    Args:
        path: the checkpoint.
        key: the option that names it, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of a ``RecognitionModule`` trained from a config.
    """
    checkpoint = read_checkpoint(path, key=key)
    hparams = checkpoint.get("hyper_parameters", {})
    if not isinstance(hparams.get("network"), Mapping) or "stream" not in hparams:
        raise ValueError(
            f"{path}: expected a checkpoint of a RecognitionModule trained from a config, came one with "
            f"hyper-parameters {list(hparams)}"
        )
    config = without_weights(hparams["network"])
    network = freeze(build_network(config))
    state = {k.removeprefix(NETWORK): v for k, v in checkpoint["state_dict"].items() if k.startswith(NETWORK)}
    network.load_state_dict(state)
    stream, data = hparams["stream"], _data_state(checkpoint)
    size = data.get("sizes", {}).get(stream)
    multi_label = bool(hparams.get("multi_label", False))
    return TrainedNetwork(network, config, stream, list(data["classes"]), multi_label, size and tuple(size))


def build_network(config: Mapping[str, Any]) -> nn.Module:
    """Build a network from its ``class_path`` and ``init_args``."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=nn.Module)
    # A copy: the parser puts objects of its own into what it is given.
    return parser.instantiate(parser.parse_object({"network": deepcopy(dict(config))})).network


def freeze(module: nn.Module) -> nn.Module:
    """Put ``module`` in eval mode and stop gradients to its parameters; keep ``train()`` away from it."""
    return module.eval().requires_grad_(False)


def without_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """A network's config without the weights it started from: ``weights`` and ``sha256`` are None, inside it too."""
    init_args = {
        name: without_weights(value) if isinstance(value, Mapping) and "class_path" in value else value
        for name, value in config.get("init_args", {}).items()
    }
    sources = {key: None for key in ("weights", "sha256") if key in init_args}
    return {**config, "init_args": {**init_args, **sources}}


def _data_state(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the DataModule of the run put into its state: ``classes`` at least, empty if there is none."""
    states = (state for state in checkpoint.values() if isinstance(state, Mapping) and "classes" in state)
    return next(states, {"classes": []})
