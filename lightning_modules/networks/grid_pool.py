"""Average pooling to a small grid, whose gradient on GPUs is the same each time where that is asked for."""

import torch
from torch import Tensor, nn
from typing_extensions import override


class GridPool(nn.AdaptiveAvgPool2d):
    """``nn.AdaptiveAvgPool2d`` to a square; by two matrix products on GPUs with deterministic algorithms.

    PyTorch has no deterministic gradient of its own there. Results agree up to rounding.
    """

    @override
    def forward(self, maps: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, channels, size, size)."""
        if maps.is_cuda and torch.are_deterministic_algorithms_enabled():
            return pool_by_products(maps, int(self.output_size))  # type: ignore[arg-type]
        return super().forward(maps)


def pool_by_products(maps: Tensor, size: int) -> Tensor:
    """(N, channels, H, W) -> (N, channels, size, size), the means of adaptive average pooling."""
    rows, columns = (_shares(length, size).to(maps) for length in maps.shape[-2:])
    return rows @ maps @ columns.T


def _shares(length: int, size: int) -> Tensor:
    """(size, length): what each place of a line contributes to each mean, of ``i L / S`` rounded down to up."""
    shares = torch.zeros(size, length, dtype=torch.float64)
    for place in range(size):
        first, last = place * length // size, -(-(place + 1) * length // size)
        shares[place, first:last] = 1 / (last - first)
    return shares
