"""Procedurally made actions, encoded to real MPEG-4 files: the data of `make demo`.

    root/{train,val,test}/<class>/<split>_scene<number>_<index>.mp4
    root/manifest.json          the parameters, once all videos are there (until then `manifest.pending.json`)

Classes (`demo_scenes.ACTIONS`) say how an actor moves, which shape it has, and on what floor: six motions (spinning,
sliding, bouncing, swinging, pulsing, circling) by two. Four motions are each shared by two classes that differ in
the floor's tint alone, two by classes that differ in its fine pattern alone (periods of 2.4 to 2.8 pixels: gone when
the picture is halved), and one look, a square on blue checks, belongs to two classes that differ in motion alone.
Actors of one shape tend to one hue. All classes keep their meaning when mirrored.

What hides the action: textured backgrounds, patches of another floor, bystanders that stand still, drifters that
cross the scene, a camera that shakes, pans after the actor and zooms in two videos of five, grain, and sizes, speeds,
phases and colours at random (`demo_scenes.Difficulty`).

Every video is a function of (seed, split, index) alone, so that any number of workers writes the same files, bit for
bit. Scenes (backgrounds) belong to one split and are shared by five videos of different classes. Videos have 30 square
frames a second, in GOPs of 12.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.bitstream.encode import encode_frames
from datamodules.demo_scenes import ACTIONS, Action, make_background, make_scene
from datamodules.parallel import mapped
from datamodules.whole_file import written_whole

VERSION = 1
SPLITS = ("train", "val", "test")
VIDEOS_PER_SCENE = 5
GOP_SIZE = 12
_MANIFEST = "manifest.json"
_PENDING = "manifest.pending.json"


@dataclass(frozen=True)
class DemoParameters:
    """What the files of a demo data set depend on."""

    num_train: int = 1500
    num_val: int = 360
    num_test: int = 1200
    seed: int = 0
    num_frames: int = 36
    size: int = 128
    quality: int = 4
    version: int = VERSION

    def __post_init__(self) -> None:
        for name in ("num_train", "num_val", "num_test", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name}: expected 0 or more, got {getattr(self, name)}")
        if self.num_frames < 1 or self.size < 16 or self.size % 2:
            raise ValueError(
                f"--num_frames, --size: expected at least 1 frame and an even size of at least 16 pixels, "
                f"got {self.num_frames} and {self.size}"
            )

    def videos(self) -> Iterator["DemoVideo"]:
        for split in SPLITS:
            for index in range(getattr(self, f"num_{split}")):
                yield DemoVideo(split, index)


@dataclass(frozen=True)
class DemoVideo:
    """One video of a split; its class goes round with its index, its scene with every fifth."""

    split: str
    index: int

    @property
    def action(self) -> Action:
        return ACTIONS[self.index % len(ACTIONS)]

    @property
    def scene(self) -> int:
        return self.index // VIDEOS_PER_SCENE

    @property
    def path(self) -> Path:
        """Relative to the data set's root."""
        name = f"{self.split}_scene{self.scene:04d}_{self.index:05d}.mp4"
        return Path(self.split) / self.action.name / name

    def render(self, parameters: DemoParameters) -> np.ndarray:
        """(T, H, W, 3) uint8 RGB."""
        stream = (parameters.seed, SPLITS.index(self.split))
        background = make_background(np.random.default_rng([*stream, 1, self.scene]))
        rng = np.random.default_rng([*stream, 0, self.index])
        scene = make_scene(self.action, background, rng, num_frames=parameters.num_frames)
        return scene.render(parameters.size, parameters.size)


def make_demo_data(
    root: str | os.PathLike[str],
    *,
    num_train: int = 1500,
    num_val: int = 360,
    num_test: int = 1200,
    seed: int = 0,
    num_frames: int = 36,
    size: int = 128,
    quality: int = 4,
    num_workers: int | None = None,
) -> None:
    """Makes the demo videos, or those still missing after an interruption.

    Args:
        root: folder of the data set.
        num_train, num_val, num_test: videos in each split; classes differ by one video at most.
        seed: another seed gives other videos of the same classes.
        num_frames: frames a video.
        size: height and width in pixels, even.
        quality: MPEG-4 quantiser, 1 (best) to 31.
        num_workers: processes that render and encode, see `mapped`.

    Raises:
        ValueError: a parameter out of range, or a folder that holds something else than this data set.
    """
    parameters = DemoParameters(num_train, num_val, num_test, seed, num_frames, size, quality)
    root = Path(root)
    if _is_complete(root, parameters):
        return
    _write_manifest(root / _PENDING, parameters)
    for leftover in root.glob("*/*/.*.mp4"):  # of a run that was killed
        leftover.unlink()
    missing = [video for video in parameters.videos() if not (root / video.path).exists()]
    for _ in mapped(partial(_write_video, root, parameters), missing, num_workers, label="demo videos"):
        pass
    _write_manifest(root / _MANIFEST, parameters)
    (root / _PENDING).unlink()


def _write_video(root: Path, parameters: DemoParameters, video: DemoVideo) -> None:
    frames = video.render(parameters)
    encode_frames(frames, root / video.path, gop_size=GOP_SIZE, quality=parameters.quality)


def _is_complete(root: Path, parameters: DemoParameters) -> bool:
    """Whether `root` holds the data set; refuses another one's folder, and a folder of other things."""
    for name in (_MANIFEST, _PENDING):
        if (root / name).exists():
            found = json.loads((root / name).read_text())["parameters"]
            _check_parameters(root, found, asdict(parameters))
            return name == _MANIFEST
    if root.exists() and any(root.iterdir()):
        raise ValueError(f"{root}: expected an empty folder or a demo data set; choose another --root")
    return False


def _check_parameters(root: Path, found: dict[str, int], asked: dict[str, int]) -> None:
    for name, value in asked.items():
        if found.get(name) != value:
            raise ValueError(
                f"{root}: this demo data set was made with {name} = {found.get(name)}, asked was {value}; "
                f"use --{name}={found.get(name)}, choose another --root, or delete the folder"
            )


def _write_manifest(path: Path, parameters: DemoParameters) -> None:
    manifest = {
        "parameters": asdict(parameters),
        "classes": [action.name for action in ACTIONS],
        "num_videos": sum(1 for _ in parameters.videos()),
    }
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n")
