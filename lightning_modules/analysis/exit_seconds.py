"""How long a video takes to each exit of an ensemble: reading, decoding, computing, deciding."""

import time
from collections.abc import Iterable

import torch
from torch import Tensor

from datamodules.clip import LazyClipBatch
from lightning_modules.ensemble import average_views, combine, is_confident
from lightning_modules.networks.early_exit import EarlyExitNetworks


@torch.no_grad()
def seconds_to_exits(networks: EarlyExitNetworks, weights: Tensor, rounds: Iterable[Iterable[LazyClipBatch]]) -> Tensor:
    """Run all exits one by one, with nobody leaving: mean seconds of a video up to each exit, (K,) float64, rising.

    The same videos make all K figures, so that they differ by exits alone. Of each step from exit to exit the fastest
    round counts: what else the machine does, and the first use of anything, only add.

    Args:
        networks: in eval mode, on the batches' device.
        weights: (K, K) float, by which exits are combined.
        rounds: two or more, each of the same videos, all of which can be read, in batches. They are closed.

    Raises:
        ValueError: fewer than two rounds.
    """
    steps = [_mean_seconds(networks, weights, batches) for batches in rounds]
    if len(steps) < 2:
        raise ValueError(f"expected two rounds or more, came {len(steps)}")
    return torch.stack(steps).amin(dim=0).cumsum(dim=0)


def _mean_seconds(networks: EarlyExitNetworks, weights: Tensor, batches: Iterable[LazyClipBatch]) -> Tensor:
    """What each step from exit to exit takes for a video, (K,) float64."""
    steps = [(_seconds(networks, weights, batch), len(batch)) for batch in batches]
    return torch.stack([seconds for seconds, _ in steps]).sum(dim=0) / sum(size for _, size in steps)


def _seconds(networks: EarlyExitNetworks, weights: Tensor, batch: LazyClipBatch) -> Tensor:
    """What each step takes for all videos of a batch, (K,) float64."""
    run = networks.exits(lambda stream: batch.load(stream, range(len(batch)))[0])
    logits = torch.empty(0, len(batch), networks.num_classes, device=batch.device)
    moments = [time.perf_counter() - sum(clip.plan_seconds for clip in batch.clips)]
    for name, outputs in run:
        own = average_views(outputs.float(), batch.num_views)
        logits = torch.cat([logits, own[None]])
        place = networks.exit_names.index(name)
        is_confident(combine(logits, weights[place, : place + 1]), 1.0).tolist()  # waits for the device
        moments.append(time.perf_counter())
    for clip in batch.clips:
        clip.source.close()
    return torch.tensor(moments, dtype=torch.float64).diff()
