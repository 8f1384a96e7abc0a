"""Losses: pure functions of logits and features, no Lightning."""

from lightning_modules.losses.matching import (
    ClipLogitMatching,
    FeatureMatching,
    FrameLogitMatching,
    Matching,
    PooledFeatureMatching,
    PositionLogitMatching,
)
from lightning_modules.losses.soft_target import SoftTargetLoss, hard_label_cross_entropy, soft_target_cross_entropy

__all__ = [
    "ClipLogitMatching",
    "FeatureMatching",
    "FrameLogitMatching",
    "Matching",
    "PooledFeatureMatching",
    "PositionLogitMatching",
    "SoftTargetLoss",
    "hard_label_cross_entropy",
    "soft_target_cross_entropy",
]
