"""TEAM-Net: three residual networks, on I-frames, motion vectors and residuals, that excite each other's features.

Wang et al., "TEAM-Net: Multi-modal Learning for Video Action Recognition with Partial Decoding" (BMVC 2021), section 3,
in the form of its public code: no biases in the TEAM modules, temporal shift in the residual networks, logits of the
three added up. It is one network on one stream, ``iframe+mv+residual``, whose channels are those of the three; and so
are its maps, at every depth.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_modules.networks.backbone import Backbone
from lightning_modules.networks.feature_info import FeatureInfo
from lightning_modules.networks.resnet import ResNet

T = TypeVar("T")

PARTS = {"iframe": 3, "mv": 2, "residual": 3}  # of the stream, in its order, and their channels
SQUEEZE = 4


class TeamModule(nn.Module):
    """Weighs the channels, and then the positions, of each stream's maps by what the maps of all streams show.

    ::

        maps of all streams --+-- mean over positions -> FC, ReLU -> FC, sigmoid --+      "squeeze", "excite"
                              +-------------------------------------------------- (*) channels
                              +-- mean over channels of each -> 3x3, sigmoid ------+      "spatial"
                              +-------------------------------------------------- (*) positions -> maps of each

    Nothing goes round it. One layer of each kind serves all streams, as a layer for each would: of what it puts out,
    every stream has its own channels.

    Args:
        channels: of each stream's maps.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = list(channels)
        total = sum(channels)
        self.squeeze = nn.Linear(total, total // SQUEEZE, bias=False)
        self.excite = nn.Linear(total // SQUEEZE, total, bias=False)
        self.spatial = nn.Conv2d(len(channels), len(channels), 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> list[Tensor]:
        """Excite maps.

        Args:
            maps: (B, T, sum of ``channels``, h, w), those of all streams joined.

        Returns:
            (B, T, channels, h, w) of each stream.
        """
        weights = self.excite(self.squeezed(maps)).sigmoid()
        parts = (maps * weights[..., None, None]).split(self.channels, dim=2)
        means = torch.stack([part.mean(dim=2) for part in parts], dim=2)
        places = self.spatial(means.flatten(0, 1)).sigmoid().unflatten(0, means.shape[:2])
        return [part * place for part, place in zip(parts, places.split(1, dim=2), strict=True)]

    def squeezed(self, maps: Tensor) -> Tensor:
        """What all streams show, in few numbers: maps as of ``forward`` -> (B, T, sum of ``channels`` / 4)."""
        return self.squeeze(maps.mean(dim=(3, 4))).relu()


class TeamNet(Backbone):
    """Three residual networks with a TEAM module before each stage but the first; their logits are added up.

    ::

        iframe ---> stem --+        +-> layer1 --+        +->  ...  -> layer4 --> fc --+
        mv -------> stem --+- TEAM -+-> layer1 --+- TEAM -+->  ...  -> layer4 --> fc --+--> sum
        residual -> stem --+        +-> layer1 --+        +->  ...  -> layer4 --> fc --+
                        "stem"               "layer1"              "layer4"

    Attributes: ``num_classes``, ``in_channels`` and ``feature_info``, which describes the maps that
    ``forward_features`` returns: ``stem`` and ``layer1`` to ``layer4``, those of the three networks joined channel by
    channel, before the TEAM module that follows. ``heads``, and ``streams``, which has the three networks by name.
    Internal classifiers see what the TEAM module at their depth squeezes the maps to. Leaving at one of them saves
    computation alone: the streams meet at the first, so all are decoded by then.

    Args:
        iframe: sees the first 3 channels of clips. The paper's is ResNet-50 with temporal shift.
        mv: sees the next 2; the paper's is ResNet-18 with temporal shift and a BatchNorm on its input.
        residual: sees the last 3; the paper's is as that of ``mv``.

    Raises:
        ValueError: networks of different classes, of other input channels, or whose maps differ in size.
    """

    heads = tuple(PARTS)

    def __init__(self, iframe: ResNet, mv: ResNet, residual: ResNet) -> None:
        super().__init__()
        networks = {"iframe": iframe, "mv": mv, "residual": residual}
        channels = {name: network.in_channels for name, network in networks.items()}
        if channels != PARTS:
            raise ValueError(f"`in_channels`: expected {PARTS}, came {channels}")
        self.in_channels = sum(PARTS.values())
        classes = {name: network.num_classes for name, network in networks.items()}
        self.num_classes = _agreed("the same `num_classes`", classes)
        self.streams = nn.ModuleDict(networks)
        self.feature_info = _joined(networks)
        self.teams = nn.ModuleDict(
            {info.name: TeamModule(self._channels(depth)) for depth, info in enumerate(self.feature_info[:-1])}
        )

    @override
    def forward_stage(self, name: str, maps: Tensor) -> Tensor:
        depth = [info.name for info in self.feature_info].index(name)
        if depth == 0:
            self._check_shape(maps)
            parts: Sequence[Tensor] = maps.split(list(PARTS.values()), dim=2)
        else:
            parts = self._team(self.feature_info[depth - 1].name)(maps)
        stages = [network.forward_stage(name, part) for network, part in zip(self._networks, parts, strict=True)]
        return torch.cat(stages, dim=2)

    @override
    def forward_head(self, features: Tensor) -> Tensor:
        parts = features.split(self._channels(-1), dim=2)
        heads = [network.forward_head(part) for network, part in zip(self._networks, parts, strict=True)]
        return torch.stack(heads).sum(dim=0)

    @override
    def classify_heads(self, features: Tensor) -> dict[str, Tensor]:
        parts = zip(self.heads, self._networks, features.split(self._channels(-1), dim=2), strict=True)
        return {name: network.classify(part) for name, network, part in parts}

    @property
    @override
    def exit_channels(self) -> dict[str, int]:
        return {name: self._team(name).squeeze.out_features for name in self.teams}

    @override
    def exit_maps(self, name: str, maps: Tensor) -> Tensor:
        return self._team(name).squeezed(maps)[..., None, None]

    def _team(self, name: str) -> TeamModule:
        """The module on the maps called ``name``."""
        team = self.teams[name]
        assert isinstance(team, TeamModule)
        return team

    @property
    def _networks(self) -> list[ResNet]:
        return list(self.streams.values())  # type: ignore[arg-type]

    def _channels(self, depth: int) -> list[int]:
        """Of each network's maps."""
        return [network.feature_info[depth].channels for network in self._networks]


def _joined(networks: Mapping[str, ResNet]) -> list[FeatureInfo]:
    """The maps of all networks as one, depth by depth."""
    reductions = {name: [info.reduction for info in network.feature_info] for name, network in networks.items()}
    _agreed("maps of the same sizes (`strides`)", reductions)
    depths = zip(*(network.feature_info for network in networks.values()), strict=True)
    return [FeatureInfo(infos[0].name, sum(info.channels for info in infos), infos[0].reduction) for infos in depths]


def _agreed(what: str, values: Mapping[str, T]) -> T:
    """What all networks have, by name.

    Raises:
        ValueError: they differ.
    """
    first, *others = values.values()
    if any(other != first for other in others):
        raise ValueError(f"expected {what} in all networks of a TEAM-Net, came {dict(values)}")
    return first
