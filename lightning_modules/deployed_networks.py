"""The networks of a checkpoint as they are deployed: one by one, each from clips of one stream to logits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lightning_modules.checkpoints import load_network, read_checkpoint
from lightning_modules.exit_networks import STATE as EXITS
from lightning_modules.exit_networks import ExitNetworks, load_exit_networks
from lightning_modules.networks.early_exit import EarlyExitNetwork
from lightning_modules.networks.single_exit import SingleExit
from lightning_modules.weighted_inference import STATE as WEIGHTED
from lightning_modules.weighted_inference import WeightedInferenceModule

_KEY = "--checkpoint"


@dataclass(frozen=True)
class DeployedNetwork:
    """A network by itself.

    Args:
        name: of the network in its checkpoint: ``<stream>``, or ``<stream>_<exit>``.
        network: clips (B, T, C, H, W) -> logits (B, num_classes), in eval mode.
        original: the same function as the module that was trained computes it, whole.
        stream: what it sees.
        size: (height, width) of the frames it was trained on, None if that is not known.
        facts: what its user has to know, plain values: ``classes``, ``multi_label``; of an exit ``exit``, and with
            learned scales ``weights``, by exit, of the logits that add up to its output, and ``threshold``, the softmax
            probability of that output above which a video leaves.
    """

    name: str
    network: nn.Module
    original: Callable[[Tensor], Tensor]
    stream: str
    size: tuple[int, int] | None
    facts: dict[str, Any] = field(default_factory=dict)


def read_deployed(path: str, stream: str | None = None, exit: str | None = None) -> list[DeployedNetwork]:
    """Read the network of a ``RecognitionModule``, or each exit of networks with exits by itself.

    Args:
        path: the checkpoint.
        stream: the network on this stream alone; None: all.
        exit: this exit alone; None: all.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no networks that can be built again, or not this stream or exit.
    """
    checkpoint = read_checkpoint(path, key=_KEY)
    if EXITS not in checkpoint:
        return [_read_single(path, stream, exit)]
    if WEIGHTED in checkpoint:
        module = WeightedInferenceModule.load_from_checkpoint(path, map_location="cpu", weights_only=True).eval()
        assert module.exit_networks is not None
        found = _read_exits(path, module.exit_networks, stream, exit)
        return [_with_weights(network, module) for network in found]
    return _read_exits(path, load_exit_networks(path, key=_KEY), stream, exit)


def _read_single(path: str, stream: str | None, exit: str | None) -> DeployedNetwork:
    source = load_network(path, key=_KEY)
    _check_stream(path, stream, [source.stream])
    if exit is not None:
        raise ValueError(f"--exit {exit}: the network of {path} has no exits; leave the option out")
    facts = {"classes": source.classes, "multi_label": source.multi_label}
    return DeployedNetwork(source.stream, source.network, source.network, source.stream, source.size, facts)


def _read_exits(path: str, source: ExitNetworks, stream: str | None, exit: str | None) -> list[DeployedNetwork]:
    _check_stream(path, stream, list(source.configs))
    return [
        _read_exit(source, name, at)
        for name in ([stream] if stream else source.configs)
        for at in ([exit] if exit else _network(source, name).exit_names)
    ]


def _read_exit(source: ExitNetworks, stream: str, exit: str) -> DeployedNetwork:
    network = _network(source, stream)
    single = SingleExit(network, exit).eval()
    place = network.exit_names.index(exit)
    facts = {"classes": source.classes, "multi_label": False, "exit": exit}
    return DeployedNetwork(
        f"{stream}_{exit}", single, lambda clip: network(clip)[:, place], stream, source.sizes.get(stream), facts
    )


def _network(source: ExitNetworks, stream: str) -> EarlyExitNetwork:
    network = source.networks.networks[stream].eval()
    assert isinstance(network, EarlyExitNetwork)
    return network


def _check_stream(path: str, stream: str | None, expected: Sequence[str]) -> None:
    if stream is not None and stream not in expected:
        raise ValueError(f"--stream: expected one of {list(expected)}, of which {path} has networks, came {stream!r}")


def _with_weights(network: DeployedNetwork, module: WeightedInferenceModule) -> DeployedNetwork:
    names = module.networks.exit_names
    place = names.index(f"{network.stream}/{network.facts['exit']}")
    weights = dict(zip(names, module.weights[place, : place + 1].tolist(), strict=False))
    network.facts.update(weights=weights, threshold=module.exit_threshold)
    return network
