from torch.utils.data import DataLoader

from datamodules.epoch_sampler import EpochSampler
from datamodules.eval_loader import EvalDataLoader


class Keys:
    def __getitem__(self, key: tuple[int, int]) -> int:
        return key[1]


def batches(num_samples: int, rank: int, kind: type[DataLoader] = EvalDataLoader) -> list[list[int]]:
    sampler = EpochSampler(num_samples, shuffle=False, num_replicas=2, rank=rank)
    loader = kind(Keys(), sampler=sampler, batch_size=2, collate_fn=list)
    found = list(loader)
    assert len(loader) == len(found)
    return found


def test_a_rank_without_samples_has_an_empty_batch() -> None:
    assert batches(1, rank=0) == [[0]]
    assert batches(1, rank=1) == [[]]


def test_any_other_rank_has_what_a_data_loader_has() -> None:
    assert batches(7, rank=1) == batches(7, rank=1, kind=DataLoader) == [[1, 3], [5]]
