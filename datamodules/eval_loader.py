"""A DataLoader for evaluation on more ranks than there are videos."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader
from typing_extensions import override


class EvalDataLoader(DataLoader):
    """Never empty: where the sampler has no sample for this rank, it gives one batch without samples.

    Lightning refuses a rank without batches or, if told not to, leaves it out of the ends of epochs, where the other
    ranks wait for its metrics. `collate_fn` must make something of an empty list.
    """

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if super().__len__():
            return super().__iter__()
        return iter([self.collate_fn([])])

    @override
    def __len__(self) -> int:
        return max(super().__len__(), 1)
