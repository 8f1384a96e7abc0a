"""What all networks have in common: depths at which they can be left, and a classifier at their end."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from lightning_modules.networks.feature_info import FeatureInfo


class Backbone(nn.Module, ABC):
    """Classifies clips by averaging the logits of their frames, in stages that can be run one by one.

    Subclasses set the attributes, and write one stage (``forward_stage``) and the classifier (``forward_head``).

    Attributes:
        num_classes: length of the logits.
        in_channels: channels of the clips.
        feature_info: the maps between stages, from shallow to deep; the classifier takes the last one.
        pools_time: whether a clip is classified once, by the mean of its last map over time, as in the papers on 3-D
            networks, or frame by frame. Logits are the same, as classifiers are linear.
        heads: where a network joins several streams and its logits are the sum of theirs: the streams, in order.
    """

    pools_time: bool = False
    heads: Sequence[str] = ()

    num_classes: int
    in_channels: int
    feature_info: list[FeatureInfo]

    @abstractmethod
    def forward_stage(self, name: str, maps: Tensor) -> Tensor:
        """Go on from one depth of ``feature_info`` to the next, for callers who may stop in between.

        Args:
            name: the depth to reach.
            maps: (B, T, channels, h, w), what the depth before it is; for the first one, clips.

        Returns:
            (B, T, channels, h, w), the map called ``name``.
        """

    @property
    def classifier(self) -> nn.Linear:
        """The linear layer at the end of the head, for whoever classifies single positions of the last map."""
        raise NotImplementedError(f"{type(self).__name__} declares no `classifier`")

    @abstractmethod
    def forward_head(self, features: Tensor) -> Tensor:
        """Classify the last map: (B, T, channels, h, w) -> (B, T, num_classes) logits per frame."""

    @property
    def exit_channels(self) -> dict[str, int]:
        """By depth, from shallow to deep, the channels of what an internal classifier sees there."""
        return {info.name: info.channels for info in self.feature_info}

    def exit_maps(self, name: str, maps: Tensor) -> Tensor:
        """What an internal classifier sees at the depth ``name``, (B, T, channels, h, w): by default the map."""
        return maps

    def classify_heads(self, features: Tensor) -> dict[str, Tensor]:
        """Logits (B, num_classes) of each of ``heads``, by the last map (B, T, channels, h, w)."""
        return {}

    def forward(self, clip: Tensor) -> Tensor:
        """Classify clips.

        Args:
            clip: (B, T, in_channels, H, W) float, normalised.

        Returns:
            (B, num_classes) logits, those of ``classify``.
        """
        return self.classify(self.forward_features(clip)[self.feature_info[-1].name])

    def classify(self, features: Tensor) -> Tensor:
        """Classify clips by their last map: (B, T, channels, h, w) -> (B, num_classes) logits.

        They are the mean of the frames' logits, or the logits of the mean of the frames (see ``pools_time``).
        """
        if self.pools_time:
            features = features.mean(dim=1, keepdim=True)
        return self.forward_head(features).mean(dim=1)

    def frame_logits(self, clip: Tensor) -> Tensor:
        """Classify every frame by itself: (B, T, in_channels, H, W) -> (B, T, num_classes)."""
        return self.forward_head(self.forward_features(clip)[self.feature_info[-1].name])

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        """Compute the maps named in ``feature_info``.

        Args:
            clip: (B, T, in_channels, H, W) float, normalised.

        Returns:
            (B, T, channels, H / reduction, W / reduction) by name, sides rounded up.

        Raises:
            ValueError: the clip is not 5-dimensional or has another number of channels.
        """
        features, maps = {}, clip
        for info in self.feature_info:
            features[info.name] = maps = self.forward_stage(info.name, maps)
        return features

    def _check_shape(self, clip: Tensor) -> None:
        if clip.ndim != 5 or clip.shape[2] != self.in_channels:
            raise ValueError(
                f"expected clips of shape (B, T, {self.in_channels}, H, W), came {tuple(clip.shape)}; "
                "the network's `in_channels` must be the channels of its stream"
            )
