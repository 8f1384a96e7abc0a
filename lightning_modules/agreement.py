"""Checks that a network and the data it gets fit together, with messages that name the config keys."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from datamodules.clip import JOINT, ClipBatch, LazyClipBatch


def num_classes_of(network: nn.Module) -> int:
    """The length of a network's logits.

    Raises:
        ValueError: the network does not declare it.
    """
    num_classes = getattr(network, "num_classes", None)
    if not isinstance(num_classes, int):
        raise ValueError(f"expected a network with an int attribute `num_classes`, came {type(network).__name__}")
    return num_classes


def check_streams(datamodule: Any, streams: Iterable[str]) -> None:
    """Check that a DataModule that declares its ``streams`` has those that the model needs.

    Raises:
        ValueError: it has not.
    """
    given = getattr(datamodule, "streams", None)
    for stream in streams:
        if given is not None and stream not in given:
            raise ValueError(
                f"the model needs stream {stream!r}, the data gives {list(given)}; add it to `data.streams`"
            )


def warn_of_other_sizes(datamodule: Any, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Say on rank zero where a DataModule that declares its ``sizes`` gives a network others than it was trained on.

    Args:
        datamodule: what the trainer got, or None.
        sizes: (height, width) that networks were trained on, by stream.
    """
    given = getattr(datamodule, "sizes", {})
    for stream, trained in sizes.items():
        came = given.get(stream, trained)
        if tuple(came) != tuple(trained):
            rank_zero_warn(
                f"the network on stream {stream!r} was trained on frames of {trained[0]}x{trained[1]} pixels, the data "
                f"gives {came[0]}x{came[1]} (`data.size`; of two views `data.low_resolution.size`)"
            )


def check_classes(datamodule: Any, num_classes: int, classes: Sequence[str] = ()) -> None:
    """Check that a DataModule that declares ``num_classes`` and ``classes`` has the model's.

    Args:
        datamodule: what the trainer got, or None.
        num_classes: what the model tells apart.
        classes: their names in order, where the model knows them.

    Raises:
        ValueError: it has others.
    """
    came = getattr(datamodule, "num_classes", None)
    if came is not None and came != num_classes:
        raise ValueError(
            f"the data has {came} classes, the network {num_classes}; set the network's `num_classes: {came}` "
            "(`model.init_args.network`), or other annotations in `data`"
        )
    names = getattr(datamodule, "classes", None)
    if names and classes:
        check_same_classes(classes, names, of="the data")


def check_same_classes(expected: Sequence[str], came: Sequence[str], *, of: str) -> None:
    """Check that two lists of class names are the same, in the same order.

    Raises:
        ValueError: they are not.
    """
    if list(expected) != list(came):
        pairs = [*zip_longest(expected, came)]
        index = next(index for index, (first, second) in enumerate(pairs) if first != second)
        first, second = pairs[index]
        raise ValueError(
            f"the classes of {of} are others than the network's: class {index} is {second!r}, not {first!r}"
        )


def stream_of(batch: ClipBatch | LazyClipBatch, stream: str, network: nn.Module) -> Tensor:
    """The clips (B * V, T, C, H, W) of one stream, with as many channels as ``network`` takes.

    Raises:
        ValueError: the batch is lazy, has no such stream, it has other channels, or the network joins other streams.
    """
    if isinstance(batch, LazyClipBatch):
        raise ValueError(
            "expected clips that have been read, came lazy ones, which `WeightedInferenceModule` alone reads; set "
            "`data.init_args.lazy: false`"
        )
    if stream not in batch.streams:
        raise ValueError(f"the model needs stream {stream!r}, the batch has {list(batch.streams)}; see `data.streams`")
    joined = JOINT.join(getattr(network, "heads", ()))
    if joined and joined != stream:
        raise ValueError(
            f"the network is one for stream {joined!r}, came {stream!r}; set `model.init_args.stream: {joined}`, and "
            "`data.streams` alike"
        )
    clips = batch.streams[stream]
    expected = getattr(network, "in_channels", None)
    if expected is not None and clips.shape[2] != expected:
        raise ValueError(
            f"stream {stream!r} has {clips.shape[2]} channels, the network takes {expected}; set the network's "
            f"`in_channels: {clips.shape[2]}` (`model.init_args.network.init_args.in_channels`)"
        )
    return clips


def check_labelled(batch: ClipBatch | LazyClipBatch, *, multi_label: bool = False) -> None:
    """Check that every video of a batch has a label, and of the kind that the model learns.

    Raises:
        ValueError: one has none, or one label where several are expected, or several where one is.
    """
    if (batch.labels < 0).any():
        unlabelled = (batch.labels < 0).view(len(batch), -1).any(dim=1)
        path = batch.paths[int(unlabelled.int().argmax())]
        raise ValueError(
            f"{path}: no label; fit, validate and test need labelled videos (`data.annotations`), predict not"
        )
    if multi_label and batch.labels.ndim == 1:
        raise ValueError(
            "expected videos with several labels each (B, num_classes), came one label each (B,); "
            "set `model.init_args.multi_label: false`, or other `data.annotations`"
        )
    if not multi_label and batch.labels.ndim == 2 and not _are_probabilities(batch.labels):
        raise ValueError(
            f"expected videos with one label each (B,), came several labels each {tuple(batch.labels.shape)}; "
            "set `model.init_args.multi_label: true` (weighted inference has none), or other `data.annotations`"
        )


def _are_probabilities(labels: Tensor) -> bool:
    """Whether rows (B, num_classes) sum to 1: soft labels of one class, not several."""
    return bool(((labels.float().sum(dim=1) - 1).abs() < 1e-3).all())
