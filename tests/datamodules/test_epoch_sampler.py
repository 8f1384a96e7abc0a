import itertools

import pytest
from torch.utils.data import DistributedSampler

from datamodules.epoch_sampler import EpochSampler


def keys(sampler: EpochSampler, epoch: int = 0) -> list[tuple[int, int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_order_is_a_function_of_seed_and_epoch():
    orders = {
        (seed, epoch): tuple(i for _, i in keys(EpochSampler(50, shuffle=True, seed=seed), epoch))
        for seed, epoch in itertools.product(range(3), range(3))
    }
    assert len(set(orders.values())) == 9
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    again = EpochSampler(50, shuffle=True, seed=1)
    keys(again, 0)
    assert tuple(i for _, i in keys(again, 2)) == orders[1, 2]


def test_keys_carry_the_epoch():
    assert {epoch for epoch, _ in keys(EpochSampler(5, shuffle=True), 7)} == {7}


@pytest.mark.parametrize("num_samples", [48, 53])
def test_global_batches_do_not_depend_on_the_number_of_ranks(num_samples):
    """Step s of R ranks with batches of 12 / R is step s of one rank with batches of 12."""

    def global_batches(ranks: int) -> list[set[tuple[int, int]]]:
        size = 12 // ranks
        shards = [
            keys(EpochSampler(num_samples, shuffle=True, num_replicas=ranks, rank=rank), 3) for rank in range(ranks)
        ]
        assert len({len(shard) for shard in shards}) == 1
        steps = len(shards[0]) // size
        return [{k for shard in shards for k in shard[s * size : (s + 1) * size]} for s in range(steps)]

    assert global_batches(1) == global_batches(2) == global_batches(3) == global_batches(4)


@pytest.mark.parametrize(("num_samples", "ranks"), [(10, 1), (10, 3), (2, 4), (0, 2)])
def test_evaluation_shards_are_exact(num_samples, ranks):
    samplers = [EpochSampler(num_samples, shuffle=False, num_replicas=ranks, rank=r) for r in range(ranks)]
    shards = [[i for _, i in keys(s)] for s in samplers]
    assert sorted(itertools.chain(*shards)) == list(range(num_samples))
    assert [len(s) for s in samplers] == [len(shard) for shard in shards]


@pytest.mark.parametrize(("num_samples", "ranks"), [(10, 1), (13, 2), (10, 3), (2, 4), (1, 4), (0, 2)])
def test_repeating_shards_are_equal_and_whole(num_samples, ranks):
    """Ranks in lockstep: as many samples on each, every sample there, the first ones again where one lacks."""
    samplers = [EpochSampler(num_samples, shuffle=False, repeat=True, num_replicas=ranks, rank=r) for r in range(ranks)]
    shards = [[i for _, i in keys(s)] for s in samplers]
    length = -(-num_samples // ranks)
    assert [len(s) for s in samplers] == [len(shard) for shard in shards] == [length] * ranks
    in_order = [index for turn in zip(*shards, strict=True) for index in turn]
    assert in_order == [*range(num_samples), *(i % num_samples for i in range(length * ranks - num_samples))]


def test_skip_serves_one_iteration():
    sampler = EpochSampler(6, shuffle=False)
    sampler.skip(4)
    assert len(sampler) == 6
    assert keys(sampler) == [(0, 4), (0, 5)]
    assert len(keys(sampler)) == 6


def test_lightning_leaves_it_alone():
    assert isinstance(EpochSampler(3, shuffle=True), DistributedSampler)
