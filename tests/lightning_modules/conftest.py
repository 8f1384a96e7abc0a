"""Families of networks with exits; checkpoints of stream networks as training leaves them, without training."""

import io
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import wandb

from datamodules.bitstream import encode_frames
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


@pytest.fixture(scope="session")
def longer_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of one split and two classes, of videos that take a while: 40 of 32 frames of 160x120."""
    root = tmp_path_factory.mktemp("longer")
    texture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8).repeat(2, 0).repeat(2, 1)
    for label, speed in (("left", -2), ("right", 2)):
        folder = root / "train" / label
        folder.mkdir(parents=True)
        for number in range(20):
            if number < 5:
                frames = (np.roll(texture, (t * number, t * speed), (0, 1)) for t in range(32))
                encode_frames(frames, folder / f"{label}_{number}.mp4")
            else:
                shutil.copy(folder / f"{label}_{number % 5}.mp4", folder / f"{label}_{number}.mp4")
    return root


@pytest.fixture
def ucf101_lists(tmp_path: Path) -> Path:
    """The lists of a UCF-101 of two classes and one split, in `data/ucf101`, with files that are no videos."""
    lists = tmp_path / "data/ucf101/ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("1 Left\n2 Right\n")
    for split, groups in {"train": range(8, 26), "test": range(1, 8)}.items():
        names = [f"{name}/v_{name}_g{group:02d}_c01.avi" for name in ("Left", "Right") for group in groups]
        (lists / f"{split}list01.txt").write_text("\n".join(names))
        for name in names:
            (lists.parent / name).parent.mkdir(exist_ok=True)
            (lists.parent / name).touch()
    return lists


@pytest.fixture
def no_video_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever opens a video, fails the test."""
    monkeypatch.setattr(av, "open", lambda *args, **options: pytest.fail(f"{args} is opened"))


@pytest.fixture
def end_wandb() -> Callable[[], None]:
    """Write everything, and forget settings."""

    def end() -> None:
        wandb.finish()
        wandb.teardown()

    return end


@pytest.fixture
def fresh_wandb(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end_wandb: Callable[[], None]
) -> Iterator[pytest.MonkeyPatch]:
    """W&B as in a new process of a user without files or terminal; the environment can be changed until it is used."""
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.chdir(tmp_path)
    end_wandb()
    yield monkeypatch
    end_wandb()
