"""Processes that read samples as loader workers do, and nothing else: no batches, no queue."""

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection

import torch

from datamodules.clip_dataset import ClipDataset
from datamodules.epoch_sampler import Key
from datamodules.randomness import generator


class BareProcesses:
    """Reads keys' samples in so many processes, which stay; in this one where there are none.

    Args:
        dataset: whose samples; one that augments.
        count: of processes.
        batch_size: samples that go to one process in a row, as a loader's batches do.
    """

    def __init__(self, dataset: ClipDataset, count: int, batch_size: int) -> None:
        self._dataset, self._batch_size = dataset, batch_size
        self._connections = [self._start() for _ in range(count)]

    def read(self, keys: Sequence[Key]) -> None:
        """Returns when all are read."""
        if not self._connections:
            read_samples(self._dataset, keys)
            return
        batches = [keys[start : start + self._batch_size] for start in range(0, len(keys), self._batch_size)]
        for number, connection in enumerate(self._connections):
            connection.send([key for batch in batches[number :: len(self._connections)] for key in batch])
        for connection in self._connections:
            connection.recv()

    def close(self) -> None:
        """Ends the processes."""
        for connection in self._connections:
            connection.send(None)
            connection.close()

    def _start(self) -> Connection:
        ours, theirs = multiprocessing.Pipe()
        multiprocessing.get_context("fork").Process(target=_serve, args=(self._dataset, theirs), daemon=True).start()
        theirs.close()
        return ours


def read_samples(dataset: ClipDataset, keys: Sequence[Key]) -> None:
    """Reader and transforms: the views of each key, which are dropped."""
    for epoch, index in keys:
        dataset.reader.read(dataset.records[index].path, generator(dataset.seed, epoch, index, 0))


def _serve(dataset: ClipDataset, connection: Connection) -> None:
    torch.set_num_threads(1)  # as loader workers
    while (keys := connection.recv()) is not None:
        read_samples(dataset, keys)
        connection.send(len(keys))
