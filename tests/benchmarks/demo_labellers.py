"""What leads from a demo video's file to its label: by streams, by early exits, and as one would do without.

Every labeller takes the number of a video in a split and begins with the file: no index is kept from one to the next.
They run in `torch.inference_mode`, as `predict` does.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from demo_split import forgetful, load_split, read
from torch import Tensor

from datamodules.annotations import ClassFolders, VideoRecord
from datamodules.clip_dataset import ClipDataset
from datamodules.compressed_video import CompressedVideoDataModule
from datamodules.lazy_clip_dataset import LazyClipDataset
from datamodules.sampling import centre_segments
from datamodules.transforms import normalise
from lightning_modules.lazy_inference import lazy_infer
from lightning_modules.networks.channels_last import store_channels_last
from lightning_modules.recognition import RecognitionModule
from lightning_modules.weighted_inference import WeightedInferenceModule

ROOT, RUNS = Path("data/demo"), Path("runs/demo")
STREAMS = ("mv", "residual", "iframe")
SEGMENTS, SIZE = 3, 112
Labeller = Callable[[int], int]


def best(run: str) -> str:
    return str(RUNS / run / "checkpoints" / "best.ckpt")


@cache
def dataset_of(split: str, *streams: str) -> ClipDataset:
    """As `configs/demo` reads it."""
    data = CompressedVideoDataModule(ClassFolders(str(ROOT)), streams, SEGMENTS, SIZE)
    return load_split(data, split)


@cache
def recogniser(stream: str) -> RecognitionModule:
    module = RecognitionModule.load_from_checkpoint(best(stream), weights_only=True).eval()
    store_channels_last(module)  # as its config
    return module


@cache
def combined(run: str) -> WeightedInferenceModule:
    """The runs `fusion` and `wise`."""
    module = WeightedInferenceModule.load_from_checkpoint(best(run), weights_only=True).eval()
    store_channels_last(module)
    return module


def by_stream(split: str, stream: str) -> Labeller:
    """One network on one stream."""
    dataset, module = forgetful(dataset_of(split, stream)), recogniser(stream)
    return lambda number: class_of(module(read(dataset, range(number, number + 1))))


def by_all_streams(split: str) -> Labeller:
    """Score fusion of three networks."""
    dataset, module = forgetful(dataset_of(split, *STREAMS)), combined("fusion")
    return lambda number: class_of(module(read(dataset, range(number, number + 1))))


def by_exits(split: str, threshold: float) -> Labeller:
    """Early exits, lazily."""
    lazily, module = LazyClipDataset(forgetful(dataset_of(split, *STREAMS))), combined("wise")

    def label(number: int) -> int:
        batch = lazily.collate([lazily[number]])
        return class_of(lazy_infer(module.networks, module.weights, threshold, batch).logits)

    return label


def without_streams(records: Sequence[VideoRecord], frames_of: Callable[[str], list[np.ndarray]]) -> Labeller:
    """The network on I-frames, on RGB frames that something else gives."""
    network = recogniser("iframe").network
    return lambda number: class_of(network(normalise("rgb", middles(frames_of(records[number].path))[None])))


def middles(frames: Sequence[np.ndarray]) -> Tensor:
    """(T, 3, S, S) uint8, contiguous: middles of all frames of so many, or of those in the middle of equal parts."""
    places = range(SEGMENTS) if len(frames) == SEGMENTS else centre_segments(len(frames), SEGMENTS)[0]
    height, width, _ = frames[0].shape
    top, left = (height - SIZE) // 2, (width - SIZE) // 2
    chosen = np.stack([frames[place][top : top + SIZE, left : left + SIZE] for place in places])
    return torch.from_numpy(chosen).permute(0, 3, 1, 2).contiguous()


def class_of(logits: Tensor) -> int:
    return int(logits.argmax())
