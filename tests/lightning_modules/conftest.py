"""Families of networks with exits; checkpoints of stream networks as training leaves them, without training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.checkpoints import build_network

NETWORKS = "lightning_modules.networks"
TEAM = "iframe+mv+residual"
PARTS = {"iframe": 3, "mv": 2, "residual": 3}
CHANNELS = {"mv": 2, "residual": 3, "iframe": 3, "flow": 2, "mv+residual": 5, TEAM: 8}


@dataclass(frozen=True)
class Family:
    """Networks with exits that streams share or have each for itself; whatever holds of exits holds of all families.

    Args:
        channels: of the streams that networks see.
        exits: names of those of each network.
        layout: of internal classifiers, for clips of two segments.
        heads: of each network, by which outputs are called beside the exits.
    """

    channels: Mapping[str, int]
    exits: tuple[str, ...]
    layout: Any
    heads: tuple[str, ...] = ()

    @property
    def streams(self) -> list[str]:
        return list(self.channels)

    @property
    def exit_names(self) -> list[str]:
        return [f"{stream}/{name}" for stream in self.channels for name in self.exits]

    @property
    def output_names(self) -> list[str]:
        return [*self.exit_names, *(f"{stream}/{head}" for stream in self.channels for head in self.heads)]

    @property
    def students(self) -> list[int]:
        """Places of the internal classifiers among outputs."""
        return [place for place, name in enumerate(self.exit_names) if not name.endswith("final")]

    def teacher(self, name: str) -> int:
        """Place of an output that teaches."""
        output = f"{name}/final" if name in self.channels else f"{TEAM}/{name}"
        return self.output_names.index(output)


FAMILIES = {
    "three networks": Family(
        {stream: CHANNELS[stream] for stream in ("mv", "residual", "iframe")},
        ("layer1", "layer2", "layer3", "final"),
        "convolutional",
    ),
    "TEAM-Net": Family(
        {TEAM: 8},
        ("stem", "layer1", "layer2", "final"),
        {
            TEAM: {
                depth: {"class_path": f"{NETWORKS}.SegmentClassifier", "init_args": {"num_segments": 2}}
                for depth in ("stem", "layer1", "layer2")
            }
        },
        tuple(PARTS),
    ),
}


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    """Each family of networks in turn."""
    return FAMILIES[request.param]


@pytest.fixture(scope="session")
def network_config() -> Callable[..., dict[str, Any]]:
    """The `class_path` and `init_args` of a small network on a stream; options are those of its ResNets."""

    def config(stream: str, **options: Any) -> dict[str, Any]:
        if stream == TEAM:
            return {"class_path": f"{NETWORKS}.TeamNet", "init_args": {part: config(part, **options) for part in PARTS}}
        return {"class_path": f"{NETWORKS}.resnet10", "init_args": {"in_channels": CHANNELS[stream], **options}}

    return config


@pytest.fixture(scope="session")
def save_network(network_config: Callable[..., dict[str, Any]]) -> Callable[..., str]:
    """Write the checkpoint of a `RecognitionModule` on a stream, with random weights; returns its path."""

    def save(folder: Path, stream: str, *, num_classes: int = 2, **hyper_parameters: object) -> str:
        torch.manual_seed(sum(map(ord, stream)))
        config = network_config(stream, num_classes=num_classes, width=4)
        network = build_network(config)
        for name, buffer in network.named_buffers():  # statistics that training has moved
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
        checkpoint = {
            "hyper_parameters": {"network": config, "stream": stream} | hyper_parameters,
            "pytorch-lightning_version": "2.6.6",
            "state_dict": {f"network.{name}": value for name, value in network.state_dict().items()},
        }
        path = folder / f"{stream}.ckpt"
        torch.save(checkpoint, path)
        return str(path)

    return save
