"""Throughput on a clock that is made up, and what is said about it."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.analysis import throughput
from lightning_modules.analysis.throughput import Throughput, measure_throughput


class Clocked(nn.Module):
    """Takes so many seconds on the made-up clock, which only passes when the device is waited for."""

    def __init__(self, seconds: list[float]) -> None:
        super().__init__()
        self.seconds, self.queued, self.now = seconds, 0.0, 100.0
        self.weight = nn.Parameter(torch.zeros(1))
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, clips: Tensor) -> Tensor:
        self.queued += self.seconds[len(self.modes)]
        self.modes.append((self.training, torch.is_grad_enabled()))
        return clips.mean(dim=(1, 2, 3, 4))

    def synchronise(self) -> None:
        self.now, self.queued = self.now + self.queued, 0.0


def measure(monkeypatch: pytest.MonkeyPatch, network: Clocked, clips: Tensor, **options: int) -> Throughput:
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: network.now))
    monkeypatch.setattr(throughput, "SYNCHRONISE", {"cpu": network.synchronise})
    return measure_throughput(network, clips, **options)


def test_median_after_warm_up_of_passes_that_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Clocked([50.0, 60.0, 1.0, 4.0, 2.0, 8.0, 3.0])
    found = measure(monkeypatch, network, torch.zeros(12, 2, 3, 8, 10), num_views=2, warm_up=2, repeats=5)
    assert (found.videos_per_second, found.slowest, found.fastest) == (6 / 3, 6 / 8, 6 / 1)
    assert (found.batch_size, found.num_views, found.clip) == (6, 2, (2, 3, 8, 10))
    assert (found.warm_up, found.repeats) == (2, 5)
    assert network.modes == [(False, False)] * 7
    assert network.training
    assert Throughput.from_record(found.to_record()) == found


def test_says_what_it_depends_on() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    clips = torch.zeros(2, 1, 1, 2, 3)
    found = measure_throughput(network, clips, repeats=1)
    assert found.precision == "float32"
    assert f"{torch.get_num_threads()} threads" in found.device
    assert torch.__version__ in found.versions
    for said in ("2 videos at a time", found.precision, found.device, found.versions, "median of 1 passes after 3"):
        assert said in found.conditions
    with torch.autocast("cpu", torch.bfloat16):
        assert measure_throughput(network, clips, repeats=1).precision == "bfloat16 (autocast)"
    assert measure_throughput(network.double(), clips.double(), repeats=1).precision == "float64"


def test_refusals() -> None:
    for clips, options in ((3, {"num_views": 2}), (0, {}), (2, {"repeats": 0})):
        with pytest.raises(ValueError, match="clips of whole videos"):
            measure_throughput(nn.Identity(), torch.zeros(clips, 1, 1, 2, 2), **options)
