"""What modules of networks with exits share: where the networks come from, and checkpoints that hold them."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor
from typing_extensions import override

from lightning_modules.agreement import check_classes, check_streams, warn_of_other_sizes
from lightning_modules.analysis.loss_surface import cross_entropy
from lightning_modules.analysis.target import AnalysisTarget
from lightning_modules.exit_networks import STATE, ExitNetworks
from lightning_modules.networks.early_exit import EarlyExitNetwork


class ExitNetworksModule(LightningModule):
    """Networks with exits, read from other runs' checkpoints once, then from this run's own.

    Attributes: ``exit_networks``, None until they are read; ``networks``, the same as a part of the module.

    Args:
        networks: checkpoint of a ``RecognitionModule`` by stream; empty if the networks come from elsewhere.
    """

    def __init__(self, networks: dict[str, str]) -> None:
        super().__init__()
        self.sources = networks
        self.exit_networks: ExitNetworks | None = None

    @property
    def source_files(self) -> list[str]:
        """What ``load_sources`` reads."""
        return list(self.sources.values())

    @abstractmethod
    def read_sources(self) -> ExitNetworks:
        """The networks out of ``source_files``."""

    def load_sources(self) -> None:
        """Read the networks where a run starts.

        Raises:
            FileNotFoundError: a checkpoint is missing.
            ValueError: one of something else, or of other classes, streams or architectures than the others.
        """
        self.adopt(self.read_sources())

    def adopt(self, exit_networks: ExitNetworks) -> None:
        """Take over networks with exits; subclasses make what depends on them."""
        self.exit_networks = exit_networks
        self.networks = exit_networks.networks

    def analysis_targets(self) -> dict[str, AnalysisTarget]:
        """What ``callbacks.flatness`` and ``callbacks.visual_explanations`` analyse, by stream.

        Each network, and ``<stream>/exits``: its internal classifiers. Their losses are those of the labels.
        """
        targets = {}
        for stream, network in self.networks.networks.items():
            assert isinstance(network, EarlyExitNetwork)
            targets[stream] = AnalysisTarget(network.backbone, stream)
            classifiers = [name for name, _ in network.named_parameters() if name.startswith("classifiers.")]
            if classifiers:
                targets[f"{stream}/exits"] = AnalysisTarget(network, stream, classifiers, loss=_internal_cross_entropy)
        return targets

    @override
    def setup(self, stage: str) -> None:
        # A resumed fit gets its networks from its checkpoint, which is read later: missing files may be none of our
        # business here. `configure_optimizers` knows.
        if stage == "fit" and self.exit_networks is None and all(Path(path).is_file() for path in self.source_files):
            self.load_sources()
        self._check_data()

    @override
    def on_validation_start(self) -> None:
        if self.exit_networks is None:
            raise ValueError(
                f"{type(self).__name__} has no networks: run `fit`, or give its own checkpoint (--ckpt_path)"
            )

    on_test_start = on_predict_start = on_validation_start

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert self.exit_networks is not None
        checkpoint[STATE] = self.exit_networks.state()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint[STATE]
        if self.sources and state["configs"].keys() != self.sources.keys():
            raise ValueError(
                f"the checkpoint is of streams {list(state['configs'])}, `model.init_args.networks` names "
                f"{list(self.sources)}"
            )
        self.adopt(ExitNetworks.from_state(state))
        self._check_data()

    def _check_data(self) -> None:
        """Check the DataModule against the networks, once both are there."""
        if self.exit_networks is None or self._trainer is None:
            return
        datamodule = getattr(self.trainer, "datamodule", None)
        check_streams(datamodule, self.networks.networks)
        warn_of_other_sizes(datamodule, self.exit_networks.sizes)
        if not self.trainer.predicting:  # the videos may be of any class then
            check_classes(datamodule, self.networks.num_classes, self.exit_networks.classes)


def _internal_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the internal classifiers among exits (B, K, num_classes), of which the network's own is the last."""
    return cross_entropy(logits[:, :-1], labels)
