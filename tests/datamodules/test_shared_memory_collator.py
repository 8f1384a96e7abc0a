"""What comes through real loader workers, against the same objects made here."""

import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.shared_memory_collator import SharedMemoryCollator

BATCHES = 12
SIZES = {"clips": 1000, "labels": 5}  # values of a batch


def numbered(number: int) -> dict[str, torch.Tensor]:
    return {name: torch.full((size,), number) for name, size in SIZES.items()}


def through_worker(make: Callable[[int], Any], num_batches: int = BATCHES) -> Iterator[tuple[Any, int]]:
    """What `make` makes of each number in a worker, and how many blocks that had by then."""
    collator = SharedMemoryCollator(lambda numbers: (make(numbers[0]), len(collator.blocks)))
    return iter(DataLoader(range(num_batches), 1, collate_fn=collator, num_workers=1))


TENSORS = {
    "float32": torch.randn(3, 4),
    "bfloat16": torch.randn(3, 4).bfloat16(),
    "complex": torch.randn(3, dtype=torch.complex64),
    "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
    "bool": torch.tensor([True, False, True]),
    "scalar": torch.tensor(7),
    "no values": torch.empty(0, 3, dtype=torch.int16),
    "transposed": torch.arange(12).view(3, 4).T,
    "expanded": torch.arange(3).expand(5, 3),
    "every second": torch.arange(9, dtype=torch.uint8)[::2],
    "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "sparse": torch.eye(3).to_sparse(),
}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_tensors_of_all_kinds_arrive_as_they_were() -> None:
    [(found, _)] = through_worker(lambda _: TENSORS, 1)
    assert found.keys() == TENSORS.keys()
    for name, tensor in found.items():
        expected = TENSORS[name]
        assert (tensor.dtype, tensor.shape, tensor.layout) == (expected.dtype, expected.shape, expected.layout), name
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0)


def test_parameters_and_objects_arrive_as_they_were() -> None:
    parameter = torch.nn.Parameter(torch.randn(4))
    [(found, _)] = through_worker(lambda _: [parameter, "path", (1, None)], 1)
    assert found[1:] == ["path", (1, None)]
    assert isinstance(found[0], torch.nn.Parameter)
    assert found[0].requires_grad
    assert torch.equal(found[0], parameter)


def test_a_batch_without_tensors_arrives() -> None:
    assert [found for found, _ in through_worker(lambda number: [number], 3)] == [[0], [1], [2]]


def test_blocks_are_used_again() -> None:
    """At most: two on their way, one in use here and one being made."""
    counts = [count for _, count in through_worker(numbered)]
    assert max(counts) <= 4


def test_batches_that_are_kept_keep_their_values() -> None:
    kept = list(through_worker(numbered))
    for number, (found, _) in enumerate(kept):
        assert {name: tensor.tolist() for name, tensor in found.items()} == {
            name: tensor.tolist() for name, tensor in numbered(number).items()
        }
    assert kept[-1][1] >= BATCHES - 3


def test_a_part_of_a_large_tensor_that_is_kept_keeps_its_values() -> None:
    parts = [found["clips"][10:20].view(2, 5) for found, _ in through_worker(numbered)]
    gc.collect()
    assert [part.unique().tolist() for part in parts] == [[number] for number in range(BATCHES)]


def test_small_tensors_that_are_kept_keep_no_block() -> None:
    labels, counts = zip(*[(found["labels"], count) for found, count in through_worker(numbered)], strict=True)
    assert max(counts) <= 4
    assert [label.unique().tolist() for label in labels] == [[number] for number in range(BATCHES)]


def test_larger_batches_get_larger_blocks() -> None:
    """Blocks that became too small are given up."""
    for number, (found, count) in enumerate(through_worker(lambda number: torch.full((1000 * (number + 1),), number))):
        assert found.tolist() == [number] * (1000 * (number + 1))
        assert count <= 4
    assert number == BATCHES - 1


def test_a_fork_that_ends_its_copies_takes_nothing_away() -> None:
    arriving = through_worker(numbered)
    batch, _ = next(arriving)
    child = os.fork()
    if not child:
        del batch
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    for _ in arriving:
        pass
    assert batch["clips"].unique().tolist() == [0]


def test_the_main_process_gets_what_was_collated() -> None:
    batch = numbered(3)
    collator = SharedMemoryCollator(lambda _: batch)
    assert collator([0]) is batch
    assert not collator.blocks


def test_an_error_on_the_way_is_raised_in_the_main_process() -> None:
    with pytest.raises(Exception, match="lambda"):
        next(through_worker(lambda _: lambda: None))
