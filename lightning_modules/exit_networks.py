"""Trained networks of several streams with exits: out of checkpoints, into checkpoints, checked to fit together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor

from datamodules.clip import ClipBatch
from lightning_modules.agreement import check_same_classes, num_classes_of, stream_of
from lightning_modules.checkpoints import TrainedNetwork, build_network, load_network, read_checkpoint
from lightning_modules.ensemble import average_views
from lightning_modules.networks.early_exit import EarlyExitNetwork, EarlyExitNetworks

# Where a module that holds exit networks keeps their configs in its checkpoint, and them among its weights.
STATE = "exit_networks"
NETWORKS = "networks."

Layouts = str | dict[str, Any]


@dataclass
class ExitNetworks:
    """Networks with exits, and what a checkpoint keeps beside their weights to build them again.

    Args:
        networks: by stream, backbones frozen.
        configs: ``class_path`` and ``init_args`` of each, without initial weights.
        classes: names of the classes, empty if unknown.
        sizes: (height, width) of the frames that each was trained on, where known.
    """

    networks: EarlyExitNetworks
    configs: dict[str, dict[str, Any]]
    classes: list[str]
    sizes: dict[str, tuple[int, int]]

    def state(self) -> dict[str, Any]:
        """Plain values from which ``from_state`` builds the same networks, without weights."""
        return {"configs": self.configs, "classes": self.classes, "sizes": self.sizes}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "ExitNetworks":
        """Build the networks of ``state``; their weights come afterwards."""
        configs = state["configs"]
        networks = {stream: build_network(config) for stream, config in configs.items()}
        sizes = dict(state.get("sizes", {}))
        return cls(EarlyExitNetworks(networks), configs, list(state["classes"]), sizes)  # type: ignore[arg-type]


def attach_exits(sources: Mapping[str, str], exits: Layouts) -> ExitNetworks:
    """Take the networks of several ``RecognitionModule`` runs, and put new exits on them.

    Args:
        sources: checkpoint by stream.
        exits: name of a layout of internal classifiers, for all networks; or by stream a name, or by depth the
            ``class_path`` and ``init_args`` of classifiers (see ``exit_layout``); ``{}`` for none but the networks'
            own.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is of another stream, other classes or several labels, or there is no such layout.
    """
    if not sources:
        raise ValueError("expected at least one checkpoint by stream in `model.init_args.networks`, came none")
    trained = {stream: load_network(path) for stream, path in sources.items()}
    first = next(iter(trained.values()))
    for stream, source in trained.items():
        _check_source(stream, source, first)
    configs = {s: _with_exits(source.config, _layout_of(s, exits, sources)) for s, source in trained.items()}
    sizes = {stream: source.size for stream, source in trained.items() if source.size}
    built = ExitNetworks.from_state({"configs": configs, "classes": first.classes, "sizes": sizes})
    for stream, network in built.networks.networks.items():
        assert isinstance(network, EarlyExitNetwork)
        network.backbone.load_state_dict(trained[stream].network.state_dict())
    return built


def load_exit_networks(path: str, *, key: str) -> ExitNetworks:
    """Read the networks and their trained exits from the checkpoint of a module that holds them.

    Args:
        path: the checkpoint.
        key: the option that names it, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no exit networks.
    """
    checkpoint = read_checkpoint(path, key=key)
    if STATE not in checkpoint:
        raise ValueError(f"{path}: expected a checkpoint of a ProgressiveDistillationModule ({key}), came another's")
    built = ExitNetworks.from_state(checkpoint[STATE])
    weights = {k.removeprefix(NETWORKS): v for k, v in checkpoint["state_dict"].items() if k.startswith(NETWORKS)}
    built.networks.load_state_dict(weights)
    return built


def output_logits(networks: EarlyExitNetworks, batch: ClipBatch, device: torch.device) -> Tensor:
    """The logits of each exit and head, averaged over views: (B, K + heads, num_classes) float32.

    They are in order of ``output_names``: the K exits are the first ones. Of a batch that holds features, classifiers
    alone are run.
    """
    stored = batch.streams if batch.is_features else None
    streams = stored or {stream: stream_of(batch, stream, network) for stream, network in networks.networks.items()}
    if len(batch) == 0:
        return torch.zeros(0, len(networks.output_names), networks.num_classes, device=device)
    outputs = networks.outputs(streams) if stored is None else networks.outputs_of(stored)
    return average_views(outputs.float(), batch.num_views)


def _with_exits(config: dict[str, Any], layout: Any) -> dict[str, Any]:
    class_path = f"{EarlyExitNetwork.__module__}.{EarlyExitNetwork.__name__}"
    return {"class_path": class_path, "init_args": {"backbone": config, "exits": layout}}


def _layout_of(stream: str, exits: Layouts, sources: Mapping[str, str]) -> Any:
    if isinstance(exits, str) or not exits:
        return exits
    if exits.keys() != sources.keys():
        raise ValueError(
            f"`model.init_args.exits`: expected one layout, or one for each of {list(sources)}, came {list(exits)}"
        )
    return _plain(exits[stream])


def _plain(layout: Any) -> Any:
    """Nested values as YAML has them: command lines make objects of classes, with None for what is not given."""
    values = layout.as_dict() if isinstance(layout, Namespace) else layout
    if not isinstance(values, Mapping):
        return values
    return {key: _plain(value) for key, value in values.items() if value is not None}


def _check_source(stream: str, source: TrainedNetwork, first: TrainedNetwork) -> None:
    """Check one source against its place and against the first."""
    key = f"`model.init_args.networks.{stream}`"
    if source.stream != stream:
        raise ValueError(f"{key}: expected a network trained on stream {stream!r}, came one on {source.stream!r}")
    if source.multi_label:
        raise ValueError(f"{key}: expected a network for one label a video, came one trained with `multi_label: true`")
    expected, came = num_classes_of(first.network), num_classes_of(source.network)
    if came != expected:
        raise ValueError(f"{key}: expected {expected} classes, as the first network has, came {came}")
    if first.classes and source.classes:
        check_same_classes(first.classes, source.classes, of=key)
