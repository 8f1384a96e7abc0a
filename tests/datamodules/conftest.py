"""Real, tiny video files; encoded once per test session."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.bitstream import build_index, encode_frames

HEIGHT, WIDTH, NUM_FRAMES = 48, 64, 26


def scrolling_frames(seed: int, num_frames: int = NUM_FRAMES) -> Iterator[np.ndarray]:
    """A texture that moves by whole pixels: (48, 64, 3) uint8."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    step = rng.integers(-3, 4, 2)
    return (np.roll(texture, tuple(t * step), (0, 1)) for t in range(num_frames))


def encode_as_people_do(
    path: Path,
    *,
    codec: str,
    b_frames: int,
    options: dict[str, str] | None = None,
    ticks: Sequence[int] = (),
    frames: Sequence[np.ndarray] = (),
    pixel_format: str = "yuv420p",
) -> None:
    """What people's own files are like; frames come at `ticks`, in milliseconds, or 25 a second."""
    frames = frames or list(scrolling_frames(0))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"threads": "1", **(options or {})})
        (stream.height, stream.width), stream.pix_fmt = frames[0].shape[:2], pixel_format
        stream.codec_context.max_b_frames = b_frames
        if ticks:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if ticks:
                frame.pts, frame.time_base = ticks[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="session")
def encode_theirs() -> Callable[..., None]:
    """`encode_as_people_do`."""
    return encode_as_people_do


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder of real recordings, for tests that skip without them."""
    shared = os.environ.get("STREAMKD_SHARED_DATA")
    if not shared:
        pytest.skip("STREAMKD_SHARED_DATA names no folder of real clips")
    return Path(shared)


@pytest.fixture(scope="session")
def shared_clips(shared_data: Path) -> Path:
    """The single clips among them."""
    return shared_data / "clips"


@pytest.fixture(scope="session")
def _video_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    seed = 0
    for split, count in {"train": 5, "val": 3, "test": 2}.items():
        for name in ("jump", "run"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                encode_frames(scrolling_frames(seed), root / split / name / f"{number}.mp4")
                seed += 1
    return root


@pytest.fixture
def video_root(_video_root: Path, tmp_path: Path) -> Path:
    """`{train,val,test}/{jump,run}/<n>.mp4` with 5, 3 and 2 videos per class; a copy that a test may damage."""
    return Path(shutil.copytree(_video_root, tmp_path / "videos"))


@pytest.fixture(scope="session")
def damage() -> Callable[[str | Path, int], None]:
    """Overwrites a coded picture of a file, all but its header."""

    def overwrite(path: str | Path, picture: int) -> None:
        index, data = build_index(path), bytearray(Path(path).read_bytes())
        start, size = int(index.offsets[picture]), int(index.sizes[picture])
        data[start + size // 3 : start + size] = bytes(size - size // 3)
        Path(path).write_bytes(data)

    return overwrite


@pytest.fixture
def b_frame_video(tmp_path: Path) -> Path:
    """A video whose vectors cannot be accumulated."""
    encode_as_people_do(tmp_path / "phone.mp4", codec="mpeg4", b_frames=2)
    return tmp_path / "phone.mp4"


@pytest.fixture
def wmv_video(tmp_path: Path) -> Path:
    """A video of a codec whose decoder exports no vectors."""
    encode_as_people_do(tmp_path / "old.wmv", codec="wmv2", b_frames=0)
    return tmp_path / "old.wmv"


@pytest.fixture
def count_calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[object, str], list[dict]]:
    """Wraps `owner.name`; the list that is returned gets the keyword arguments of each call."""

    def wrap(owner: object, name: str) -> list[dict]:
        calls: list[dict] = []
        original = getattr(owner, name)

        def wrapper(*args, **kwargs):
            calls.append(kwargs)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapper)
        return calls

    return wrap
