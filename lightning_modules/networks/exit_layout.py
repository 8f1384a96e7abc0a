"""Which internal classifier stands at which depth of a network.

A layout is a factory of classifiers by depth, ``{"layer1": factory, ...}`` with ``factory(in_channels, num_classes)``.
Those with a name:

- ``resnet18``, ``resnet50``, ``team_net``: of Soufleri et al. (arXiv 2407.02713), read in the public code; ``resnet50``
  is for ResNet-101 and -152 too, ``team_net`` for clips of 8 segments.
- ``convolutional``, ``linear``: for any network, one form at each of the three depths before the last.
"""

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from lightning_modules.networks.internal_classifier import InternalClassifier, LinearClassifier, SegmentClassifier

ClassifierCallable = Callable[[int, int], nn.Module]

PAPER_LAYOUTS: dict[str, dict[str, ClassifierCallable]] = {
    "resnet18": {
        "layer1": partial(InternalClassifier, channels=64, kernel_size=7),
        "layer2": partial(InternalClassifier, channels=128),
        "layer3": partial(InternalClassifier, channels=256),
    },
    "resnet50": {
        "layer1": partial(InternalClassifier, channels=64),
        "layer2": partial(InternalClassifier, channels=256),
        "layer3": partial(InternalClassifier, channels=1024),
    },
    "team_net": {"stem": SegmentClassifier, "layer1": SegmentClassifier, "layer2": SegmentClassifier},
}
FORMS: dict[str, ClassifierCallable] = {"convolutional": InternalClassifier, "linear": LinearClassifier}


def build_classifiers(
    layout: str | Mapping[str, ClassifierCallable], channels: Mapping[str, int], num_classes: int
) -> nn.ModuleDict:
    """Build the classifiers of a layout for a network.

    Args:
        layout: a name (see the module), or factories by depth; empty for no classifier but the network's own.
        channels: by depth, from shallow to deep, what the network declares as ``exit_channels``.
        num_classes: length of the logits.

    Returns:
        Classifiers by depth, from shallow to deep.

    Raises:
        ValueError: an unknown name, or a depth the network does not have.
    """
    factories = _named(layout, list(channels)) if isinstance(layout, str) else layout
    if not set(factories) <= set(channels):
        raise ValueError(f"`exits`: expected some of the network's depths {list(channels)}, came {list(factories)}")
    return nn.ModuleDict(
        {depth: factories[depth](count, num_classes) for depth, count in channels.items() if depth in factories}
    )


def _named(name: str, depths: list[str]) -> Mapping[str, ClassifierCallable]:
    if name in FORMS:
        return dict.fromkeys(depths[-4:-1], FORMS[name])
    if name not in PAPER_LAYOUTS:
        raise ValueError(f"`exits`: expected one of {[*PAPER_LAYOUTS, *FORMS]}, or classifiers by depth, came {name!r}")
    return PAPER_LAYOUTS[name]
