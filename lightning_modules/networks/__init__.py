"""Networks over clips of shape (B, T, C, H, W); plain PyTorch, no Lightning."""

from lightning_modules.networks.backbone import Backbone
from lightning_modules.networks.degraded_input import DegradedInput
from lightning_modules.networks.early_exit import EarlyExitNetwork, EarlyExitNetworks
from lightning_modules.networks.feature_info import FeatureInfo
from lightning_modules.networks.internal_classifier import InternalClassifier, LinearClassifier, SegmentClassifier
from lightning_modules.networks.resnet import (
    ResNet,
    resnet10,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)
from lightning_modules.networks.single_exit import SingleExit
from lightning_modules.networks.slow_only import SlowOnlyResNet, slow_only_resnet50
from lightning_modules.networks.team_net import TeamNet
from lightning_modules.networks.temporal_shift import (
    TSMResNet,
    tsm_resnet10,
    tsm_resnet18,
    tsm_resnet50,
    tsm_resnet101,
)
from lightning_modules.networks.video_swin import VideoSwin, video_swin_b, video_swin_s, video_swin_t
from lightning_modules.networks.weights import WeightReport, load_weights

__all__ = [
    "Backbone",
    "DegradedInput",
    "EarlyExitNetwork",
    "EarlyExitNetworks",
    "FeatureInfo",
    "InternalClassifier",
    "LinearClassifier",
    "ResNet",
    "SegmentClassifier",
    "SingleExit",
    "SlowOnlyResNet",
    "TSMResNet",
    "TeamNet",
    "VideoSwin",
    "WeightReport",
    "load_weights",
    "resnet10",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "slow_only_resnet50",
    "tsm_resnet10",
    "tsm_resnet18",
    "tsm_resnet50",
    "tsm_resnet101",
    "video_swin_b",
    "video_swin_s",
    "video_swin_t",
]
