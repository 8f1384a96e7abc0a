"""A trained network that teaches: outside of the student's module, so out of its checkpoints and its optimizer."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_modules.checkpoints import TrainedNetwork
from lightning_modules.networks.backbone import Backbone
from lightning_modules.networks.channels_last import store_channels_last
from lightning_modules.networks.taps import Taps

NormPolicy = Literal["eval", "batch-statistics", "unfrozen"]


class FrozenTeacher:
    """Answers without gradients; no ``nn.Module``, so that a module may hold it without owning it.

    Its weights never change. How its BatchNorm normalises is said explicitly:

    - ``eval``: by the running statistics, which stay as they are.
    - ``batch-statistics``: by the statistics of the batch; the running ones stay as they are.
    - ``unfrozen``: by the statistics of the batch, which the running ones follow, as in ResKD's public code.

    Args:
        source: the network, out of a checkpoint.
        norm: how its BatchNorm normalises.

    Raises:
        ValueError: another policy, one for BatchNorm of a network that has none, or a network without depths
            (``Backbone``).
    """

    def __init__(self, source: TrainedNetwork, norm: NormPolicy = "eval") -> None:
        if norm not in ("eval", "batch-statistics", "unfrozen"):
            raise ValueError(
                f"`model.init_args.teacher_norm`: expected eval, batch-statistics or unfrozen, came {norm!r}"
            )
        if not isinstance(source.network, Backbone):
            raise ValueError(
                "`model.init_args.teacher`: expected a network with depths (`Backbone`), came "
                f"{type(source.network).__name__}"
            )
        self.network = source.network
        store_channels_last(self.network)
        if norm != "eval":
            self._normalise_by_batches(norm)

    def _normalise_by_batches(self, norm: NormPolicy) -> None:
        found = [m for m in self.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if not found:
            raise ValueError(
                f"`model.init_args.teacher_norm: {norm}`: expected a teacher with BatchNorm, came "
                f"{type(self.network).__name__} without; set it to eval"
            )
        for module in found:
            module.train()
            module.track_running_stats = norm == "unfrozen"

    def to(self, *args: Any, **kwargs: Any) -> "FrozenTeacher":
        """Move it, as ``nn.Module.to`` does."""
        self.network.to(*args, **kwargs)
        return self

    @torch.no_grad()
    def __call__(self, clip: Tensor) -> Taps:
        """Its answer, in its own precision, to clips (B, T, C, H, W) of any."""
        return Taps.of(self.network, clip.to(next(self.network.parameters()).dtype))
