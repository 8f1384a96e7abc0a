"""A tiny data set of real videos, the configuration of a tiny run on it, and ways to run, kill and inspect commands."""

import json
import multiprocessing
import os
import shutil
import signal
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
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
# In a process group of its own. Workers of a pool are forked as well: imports would take them longer than their work.
GROUP = """
import multiprocessing
import os

from datamodules import parallel

os.setsid()
parallel.get_context = lambda method: multiprocessing.get_context("fork")
"""
# For tests on other hardware: STREAMKD_TEST_TRAINER='{"accelerator": "gpu", "precision": "bf16-mixed"}'
TRAINER = {"accelerator": "cpu"} | json.loads(os.environ.get("STREAMKD_TEST_TRAINER", "{}"))
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


@pytest.fixture(scope="session")
def trainer_options() -> dict[str, Any]:
    """What runs of tests have a Trainer of."""
    return TRAINER


@pytest.fixture(scope="session")
def trainer_files() -> Callable[..., list[str]]:
    """Options that name files of `configs/trainer`."""
    folder = Path(__file__).parents[1] / "configs/trainer"
    return lambda *names: [part for name in names for part in ("--config", str(folder / f"{name}.yaml"))]


@pytest.fixture
def write_fusion_config(tiny_config: Path) -> Callable[..., Path]:
    """Write `fusion.yaml` beside the tiny configuration, a fusion of trained networks by stream; returns its path."""

    def write(networks: dict[str, str], **options: Any) -> Path:
        config = yaml.safe_load(tiny_config.read_text())
        module = "lightning_modules.weighted_inference.WeightedInferenceModule"
        config["model"] = {"class_path": module, "init_args": {"networks": networks, **options}}
        config["data"]["init_args"] |= {"fit_split": "val", "streams": list(networks)}
        path = tiny_config.with_name("fusion.yaml")
        path.write_text(yaml.safe_dump(config))
        return path

    return write


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
            "devices": 1,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
        }
        | TRAINER,
    }


@pytest.fixture(scope="session")
def start() -> Callable[..., BaseProcess]:
    """Start a program such as `COMMAND_LINE`, with its `args`, in a process of its own.

    The processes are forked off a server that has imported everything: half a second each instead of five.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning_modules.trainer_cli", "datamodules.compressed_video"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()

    def start(program: str, *args: object) -> BaseProcess:
        process = context.Process(target=exec, args=(program, {"args": [str(arg) for arg in args]}))
        process.start()
        return process

    return start


@pytest.fixture(scope="session")
def streamkd(start: Callable[..., BaseProcess]) -> Callable[..., int | None]:
    """Run the command line in a process of its own; returns its exit status, -9 if it was killed."""

    def run(*args: object) -> int | None:
        process = start(COMMAND_LINE, *args)
        process.join(120)
        return process.exitcode

    return run


class Killing:
    """A command that is killed at random moments of its work and started again, until it is done.

    By SIGKILL, of its process and of all that it has started. Its work begins when it writes a file that is watched.

    Args:
        start: see the fixture.
        command: without the program's name.
        folders: all that it writes.
        whole: what is whole at the moment, and is to stay as it is; more and more.
        results: what is to be equal at the end.
        watched: folders; None: those that it writes.
        program: runs `args`.
        seed: of the moments.
    """

    def __init__(
        self,
        start: Callable[..., BaseProcess],
        command: Sequence[object],
        folders: Sequence[Path],
        *,
        whole: Callable[[], dict[Any, Any]],
        results: Callable[[], Any],
        watched: Sequence[Path] | None = None,
        program: str = COMMAND_LINE,
        seed: int = 0,
    ) -> None:
        self.start, self.command, self.folders = start, command, folders
        self.whole, self.results, self.watched = whole, results, folders if watched is None else watched
        self.program, self.random = GROUP + program, Random(seed)
        self.places: set[int] = set()

    def check(self, kills: int, *, share: float) -> None:
        """Kill it so often, and begin anew whenever it is done before; `share`: of its work, the most between kills."""
        started = self._begin()
        assert self._ends(started, 600)
        seconds, expected, left = time.monotonic() - started[1], self.results(), kills
        assert not self._leftovers()
        while left:
            for folder in self.folders:
                shutil.rmtree(folder)
            left -= self._kill_until_done(left, share * seconds)
            assert self.results() == expected
            assert not self._leftovers()
        assert len(self.places) > kills // 5, "they are spread over the work"

    def _kill_until_done(self, kills: int, seconds: float) -> int:
        """Returns how often it was killed before it was done."""
        whole = self.whole()
        for count in range(kills + 1):
            is_done = self._ends(self._begin(), self.random.uniform(0, seconds) if count < kills else 600)
            before, whole = whole, self.whole()
            assert before.items() <= whole.items()
            if is_done:
                break
            self.places.add(len(whole))
        assert is_done
        return count

    def _begin(self) -> tuple[BaseProcess, float]:
        """The command at work, and since when."""
        before, process = _times(self.watched), self.start(self.program, *self.command)
        while process.exitcode is None and _times(self.watched).items() <= before.items():
            time.sleep(0.01)
        return process, time.monotonic()

    def _ends(self, started: tuple[BaseProcess, float], seconds: float) -> bool:
        """Whether it ends within `seconds`; kills it otherwise."""
        process, since = started
        process.join(max(since + seconds - time.monotonic(), 0))
        if process.exitcode is not None:
            assert process.exitcode == 0
            return True
        with suppress(ProcessLookupError):  # it ended just now
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        time.sleep(0.1)  # for those that it has started
        return False

    def _leftovers(self) -> list[Path]:
        return [path for path in _times(self.folders) if path.name.startswith(".")]


def _times(folders: Sequence[Path]) -> dict[Path, int]:
    """Of change, of files that may vanish meanwhile."""
    times = {}
    for path in (path for folder in folders for path in folder.rglob("*")):
        with suppress(FileNotFoundError):
            if not path.is_dir():
                times[path] = path.stat().st_mtime_ns
    return times


@pytest.fixture(scope="session")
def killing(start: Callable[..., BaseProcess]) -> Callable[..., Killing]:
    """`Killing` of a command; a hundred kills in all, 40 of fits, 20 each of `prepare`, `flow` and `reproduce`."""

    def make(command: Sequence[object], folders: Sequence[Path], **options: Any) -> Killing:
        return Killing(start, command, folders, **options)

    return make


def stamps(paths: Iterator[Path]) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths if not path.name.startswith(".")}


@pytest.fixture(scope="session")
def stamps_of() -> Callable[[Iterator[Path]], dict[Path, tuple[int, int]]]:
    """Tell files that have been replaced or written to, hidden ones aside: (inode, time of change) by path."""
    return stamps


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
