"""The order of one epoch: a pure function of (seed, epoch), split over ranks."""

from collections.abc import Iterator

from torch.utils.data import DistributedSampler
from typing_extensions import override

from datamodules.randomness import generator

Key = tuple[int, int]


class EpochSampler(DistributedSampler[Key]):
    """Yields keys (epoch, index), so that whoever reads a sample knows the epoch that it belongs to.

    Ranks take turns: rank r of R gets positions r, r + R, r + 2R, ... of the order. So step s of R ranks with batch
    size b trains on the same set of samples as step s of one rank with batch size R * b. It is a DistributedSampler
    only because Lightning leaves those alone; nothing is padded by repeated samples unless asked for.

    Args:
        num_samples: length of the data set.
        shuffle: True (training): a new order each epoch, and equal shards; the remainder of the order, fewer than
            `num_replicas` samples, sits out. False (evaluation): file order, and shards that may differ by one.
        seed: of the order.
        num_replicas: number of ranks.
        rank: this rank.
        repeat: for a fit in file order, whose ranks must make as many steps: shards that would be one short get one
            of the first samples again, so even a rank without samples of its own has one.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        shuffle: bool,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        repeat: bool = False,
    ) -> None:
        dataset = range(num_samples)
        super().__init__(
            dataset,  # type: ignore[arg-type]
            num_replicas=num_replicas,
            rank=rank,
            shuffle=shuffle,
            seed=seed,
            drop_last=shuffle,
        )
        self.size = num_samples
        self.repeat = repeat
        self.start = 0

    def skip(self, num_samples: int) -> None:
        """Makes the next iteration, and no other, begin after `num_samples` of this rank."""
        self.start = num_samples

    @override
    def __iter__(self) -> Iterator[Key]:
        start, self.start = self.start, 0
        return iter([(self.epoch, index) for index in self._shard()[start:]])

    @override
    def __len__(self) -> int:
        """Samples of this rank in one epoch, whatever is skipped."""
        return len(range(self.rank, self._used(), self.num_replicas))

    def _shard(self) -> list[int]:
        order = self._order()
        return [order[position % self.size] for position in range(self.rank, self._used(), self.num_replicas)]

    def _order(self) -> list[int]:
        if not self.shuffle:
            return list(range(self.size))
        return generator(self.seed, self.epoch).permutation(self.size).tolist()

    def _used(self) -> int:
        """Positions handed out over all ranks; those past the end start over."""
        if self.repeat:
            return self.size + -self.size % self.num_replicas
        return self.size - self.size % self.num_replicas if self.shuffle else self.size
