"""The command `streamkd cost`: what the networks of a configuration compute; nothing is trained or read but them."""

from collections.abc import Mapping
from typing import Any, get_args

import torch
from rich.table import Table
from torch import Tensor, nn

from lightning_modules.analysis.cost import Convention, cost_of
from lightning_modules.checkpoints import build_network, without_weights
from lightning_modules.configured_network import lookup
from lightning_modules.configured_views import ConfiguredViews
from lightning_modules.console_table import print_table
from lightning_modules.exit_networks import ExitNetworks, attach_exits, load_exit_networks
from lightning_modules.experiment_file import read_experiment
from lightning_modules.networks.early_exit import EarlyExitNetworks


def print_cost(
    config: str,
    *,
    convention: Convention = "multiply_adds",
    num_frames: int | None = None,
    size: int | None = None,
    depth: int = 2,
) -> None:
    """Print what the network of an experiment computes, or its networks with their exits.

    A table has parameters and, for one view and all views of a test video, every convention: multiply_adds, paper
    (ResKD's tables) and with_attention. Below it, one view by module and by exit.

    Args:
        config: YAML file of the experiment; with `model.init_args.network`, or of exits whose checkpoints are there.
        convention: what counts in the tables by module and exit.
        num_frames: of a view; None: as the experiment tests. 1 gives the cost of a frame.
        size: side of the frames in pixels; None: as the experiment tests.
        depth: how deep into the networks the table by module goes.

    Raises:
        ValueError: the file has no network, or no data that give its stream.
        FileNotFoundError: a checkpoint of a network with exits is missing.
    """
    networks, clips, num_views = _tested(config, num_frames, size)
    print_table(_totals(networks, clips, num_views))
    model, inputs = _joined(networks, clips)
    print(f"\n{cost_of(model, inputs, convention=convention).table(depth)}")


def video_cost(config: str) -> int:
    """Multiply-adds of a test video, all its views through all networks and exits.

    Args:
        config: as in `print_cost`; the `config.yaml` of a run serves too.

    Raises:
        ValueError, FileNotFoundError: as `print_cost`.
    """
    networks, clips, num_views = _tested(config)
    return num_views * cost_of(*_joined(networks, clips)).total


def _tested(
    config: str, num_frames: int | None = None, size: int | None = None
) -> tuple[dict[str, nn.Module], dict[str, Tensor], int]:
    """Networks and clips (1, T, C, H, W) by stream, on the meta device, and the number of views of a video."""
    experiment = read_experiment(config)
    networks = _networks(config, experiment)
    views = ConfiguredViews.of(config, experiment, networks, num_frames, size)
    with torch.device("meta"):
        clips = {stream: torch.empty(1, *views.shapes[stream]) for stream in networks}
    return networks, clips, views.number


def _networks(path: str, experiment: Mapping[str, Any]) -> dict[str, nn.Module]:
    """By stream, on the meta device."""
    options = lookup(experiment, "model", "init_args") or {}
    if isinstance(options.get("network"), Mapping):
        with torch.device("meta"):
            network = build_network(without_weights(options["network"]))
        return {options.get("stream", "clip"): network}
    networks = _exit_networks(path, options).networks.networks
    return {stream: network.to("meta") for stream, network in networks.items()}


def _exit_networks(path: str, options: Mapping[str, Any]) -> ExitNetworks:
    """Those of checkpoints: with new exits where there are stages to teach them, with exits they have, or without."""
    sources, exits = options.get("networks"), options.get("exits")
    if sources:
        return attach_exits(sources, (exits or "convolutional") if "stages" in options else {})
    if isinstance(exits, str):
        return load_exit_networks(exits, key="`model.init_args.exits`")
    raise ValueError(
        f"{path}: expected a network in `model.init_args.network`, or checkpoints in `model.init_args.networks` or "
        f"`model.init_args.exits`, came {sorted(options)}"
    )


def _totals(networks: Mapping[str, nn.Module], clips: Mapping[str, Tensor], num_views: int) -> Table:
    conventions: tuple[Convention, ...] = get_args(Convention)
    table = Table("network", "input", "M parameters", *(f"G {name}" for name in conventions))
    for stream, network in networks.items():
        costs = [cost_of(network, clips[stream], convention=convention).total for convention in conventions]
        parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        rows = {
            f"1 view of {tuple(clips[stream].shape[1:])}": 1,
            f"a video, {num_views} view{'s' * (num_views > 1)}": num_views,
        }
        for shown, count in rows.items():
            table.add_row(stream, shown, f"{parameters:.2f}", *(f"{count * cost / 1e9:.3f}" for cost in costs))
    return table


def _joined(networks: dict[str, Any], clips: dict[str, Tensor]) -> tuple[nn.Module, Any]:
    """One model for all of them, and what it takes."""
    if len(networks) == 1:
        return next(iter(networks.values())), next(iter(clips.values()))
    return EarlyExitNetworks(networks), clips
