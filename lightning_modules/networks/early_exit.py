"""Frozen networks with early exits: internal classifiers beside their own, one network or one for each stream.

Soufleri et al., "Advancing Compressed Video Action Recognition through Progressive Knowledge Distillation"
(arXiv 2407.02713), section 3: three internal classifiers and the network's own make 4 exits, three streams make 12.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.networks.backbone import Backbone
from lightning_modules.networks.exit_layout import ClassifierCallable, build_classifiers

FINAL = "final"


class EarlyExitNetwork(nn.Module):
    """A frozen network, internal classifiers on its maps, and its own classifier as the last exit.

    ::

        clip -> stem -> layer1 ---> layer2 ---> layer3 ---> layer4 -> head     frozen, in eval mode, without gradients
                          |           |           |                    |
                      classifier  classifier  classifier               |       these learn
                          |           |           |                    |
                       "layer1"    "layer2"    "layer3"             "final"

    What a classifier sees of a depth is the map there, or what the backbone makes of it (``exit_maps``). A backbone
    that adds up the logits of several ``heads`` has one last exit all the same; its heads are further outputs, for
    teaching.

    Attributes: ``exit_names`` from shallow to deep, ``heads``, ``num_classes`` and ``in_channels``.

    Args:
        backbone: a ``Backbone``. It is frozen here, and ``train()`` leaves it so.
        exits: the layout of internal classifiers: ``resnet18`` and ``resnet50`` are the paper's, ``convolutional`` and
            ``linear`` fit any network; or the classifiers' factories by depth (see ``exit_layout``).

    Raises:
        ValueError: no ``Backbone``, no such layout, or one with depths that the backbone lacks.
    """

    def __init__(self, backbone: nn.Module, exits: str | Mapping[str, ClassifierCallable] = "convolutional") -> None:
        super().__init__()
        if not isinstance(backbone, Backbone):
            raise ValueError(f"`backbone`: expected a network with depths (`Backbone`), came {type(backbone).__name__}")
        self.num_classes = backbone.num_classes
        self.in_channels = backbone.in_channels
        self.backbone = backbone.requires_grad_(False).eval()
        self.heads = tuple(backbone.heads)
        self.classifiers = build_classifiers(exits, backbone.exit_channels, self.num_classes)
        self.exit_names = (*self.classifiers, FINAL)

    def forward(self, clip: Tensor) -> Tensor:
        """Classify clips at every exit, in one pass.

        Args:
            clip: (B, T, in_channels, H, W) float, normalised.

        Returns:
            (B, K, num_classes) logits in the order of ``exit_names``; gradients reach the internal classifiers alone.
        """
        return torch.stack([logits for _, logits in self.exits(clip)], dim=1)

    def exits(self, clip: Tensor) -> "ExitRun":
        """Classify clips (B, T, in_channels, H, W) at one exit after the other, as they are asked for."""
        return ExitRun(self, clip)

    def outputs(self, clip: Tensor) -> dict[str, Tensor]:
        """Classify clips as ``forward`` does, at every exit and by every head: (B, num_classes) logits by name."""
        run = self.exits(clip)
        return dict(run) | self.forward_heads(run.maps)

    def features(self, clip: Tensor) -> dict[str, Tensor]:
        """All that ``outputs`` takes from the frozen network, in one pass and without gradients.

        Returns:
            What each internal classifier sees, (B, T, channels, h, w) by the name of its exit; and the logits of the
            network's own classifier and heads, (B, 1, num_classes, 1, 1).
        """
        run = self.exits(clip)
        seen = dict(run.features())
        own = {FINAL: seen.pop(FINAL)} | self.forward_heads(run.maps)
        return seen | {name: logits[:, None, :, None, None] for name, logits in own.items()}

    def outputs_of(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What ``outputs`` would say, by what ``features`` made of the clips."""
        own = {name: logits[:, 0, :, 0, 0] for name, logits in features.items() if name not in self.classifiers}
        return {name: classifier(features[name]) for name, classifier in self.classifiers.items()} | own

    @torch.no_grad()
    def forward_stage(self, name: str, maps: Tensor) -> Tensor:
        """The frozen backbone's step to the depth ``name``."""
        return self.backbone.forward_stage(name, maps)

    @torch.no_grad()
    def exit_maps(self, name: str, maps: Tensor) -> Tensor:
        """What the classifier at the depth ``name`` sees of the map there (B, T, channels, h, w)."""
        return self.backbone.exit_maps(name, maps)

    def forward_exit(self, name: str, maps: Tensor) -> Tensor:
        """The classifier at the depth ``name``: the map there (B, T, channels, h, w) -> (B, num_classes)."""
        return self.classifiers[name](self.exit_maps(name, maps))

    @torch.no_grad()
    def forward_head(self, maps: Tensor) -> Tensor:
        """The frozen backbone's own classifier: last maps (B, T, channels, h, w) -> (B, num_classes)."""
        return self.backbone.classify(maps)

    @torch.no_grad()
    def forward_heads(self, maps: Tensor) -> dict[str, Tensor]:
        """The frozen backbone's heads by name: last maps (B, T, channels, h, w) -> (B, num_classes)."""
        return self.backbone.classify_heads(maps)

    def train(self, mode: bool = True) -> "EarlyExitNetwork":
        """Set the classifiers' mode; the backbone stays in eval mode, so that its BatchNorm does not drift."""
        super().train(mode)
        self.backbone.eval()
        return self


