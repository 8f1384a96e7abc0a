"""Times to exits by a clock that only reading and classifiers turn."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from datamodules.clip import LazyClip, LazyClipBatch
from lightning_modules.analysis import exit_seconds
from lightning_modules.analysis.exit_seconds import seconds_to_exits
from lightning_modules.networks import EarlyExitNetwork, EarlyExitNetworks, resnet10

SHAPES = {"mv": (1, 2, 16, 16), "iframe": (1, 3, 16, 16)}
READ = {"mv": 2.0, "iframe": 5.0}  # seconds a video
PLAN = 0.5


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Source:
    decode_seconds, cut_seconds, corrupt_frames = 0.0, 0.0, 0

    def __init__(self, clock: Clock, slowness: float) -> None:
        self.clock, self.slowness, self.is_open = clock, slowness, True

    def read(self, stream: str) -> Tensor:
        self.clock.now += self.slowness * READ[stream]
        return torch.zeros(2, *SHAPES[stream], dtype=torch.uint8)

    def close(self) -> None:
        self.is_open = False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(exit_seconds, "time", SimpleNamespace(perf_counter=clock))
    return clock


@pytest.fixture
def networks(clock: Clock) -> EarlyExitNetworks:
    """Of two exits each; the internal classifier of mv takes 6 s a batch."""
    built = {
        stream: EarlyExitNetwork(resnet10(3, channels, width=2), {"layer2": lambda channels, classes: PooledLinear()})
        for stream, (_, channels, _, _) in SHAPES.items()
    }

    def tick(*_: object) -> None:
        clock.now += 6

    built["mv"].classifiers["layer2"].register_forward_hook(tick)
    return EarlyExitNetworks(built).eval()


class PooledLinear(torch.nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(1, 3, 4))[:, :3]


def test_reading_and_computing_up_to_each_exit(clock: Clock, networks: EarlyExitNetworks) -> None:
    sources: list[Source] = []

    def batches(slowness: float) -> Iterator[LazyClipBatch]:
        for size in (2, 1):
            made = [Source(clock, slowness) for _ in range(size)]
            sources.extend(made)
            clips = [LazyClip(source, torch.tensor(0), 0, "a.mp4", PLAN) for source in made]
            yield LazyClipBatch(clips, SHAPES, lambda _, frames: frames.float(), num_views=2)
            clock.now += 1000  # what happens between batches is nobody's

    rounds = (batches(slowness) for slowness in (50.0, 1.0, 4.0))
    seconds = seconds_to_exits(networks, torch.ones(4, 4).tril(), rounds)
    first = PLAN + READ["mv"] + 2 * 6 / 3  # two batches of three videos
    assert networks.exit_names == ("mv/layer2", "mv/final", "iframe/layer2", "iframe/final")
    assert seconds.tolist() == pytest.approx([first, first, first + READ["iframe"], first + READ["iframe"]])
    assert len(sources) == 9
    assert not any(source.is_open for source in sources)


def test_one_round_tells_too_little(networks: EarlyExitNetworks) -> None:
    with pytest.raises(ValueError, match="two rounds or more, came 0"):
        seconds_to_exits(networks, torch.eye(4), [])
