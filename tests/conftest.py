"""A tiny data set of real videos, the configuration of a tiny run on it, and ways to run and inspect commands."""

import multiprocessing
import struct
from collections.abc import Callable, Iterator
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from datamodules.bitstream.encode import encode_frames
from lightning_modules.cli import _run

# Loader workers are forked, as from a shell: those of a fork server would outlive a parent that is killed.
COMMAND_LINE = """
import multiprocessing

from lightning_modules.cli import main

multiprocessing.set_start_method("fork", force=True)
main(args)
"""
SPLITS = {"train": 5, "val": 3, "test": 2}  # videos a class; two classes


@pytest.fixture(scope="session")
def tiny_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-folder data set: squares over noise that move to the left or to the right."""
    root = tmp_path_factory.mktemp("videos")
    random = np.random.default_rng(0)
    for split, count in SPLITS.items():
        for label, speed in (("left", -2), ("right", 2)):
            folder = root / split / label
            folder.mkdir(parents=True)
            for index in range(count + (split == "test" and label == "left")):
                encode_frames(_moving_square(random, speed), folder / f"{split}_{label}_{index}.mp4", gop_size=6)
    return root


def _moving_square(random: np.random.Generator, speed: int) -> list[np.ndarray]:
    background = random.integers(0, 80, (32, 40, 3), dtype=np.uint8)
    top, left = random.integers(4, 16), 16
    frames = [background.copy() for _ in range(9)]
    for step, frame in enumerate(frames):
        frame[top : top + 10, left + speed * (step - 4) : left + speed * (step - 4) + 10] = 220
    return frames


@pytest.fixture
def tiny_config(write_tiny_config: Callable[[Path], Path], tmp_path: Path) -> Path:
    """The tiny configuration, for a run in `tmp_path / "run"`."""
    return write_tiny_config(tmp_path)


@pytest.fixture(scope="session")
def write_tiny_config(tiny_videos: Path) -> Callable[[Path], Path]:
    """Write `config.yaml` into a folder, for a run in its subfolder `run`; returns its path."""

    def write(folder: Path) -> Path:
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(_tiny_config(tiny_videos, folder / "run")))
        return path

    return write


def _tiny_config(videos: Path, run_dir: Path) -> dict[str, object]:
    """Two epochs of five steps, with shuffling, augmentation and dropout."""
    network = {"num_classes": 2, "in_channels": 3, "width": 4, "input_norm": True, "dropout": 0.5}
    optimizer = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}
    scheduler = {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 2}}
    return {
        "run_dir": str(run_dir),
        "checkpoint_every_n_steps": 2,
        "model": {
            "class_path": "lightning_modules.recognition.RecognitionModule",
            "init_args": {
                "network": {"class_path": "lightning_modules.networks.resnet10", "init_args": network},
                "stream": "residual",
                "optimizer": optimizer,
                "lr_scheduler": scheduler,
            },
        },
        "data": {
            "class_path": "datamodules.compressed_video.CompressedVideoDataModule",
            "init_args": {
                "annotations": {
                    "class_path": "datamodules.annotations.ClassFolders",
                    "init_args": {"root": str(videos)},
                },
                "streams": ["residual"],
                "num_segments": 2,
                "size": 24,
                "batch_size": 2,
            },
        },
        "trainer": {
            "max_epochs": 2,
            "accelerator": "cpu",
            "devices": 1,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
        },
    }


@pytest.fixture(scope="session")
def streamkd() -> Callable[..., int | None]:
    """Run the command line in a process of its own; returns its exit status, -9 if it was killed.

    The processes are forked off a server that has imported everything: half a second each instead of five.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning_modules.trainer_cli", "datamodules.compressed_video"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()

    def run(*args: object) -> int | None:
        process = context.Process(target=exec, args=(COMMAND_LINE, {"args": [str(arg) for arg in args]}))
        process.start()
        process.join(120)
        return process.exitcode

    return run


class Parsed(Exception):
    """Carries the configuration out of a command line that stops there."""


@pytest.fixture(scope="session")
def parse_fit() -> Callable[..., Any]:
    """Parse options of a fit against the real signatures, without running it; returns the configuration."""
    from lightning_modules.trainer_cli import TrainerCLI

    def stop(cli: TrainerCLI) -> None:
        raise Parsed(cli.config.fit)

    @cache
    def parse(*options: str) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TrainerCLI, "before_instantiate_classes", stop)
            with pytest.raises(Parsed) as parsed:
                _run(["fit", *options])
        return parsed.value.args[0]

    return parse


@pytest.fixture(scope="session")
def holds() -> Callable[[Any, str, Any], bool]:
    """Whether a parsed configuration has a value under a dotted key, which may leave out `init_args`."""

    def agrees(node: Any, value: Any) -> bool:
        if not hasattr(node, "as_dict"):
            return node == value
        if isinstance(value, dict):
            return all(agrees(node[name], part) for name, part in value.items())
        return node["class_path"] == value

    def find(node: Any, key: str, value: Any) -> bool:
        for part in key.split("."):
            node = node[part] if part in node else node["init_args"][part]
        return agrees(node, value)

    return find


@pytest.fixture(scope="session")
def read_wandb_log() -> Callable[[Path], list[Any]]:
    """Read the records of an offline W&B run, a `run-*.wandb` file: protobuf in the log format of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    return lambda path: [Record.FromString(data) for data in _level_db_records(path.read_bytes())]


def _level_db_records(log: bytes) -> Iterator[bytes]:
    """Whole records, out of fragments that end at blocks of 32 KiB; each has a checksum, its length and its type."""
    place, record = 7, b""  # behind W&B's own header
    while place < len(log):
        if (room := -place % 2**15) and room < 7:
            place += room
            continue
        _, length, kind = struct.unpack_from("<IHB", log, place)
        record += log[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""
