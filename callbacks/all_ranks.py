"""What every rank holds, on every rank."""

from typing import TypeVar

import torch

T = TypeVar("T")


def gather_objects(value: T, world_size: int) -> list[T]:
    """The picklable `value` of each rank, by rank; on one rank without any communication."""
    if world_size == 1:
        return [value]
    values: list[T] = [value] * world_size
    torch.distributed.all_gather_object(values, value)
    return values
