"""One exit of a network with early exits by itself: what is deployed where clips are to leave there."""

from torch import Tensor, nn

from lightning_modules.networks.early_exit import EarlyExitNetwork


class SingleExit(nn.Module):
    """A network up to one of its exits; nothing behind it is computed, and no other classifier.

    Attributes: ``num_classes`` and ``in_channels``.

    Args:
        network: the network with its exits.
        exit: one of its ``exit_names``.

    Raises:
        ValueError: it has no such exit.
    """

    def __init__(self, network: EarlyExitNetwork, exit: str) -> None:
        super().__init__()
        if exit not in network.exit_names:
            raise ValueError(f"`exit`: expected one of {list(network.exit_names)}, came {exit!r}")
        self.network = network
        self.exit = exit
        self.num_classes = network.num_classes
        self.in_channels = network.in_channels

    def forward(self, clip: Tensor) -> Tensor:
        """Classify clips (B, T, in_channels, H, W) float, normalised -> (B, num_classes) logits."""
        maps = clip
        for info in self.network.backbone.feature_info:
            maps = self.network.forward_stage(info.name, maps)
            if info.name == self.exit:
                return self.network.forward_exit(info.name, maps)
        return self.network.forward_head(maps)
