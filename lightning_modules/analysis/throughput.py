"""How many videos a network classifies in a second, with all that the figure depends on."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.analysis.evaluating import evaluating
from lightning_modules.analysis.hardware import device_name, versions

# Kernels are only queued on these devices; elsewhere a call returns when it is done.
SYNCHRONISE: dict[str, Callable[[], None]] = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}


@dataclass(frozen=True)
class Throughput:
    """A measurement. Only those of equal batch size, precision, device and versions may be compared.

    Args:
        videos_per_second: median over the repeats.
        slowest: of the repeats.
        fastest: of the repeats.
        batch_size: videos at a time.
        num_views: of a video.
        clip: (T, C, H, W) of a view.
        precision: of the computation, e.g. ``float32`` or ``bfloat16 (autocast)``.
        device: its name, and on a CPU the threads.
        versions: of Python, PyTorch and, where it is used, CUDA.
        warm_up: passes before the first that counts.
        repeats: passes that count.
    """

    videos_per_second: float
    slowest: float
    fastest: float
    batch_size: int
    num_views: int
    clip: tuple[int, ...]
    precision: str
    device: str
    versions: str
    warm_up: int
    repeats: int

    @property
    def conditions(self) -> str:
        """What has to be equal where figures are compared, in words."""
        views = f" of {self.num_views} views" if self.num_views > 1 else ""
        return (
            f"{self.batch_size} videos{views} at a time, {self.precision}, {self.device}, {self.versions}; "
            f"median of {self.repeats} passes after {self.warm_up}"
        )

    def to_record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Throughput":
        """What ``to_record`` was made of, also after a way through JSON."""
        return cls(**{**record, "clip": tuple(record["clip"])})


@torch.no_grad()
def measure_throughput(
    network: nn.Module, clips: Tensor, *, num_views: int = 1, warm_up: int = 3, repeats: int = 10
) -> Throughput:
    """Time a network in eval mode on clips that are on its device already, each pass until the device is done.

    Reading, decoding and copying to the device are left out. Call it within ``torch.autocast`` for that precision.

    Args:
        network: clips -> logits.
        clips: (B * num_views, T, C, H, W) float; what they hold does not matter.
        num_views: of a video.
        warm_up: passes that do not count: the first ones choose kernels and allocate memory.
        repeats: passes that count, one or more.

    Raises:
        ValueError: no whole video, or no repeats.
    """
    batch_size, rest = divmod(len(clips), num_views)
    if batch_size < 1 or rest or repeats < 1 or warm_up < 0:
        raise ValueError(
            f"expected clips of whole videos, `repeats` from 1 and `warm_up` from 0, came {len(clips)} clips for "
            f"{num_views} views, {repeats} and {warm_up}"
        )
    with evaluating(network):
        for _ in range(warm_up):
            _seconds(network, clips)
        seconds = [_seconds(network, clips) for _ in range(repeats)]
    return Throughput(
        videos_per_second=batch_size / median(seconds),
        slowest=batch_size / max(seconds),
        fastest=batch_size / min(seconds),
        batch_size=batch_size,
        num_views=num_views,
        clip=tuple(clips.shape[1:]),
        precision=_precision(network, clips.device),
        device=device_name(clips.device),
        versions=versions(clips.device),
        warm_up=warm_up,
        repeats=repeats,
    )


def _seconds(network: nn.Module, clips: Tensor) -> float:
    synchronise = SYNCHRONISE.get(clips.device.type, lambda: None)
    synchronise()
    started = time.perf_counter()
    network(clips)
    synchronise()
    return time.perf_counter() - started


def _precision(network: nn.Module, device: torch.device) -> str:
    """E.g. ``bfloat16 (autocast)``; on CUDA, how exact float32 is in products and convolutions."""
    if torch.is_autocast_enabled(device.type):
        return f"{_name(torch.get_autocast_dtype(device.type))} (autocast)"
    precision = _name(next((weight.dtype for weight in network.parameters()), torch.get_default_dtype()))
    if device.type == "cuda" and precision == "float32":
        tf32 = "with" if torch.backends.cudnn.allow_tf32 else "without"
        precision += f" ({torch.get_float32_matmul_precision()} precision of products, convolutions {tf32} TF32)"
    return precision


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
