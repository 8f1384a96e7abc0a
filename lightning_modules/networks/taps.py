"""What two networks are compared by: the last map, and what the head says of whole clips, frames or positions."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor, nn

from lightning_modules.networks.backbone import Backbone


class Head(Protocol):
    """What is needed of a network beyond its last map; as of ``Backbone``."""

    pools_time: bool

    @property
    def classifier(self) -> nn.Linear: ...

    def forward_head(self, features: Tensor) -> Tensor: ...

    def classify(self, features: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Taps:
    """One pass of a network over clips; logits are computed when they are asked for.

    Args:
        features: (B, T, C, h, w), the last map.
        head: the network, or what classifies as it does.
    """

    features: Tensor
    head: Head

    @classmethod
    def of(cls, network: Backbone, clip: Tensor) -> "Taps":
        """Run the network over clips (B, T, in_channels, H, W), without its head."""
        return cls(network.forward_features(clip)[network.feature_info[-1].name], network)

    @cached_property
    def pooled_features(self) -> Tensor:
        """(B, T, C), means over positions."""
        return self.features.mean(dim=(3, 4))

    @cached_property
    def clip_logits(self) -> Tensor:
        """(B, num_classes); of the same features as the frames' where these are averaged, dropped ones too."""
        return self.head.classify(self.features) if self.head.pools_time else self.frame_logits.mean(dim=1)

    @cached_property
    def frame_logits(self) -> Tensor:
        """(B, T, num_classes)."""
        return self.head.forward_head(self.features)

    @cached_property
    def position_logits(self) -> Tensor:
        """(B, T, num_classes, h, w): every position classified as if it were the whole map, without dropout."""
        return self.head.classifier(self.features.movedim(2, -1)).movedim(-1, 2)
