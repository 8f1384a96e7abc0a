"""Pooling by matrix products is PyTorch's adaptive average pooling."""

import pytest
import torch
from torch.nn import functional as F

from lightning_modules.networks.grid_pool import pool_by_products


@pytest.mark.parametrize("sides", [(56, 56), (7, 7), (14, 9), (4, 4), (3, 2), (1, 5)])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_products_pool_as_pytorch_does(sides: tuple[int, int], size: int) -> None:
    maps = torch.randn(2, 3, *sides, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool_by_products(maps, size), F.adaptive_avg_pool2d(maps, size))
