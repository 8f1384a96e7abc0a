"""Checkpoints of stream networks as training leaves them, without training."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_modules.networks import resnet10

CHANNELS = {"mv": 2, "residual": 3, "iframe": 3, "flow": 2, "mv+residual": 5}


@pytest.fixture(scope="session")
def save_network() -> Callable[..., str]:
    """Write the checkpoint of a `RecognitionModule` on a stream, with random weights; returns its path."""

    def save(folder: Path, stream: str, *, num_classes: int = 2, **hyper_parameters: object) -> str:
        torch.manual_seed(sum(map(ord, stream)))
        init_args = {"num_classes": num_classes, "in_channels": CHANNELS[stream], "width": 4}
        network = resnet10(**init_args)
        for name, buffer in network.named_buffers():  # statistics that training has moved
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
        config = {"class_path": "lightning_modules.networks.resnet10", "init_args": init_args}
        checkpoint = {
            "hyper_parameters": {"network": config, "stream": stream} | hyper_parameters,
            "pytorch-lightning_version": "2.6.6",
            "state_dict": {f"network.{name}": value for name, value in network.state_dict().items()},
        }
        path = folder / f"{stream}.ckpt"
        torch.save(checkpoint, path)
        return str(path)

    return save
