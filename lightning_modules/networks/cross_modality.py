"""Start a network on one stream from one that was trained on another: cross-modality initialisation.

Wang et al., "Temporal Segment Networks" (ECCV 2016), section 3.2: filters of the first convolution are averaged over
their input channels, and the mean is repeated for the channels of the other stream.
"""

import torch
from torch import Tensor, nn


@torch.no_grad()
def start_from(network: nn.Module, source: nn.Module, *, num_shared: int = 0) -> None:
    """Copy all weights and buffers of ``source`` into ``network``, fitted to its number of input channels.

    Of what belongs to input channels, the first ``num_shared`` are taken over as they are. For the others, filters are
    the mean over the source's channels; BatchNorm on the raw input stays as it is.

    Args:
        network: of the same architecture, but for ``in_channels``.
        source: the trained network.
        num_shared: channels that show the same in both, the first of either.

    Raises:
        ValueError: another architecture.
    """
    own, others = network.state_dict(), source.state_dict()
    wrong = [name for name, value in own.items() if name not in others or not _fits(value, others[name])]
    wrong += [name for name in others if name not in own]
    if wrong:
        raise ValueError(
            "`model.init_args.start_from_teacher`: expected networks of one architecture but for their input, came "
            f"others in {wrong[0]} and {len(wrong) - 1} more entries; set it to false, or take another network"
        )
    for name, value in own.items():
        value.copy_(_fitted(others[name], value, num_shared))


def _fits(target: Tensor, source: Tensor) -> bool:
    """Whether shapes differ in input channels at most: the second of a filter's dimensions, the first of others."""
    return target.ndim == source.ndim and _without_channels(target) == _without_channels(source)


def _without_channels(value: Tensor) -> tuple[int, ...]:
    return tuple(size for dim, size in enumerate(value.shape) if dim != _channel_dim(value))


def _channel_dim(value: Tensor) -> int:
    return 1 if value.ndim >= 4 else 0


def _fitted(source: Tensor, target: Tensor, num_shared: int) -> Tensor:
    if source.shape == target.shape:
        return source
    dim = _channel_dim(target)
    rest = target.narrow(dim, num_shared, target.shape[dim] - num_shared)
    if target.ndim >= 4:
        rest = source.mean(dim=dim, keepdim=True).expand_as(rest)
    return torch.cat([source.narrow(dim, 0, num_shared), rest], dim=dim)