class ExitRun(Iterator[tuple[str, Tensor]]):
    """The exits of one batch, each computed when it is asked for; samples may leave in between.

    ::

        run = network.exits(clip)
        for name, logits in run:  # (b, num_classes) of the b samples that are still there
            run.keep(logits.softmax(1).amax(1) <= threshold)

    Args:
        network: the network to run.
        clip: (B, T, in_channels, H, W) float, normalised.
    """

    def __init__(self, network: EarlyExitNetwork, clip: Tensor) -> None:
        self.network = network
        self.maps = clip
        # No generator, which would hold `self`, and in this cycle the maps of those that left, until it is collected.
        self._depths = iter([*(info.name for info in network.backbone.feature_info), FINAL])

    def __next__(self) -> tuple[str, Tensor]:
        name, seen = self._next_features()
        classifiers = self.network.classifiers
        return name, classifiers[name](seen) if name in classifiers else seen

    def keep(self, chosen: Tensor) -> None:
        """Go on with some of the samples: indices, or (b,) bool over those that are still there."""
        self.maps = self.maps[chosen]

    def features(self) -> Iterator[tuple[str, Tensor]]:
        """In place of the exits: what the classifier of each sees, and at the last one its logits."""
        for _ in self.network.exit_names:
            yield self._next_features()

    def _next_features(self) -> tuple[str, Tensor]:
        """On to the next depth that has an exit."""
        name = next(self._depths)
        while name != FINAL:
            self.maps = self.network.forward_stage(name, self.maps)
            if name in self.network.classifiers:
                return name, self.network.exit_maps(name, self.maps)
            name = next(self._depths)
        return FINAL, self.network.forward_head(self.maps)


