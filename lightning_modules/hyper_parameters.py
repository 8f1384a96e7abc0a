"""Which arguments of a LightningModule its checkpoints must not hold."""

from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters


def live_arguments(*names: str) -> list[str]:
    """Those of ``names``, arguments that are objects, that are so here: none if a config built the module."""
    return [] if _given_hyperparameters.get() is not None else list(names)
