"""What a network declares about the feature maps it can hand out, so that nobody hooks into it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureInfo:
    """One depth of a network at which features can be tapped.

    Args:
        name: key of the map in what ``forward_features`` returns.
        channels: channels of the map.
        reduction: input pixels per feature pixel, along each side.
    """

    name: str
    channels: int
    reduction: int