class EarlyExitNetworks(nn.Module):
    """Early-exit networks of several streams, their exits in one order: ``mv/layer1`` ... ``iframe/final``.

    Attributes: ``networks`` by stream, ``exit_names`` in order, ``output_names``, which are these and all heads,
    ``num_classes``.

    Args:
        networks: by stream, all of the same classes.
        order: of the exits: names of streams, each for all of its exits, or of exits, e.g. ``mv/layer1``. Every exit
            comes once, a shallow one before a deeper one of its stream. None takes the order of ``networks``; the
            paper's is motion vectors, residual, I-frame.

    Raises:
        ValueError: no network, networks of different classes, or another order.
    """

    def __init__(self, networks: dict[str, EarlyExitNetwork], *, order: Sequence[str] | None = None) -> None:
        super().__init__()
        classes = {stream: network.num_classes for stream, network in networks.items()}
        if len(set(classes.values())) != 1:
            raise ValueError(f"expected networks of one `num_classes`, by stream, came {classes}")
        self.networks = nn.ModuleDict(networks)
        self.num_classes = next(iter(classes.values()))
        self.exit_names = _ordered(networks, list(networks) if order is None else order)
        heads = [f"{stream}/{head}" for stream, network in networks.items() for head in network.heads]
        self.output_names = (*self.exit_names, *heads)

    @property
    def teachers(self) -> dict[str, str]:
        """Outputs that may teach, by what they know of: streams, each by its network's own classifier, or by its head.

        ``mv/final`` is called ``mv``, ``iframe+mv+residual/final`` is called ``iframe+mv+residual``, and
        ``iframe+mv+residual/mv`` is called ``mv``, unless there is a network on ``mv`` as well.
        """
        heads = {name.split("/")[1]: name for name in self.output_names[len(self.exit_names) :]}
        return heads | {stream: f"{stream}/{FINAL}" for stream in self.networks}

    def forward(self, streams: Mapping[str, Tensor]) -> Tensor:
        """Classify clips at every exit of every network.

        Args:
            streams: (B, T, C, H, W) float by stream, normalised.

        Returns:
            (B, K, num_classes) logits in the order of ``exit_names``.
        """
        logits = dict(self.exits(lambda stream: streams[stream]))
        return torch.stack([logits[name] for name in self.exit_names], dim=1)

    def outputs(self, streams: Mapping[str, Tensor]) -> Tensor:
        """Classify clips as ``forward`` does, at every exit and by every head, each network in one pass.

        Returns:
            (B, K + heads, num_classes) logits in the order of ``output_names``.
        """
        logits = self._by_name(lambda stream, network: network.outputs(streams[stream]))
        return torch.stack([logits[name] for name in self.output_names], dim=1)

    def features(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All that the frozen networks give ``outputs_of``, by name of the output: see ``EarlyExitNetwork``."""
        return self._by_name(lambda stream, network: network.features(streams[stream]))

    def outputs_of(self, features: Mapping[str, Tensor]) -> Tensor:
        """Classify clips as ``outputs`` does, by what ``features`` made of them."""

        def classify(stream: str, network: EarlyExitNetwork) -> dict[str, Tensor]:
            names = (*network.exit_names, *network.heads)
            return network.outputs_of({name: features[f"{stream}/{name}"] for name in names})

        logits = self._by_name(classify)
        return torch.stack([logits[name] for name in self.output_names], dim=1)

    def exits(self, load: Callable[[str], Tensor]) -> "StreamExitRun":
        """Classify at one exit after the other, as they are asked for.

        Args:
            load: gives the clips (b, T, C, H, W) of a stream. It is called when the first exit of the stream is due,
                and has to leave out the samples that have left by then.
        """
        return StreamExitRun(self, load)

    def blank_clips(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """(1, T, C, H, W) zeros by stream, of the weights' precision and on their device, to see what comes of clips.

        Args:
            shapes: (T, C, H, W) of each stream.
        """
        weight = next(self.parameters())
        return {stream: weight.new_zeros(1, *shapes[stream]) for stream in self.networks}

    def _by_name(self, answers: Callable[[str, EarlyExitNetwork], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What ``answers`` says of each stream and its network, as ``<stream>/<name>``."""
        return {
            f"{stream}/{name}": answer
            for stream, network in self.networks.items()
            for name, answer in answers(stream, network).items()  # type: ignore[arg-type]
        }


class StreamExitRun(Iterator[tuple[str, Tensor]]):
    """The exits of several streams, as ``ExitRun``; a stream is loaded when its first exit is asked for.

    Args:
        networks: the networks to run.
        load: gives the clips of a stream, of the samples that are still there.
    """

    def __init__(self, networks: EarlyExitNetworks, load: Callable[[str], Tensor]) -> None:
        self.networks = networks
        self.load = load
        self.runs: dict[str, ExitRun] = {}
        self._names = iter(networks.exit_names)

    def __next__(self) -> tuple[str, Tensor]:
        name = next(self._names)
        stream, _ = name.split("/")
        if stream not in self.runs:
            network = self.networks.networks[stream]
            assert isinstance(network, EarlyExitNetwork)
            self.runs[stream] = network.exits(self.load(stream))
        return name, next(self.runs[stream])[1]

    def keep(self, chosen: Tensor) -> None:
        """Go on with some of the samples: indices, or (b,) bool over those that are still there."""
        for run in self.runs.values():
            run.keep(chosen)


def _ordered(networks: Mapping[str, EarlyExitNetwork], order: Sequence[str]) -> tuple[str, ...]:
    """The names of all exits in ``order``, streams replaced by their exits."""
    exits = {stream: [f"{stream}/{name}" for name in network.exit_names] for stream, network in networks.items()}
    ordered = [name for entry in order for name in exits.get(entry, [entry])]
    by_stream = {stream: [name for name in ordered if name in names] for stream, names in exits.items()}
    if by_stream != exits or len(ordered) != sum(map(len, exits.values())):
        raise ValueError(
            f"`order`: expected each of {[name for names in exits.values() for name in names]} once, shallow before "
            f"deep in each stream, or streams for all of theirs; came {list(order)}"
        )
    return tuple(ordered)
