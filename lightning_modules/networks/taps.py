"""What two networks are compared by: the last map, and what the head says of whole clips, frames or positions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from lightning_modules.networks.backbone import Backbone


@dataclass(frozen=True)
class Taps:
    """One pass of a network over clips; logits are computed when they are asked for.

    Args:
        features: (B, T, C, h, w), the last map.
        head: the network's classifier, maps (B, T, C, h, w) -> logits per frame (B, T, num_classes).
    """

    features: Tensor
    head: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, network: Backbone, clip: Tensor) -> "Taps":
        """Run the network over clips (B, T, in_channels, H, W), without its head."""
        return cls(network.forward_features(clip)[network.feature_info[-1].name], network.forward_head)

    @cached_property
    def frame_logits(self) -> Tensor:
        """(B, T, num_classes)."""
        return self.head(self.features)

    @property
    def clip_logits(self) -> Tensor:
        """(B, num_classes), the mean over the T frames."""
        return self.frame_logits.mean(dim=1)

    @cached_property
    def position_logits(self) -> Tensor:
        """(B, T, num_classes, h, w): every position classified as if it were the whole map."""
        batch, _, _, height, width = self.features.shape
        positions = self.features.permute(0, 3, 4, 1, 2).flatten(0, 2)[..., None, None]
        logits = self.head(positions).unflatten(0, (batch, height, width))
        return logits.permute(0, 3, 4, 1, 2)
