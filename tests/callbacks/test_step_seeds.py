"""A step's random numbers depend on (seed, epoch, batch, rank) and on nothing else."""

import itertools
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from callbacks.step_seeds import StepSeeds, step_seed


def draw(epoch: int, batch_idx: int, *, rank: int = 0, seed: int = 0) -> tuple[float, ...]:
    trainer: Any = SimpleNamespace(current_epoch=epoch, global_rank=rank)
    module: Any = SimpleNamespace(device=torch.device("cpu"))
    StepSeeds(seed).on_train_batch_start(trainer, module, None, batch_idx)
    return (*torch.rand(2).tolist(), random.random(), np.random.rand())


def test_same_step_same_numbers_whatever_was_drawn_before() -> None:
    first = draw(1, 2)
    torch.rand(5), random.random(), np.random.rand(3)
    assert draw(1, 2) == first


def test_seeds_of_all_steps_differ() -> None:
    keys = list(itertools.product(range(2), range(20), range(50), range(4)))
    assert len({step_seed(*key) for key in keys}) == len(keys)
    assert all(0 <= step_seed(*key) < 2**63 for key in keys)


def test_each_part_of_the_key_matters_to_every_generator() -> None:
    base = draw(0, 0)
    for other in (draw(1, 0), draw(0, 1), draw(0, 0, rank=1), draw(0, 0, seed=1)):
        assert all(a != b for a, b in zip(base, other, strict=True))


def test_negative_seed_is_refused_with_its_key() -> None:
    with pytest.raises(ValueError, match="seed_everything"):
        StepSeeds(-1)
