"""Batches come from loader workers in shared memory that is used again, not in new files of it for each tensor.

Fresh pages must be found, cleared, and given back after the batch: 9,000 of them for 32 clips of three streams and 224
pixels. That costs more than copying the clips, and a fifth of all that workers do where a hypervisor takes freed pages.
"""

import io
import os
import pickle
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from typing_extensions import override

_ALIGNMENT = 64  # bytes
_SMALL = 1 / 16  # of a block: who keeps such a tensor does not keep the block
_FREE, _IN_USE = 0, 1  # the first byte of a block

_Place = tuple[int, torch.dtype, torch.Size]  # first byte in the block, and what is there


class SharedMemoryCollator:
    """A `collate_fn`, for loader workers and for the main process.

    A worker copies all tensors of a batch into one block of shared memory. It takes a block again once the main process
    has dropped every large tensor in it; so there are as many blocks as batches were ever alive at once, and they stay
    as long as the worker does.

    Args:
        collate: items -> batch, which is any object that can be pickled.

    Attributes:
        blocks: (bytes,) uint8 each, of this worker.
    """

    def __init__(self, collate: Callable[[Sequence[Any]], Any]) -> None:
        self.collate = collate
        self.blocks: list[Tensor] = []

    def __call__(self, items: Sequence[Any]) -> Any:
        """The batch; in a worker, what becomes the batch as it is unpickled in the main process."""
        batch = self.collate(items)
        return batch if get_worker_info() is None else self.packed(batch)

    def packed(self, batch: Any) -> "PackedBatch":
        """A batch for another process, its tensors in a block."""
        pickled = io.BytesIO()
        packer = _Packer(pickled)
        packer.dump(batch)
        block = self._block(packer.size)
        for (start, dtype, shape), tensor in packer.placed:
            _view(block, start, dtype, shape).copy_(tensor)
        return PackedBatch(pickled.getvalue(), block)

    def _block(self, size: int) -> Tensor:
        """One that is free and large enough, from now on in use; those that are free and too small are dropped."""
        self.blocks = [block for block in self.blocks if len(block) >= size or block[0] == _IN_USE]
        free = [block for block in self.blocks if len(block) >= size and block[0] == _FREE]
        if not free:
            free = [torch.empty(size, dtype=torch.uint8).share_memory_()]
            self.blocks += free
        free[0][0] = _IN_USE
        return free[0]


class PackedBatch:
    """A batch on its way to another process, where unpickling makes the batch of it.

    Args:
        pickled: all of it but its tensors.
        block: (bytes,) uint8 in shared memory, in which they are.
    """

    def __init__(self, pickled: bytes, block: Tensor) -> None:
        self.pickled, self.block = pickled, block

    @override
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[bytes, Tensor]]:
        return _unpacked, (self.pickled, self.block)


def _unpacked(pickled: bytes, block: Tensor) -> Any:
    """The batch, whose tensors are views of one on `memory`, which ends with the last of them."""
    memory = block.numpy()
    weakref.finalize(memory, _free, block, os.getpid()).atexit = False
    return _Unpacker(io.BytesIO(pickled), torch.from_numpy(memory)).load()


def _free(block: Tensor, owner: int) -> None:
    if os.getpid() == owner:  # not in a fork of it, where the same tensors end at another time
        block[0] = _FREE


class _Packer(ForkingPickler):
    """Pickles places instead of tensors.

    Attributes:
        placed: the tensors, each with its place.
        size: bytes that they need.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.placed: list[tuple[_Place, Tensor]] = []
        self.size = _ALIGNMENT

    @override
    def persistent_id(self, value: Any) -> _Place | None:
        if not _is_plain(value):
            return None
        place = (self.size, value.dtype, value.shape)
        self.placed.append((place, value))
        self.size += -(-value.nbytes // _ALIGNMENT) * _ALIGNMENT
        return place


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, block: Tensor) -> None:
        super().__init__(file)
        self._block = block

    @override
    def persistent_load(self, place: _Place) -> Tensor:
        tensor = _view(self._block, *place)
        return tensor.clone() if tensor.nbytes < _SMALL * len(self._block) else tensor


def _is_plain(value: Any) -> bool:
    """Whether values, type and shape are all there is to a tensor."""
    return (
        type(value) is Tensor
        and value.device.type == "cpu"
        and value.layout is torch.strided
        and not value.requires_grad
    )


def _view(block: Tensor, start: int, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    return block[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)
