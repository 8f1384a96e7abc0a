"""Compiles networks by `torch.compile` for training."""

from collections.abc import Callable

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_modules.frozen_teacher import FrozenTeacher
from lightning_modules.networks.backbone import Backbone


class Compiled(pl.Callback):
    """Compiles every stage and head of the module's networks, and a teacher's; internal classifiers stay as they are.

    By stages, since networks with exits and teachers are run by stages. Weights, checkpoints and their keys are those
    of a run without; results agree up to rounding, so do those of a resumed run. Each stage is compiled where it is
    first met: for training, for validation, and once more for batches of another size. Runs on `on_train_start`; what
    other verbs run is not compiled.

    Args:
        backend: of `torch.compile`. ``inductor`` needs a C++ compiler, and Triton on GPUs.
        mode: of ``inductor``, e.g. ``max-autotune-no-cudagraphs``.
    """

    def __init__(self, backend: str = "inductor", mode: str | None = None) -> None:
        self.backend = backend
        self.mode = mode

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.apply(pl_module)

    def apply(self, module: pl.LightningModule) -> None:
        """Compile the networks of a module, in place, each stage when it is first run."""
        # All stages of all networks share the code of one method, which by default is compiled 8 times at most.
        torch._dynamo.config.cache_size_limit = 256
        teacher = getattr(module, "teacher", None)
        for network in _outermost(module) + ([teacher.network] if isinstance(teacher, FrozenTeacher) else []):
            for method in ("forward_stage", "forward_head"):
                setattr(network, method, self._compile(getattr(network, method)))

    def _compile(self, method: Callable[..., Tensor]) -> Callable[..., Tensor]:
        # Maps differ from stage to stage: sizes that are left open for that would be open in every stage.
        return torch.compile(method, backend=self.backend, mode=self.mode, dynamic=False)


def _outermost(module: nn.Module) -> list[nn.Module]:
    """The networks in a module, without those inside of networks, which are compiled with them."""
    if isinstance(module, Backbone):
        return [module]
    return [network for child in module.children() for network in _outermost(child)]
