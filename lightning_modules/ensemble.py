"""Combining logits: of views, and of several networks by learned scales."""

from torch import Tensor


def average_views(logits: Tensor, num_views: int) -> Tensor:
    """Mean over the views of each video, which are adjacent: (B * num_views, C) -> (B, C)."""
    return logits.unflatten(0, (len(logits) // num_views, num_views)).mean(dim=1)
