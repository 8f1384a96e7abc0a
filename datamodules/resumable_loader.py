"""A DataLoader that continues in the middle of an epoch."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader
from typing_extensions import override

from datamodules.epoch_sampler import EpochSampler


class ResumableDataLoader(DataLoader):
    """Remembers the epoch and the batches handed over in it; Lightning stores that state in checkpoints.

    After `load_state_dict` the next iteration of that same epoch begins after those batches, without reading them;
    an iteration of any other epoch begins at its start. An iteration really starts when its first batch is asked
    for, because Lightning calls `iter()` before it tells the sampler which epoch it is.

    Args:
        args: as for DataLoader; `sampler` must be an EpochSampler for a resume to take effect.
        kwargs: as for DataLoader.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._position = {"epoch": 0, "batches": 0}
        self._resume_at: dict[str, int] | None = None

    def state_dict(self) -> dict[str, int]:
        """`epoch`, and `batches` handed over in it so far."""
        return dict(self._resume_at or self._position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Takes over a position; it takes effect at the first batch of the next iteration."""
        self._resume_at = {"epoch": int(state["epoch"]), "batches": int(state["batches"])}

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._begin()
        for batch in super().__iter__():
            self._position["batches"] += 1
            yield batch

    def _begin(self) -> None:
        epoch = getattr(self.sampler, "epoch", 0)
        resume_at, self._resume_at = self._resume_at, None
        batches = resume_at["batches"] if resume_at is not None and resume_at["epoch"] == epoch else 0
        self._position = {"epoch": epoch, "batches": batches}
        if isinstance(self.sampler, EpochSampler):
            self.sampler.skip(batches * (self.batch_size or 1))
