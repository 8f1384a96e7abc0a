"""Frames at lower resolutions, and networks that see theirs through one.

ResKD ("Rethinking Resolution in the Context of Efficient Video Recognition", NeurIPS 2022), Fig. 1a: frames that are
down-sampled, and up-sampled to the full size again, lack the detail of the full size but not the size.
"""

from torch import Tensor, nn
from typing_extensions import override

from lightning_modules.networks.backbone import Backbone
from lightning_modules.networks.resize import resize_maps, resize_short_side


class DegradedInput(Backbone):
    """A network on frames whose detail is that of a lower resolution, in training and in use; as dear as without.

    Args:
        network: which sees frames as large as they come.
        size: of the short side, pixels, through which frames go; those that are no larger are left alone.
    """

    def __init__(self, network: Backbone, size: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"`size`: expected 1 pixel or more, came {size}")
        self.network = network
        self.size = size
        self.num_classes = network.num_classes
        self.in_channels = network.in_channels
        self.feature_info = network.feature_info
        self.pools_time = network.pools_time
        self.heads = network.heads

    @override
    def forward_stage(self, name: str, maps: Tensor) -> Tensor:
        if name == self.feature_info[0].name and self.size < min(maps.shape[-2:]):
            maps = resize_maps(resize_short_side(maps, self.size), maps.shape[-2:])
        return self.network.forward_stage(name, maps)

    @override
    def forward_head(self, features: Tensor) -> Tensor:
        return self.network.forward_head(features)

    @override
    def classify_heads(self, features: Tensor) -> dict[str, Tensor]:
        return self.network.classify_heads(features)

    @property
    @override
    def exit_channels(self) -> dict[str, int]:
        return self.network.exit_channels

    @override
    def exit_maps(self, name: str, maps: Tensor) -> Tensor:
        return self.network.exit_maps(name, maps)

    @property
    @override
    def classifier(self) -> nn.Linear:
        return self.network.classifier
