"""Early-exit inference that stops computing, and decoding, at the exit that is confident enough.

Soufleri et al. (arXiv 2407.02713), section 3: a video leaves at the first exit whose combined logits have a softmax
probability above a threshold. Where we differ from the public code, which runs all networks on all videos and looks
afterwards: whoever has left is neither decoded nor computed any further.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.clip import LazyClipBatch
from lightning_modules.ensemble import average_views, combine, is_confident
from lightning_modules.networks.early_exit import EarlyExitNetworks
from lightning_modules.predictions import Predictions


@dataclass(kw_only=True)
class LazyPredictions(Predictions):
    """Predictions, and what each of the B videos took until it left.

    Args:
        places: (B,) int64, where it left, 0 to K - 1 in the order of exits.
        decode_seconds: (B,) float64, for index, file, packets and pixels; with the next it makes ``seconds``.
        cut_seconds: (B,) float64, for making views of them.
        compute_seconds: (B,) float64, for all else, shared evenly between the videos that were still there.
    """

    places: Tensor
    decode_seconds: Tensor
    cut_seconds: Tensor
    compute_seconds: Tensor


@torch.no_grad()
def lazy_infer(networks: EarlyExitNetworks, weights: Tensor, threshold: float, batch: LazyClipBatch) -> LazyPredictions:
    """Runs exits one by one over the videos that no earlier exit was sure of.

    A stream is read when its first exit is due, of those videos alone. One that turns out unreadable then is moved to
    the batch's failures; one that leaves before is none. The batch is finished.

    Args:
        networks: in eval mode, on the batch's device.
        weights: (K, K) float, by which exits are combined (see ``connect``); row k makes the output of exit k.
        threshold: softmax probability above which a video leaves, 0 to 1.
        batch: B videos with V views each, whose logits are averaged.

    Raises:
        ValueError: weights of other exits, or a threshold outside [0, 1].
    """
    names = networks.exit_names
    if weights.shape != (len(names), len(names)):
        raise ValueError(f"expected weights of {(len(names), len(names))} for {len(names)} exits, came {weights.shape}")
    run = _LazyRun(networks, batch)
    while run.present:
        with run.timed():
            logits = run.next_exit()
            outputs = combine(logits, weights[len(logits) - 1, : len(logits)])
            run.leave(outputs, is_confident(outputs, threshold))
    batch.finish()
    return run.predictions()


class _LazyRun:
    """The videos of a batch on their way from exit to exit.

    Attributes: ``present``, the numbers of those that are still there.

    Args:
        networks: the networks they pass.
        batch: the batch.
    """

    def __init__(self, networks: EarlyExitNetworks, batch: LazyClipBatch) -> None:
        self.networks, self.batch = networks, batch
        self.present = list(range(len(batch)))
        self._loaded: dict[str, Tensor] = {}
        self._exits = networks.exits(self._loaded.pop)
        self._logits = torch.empty(0, len(batch), networks.num_classes, device=batch.device)
        self._left: dict[int, tuple[int, Tensor]] = {}
        self._compute_seconds = [0.0] * len(batch)

    def next_exit(self) -> Tensor:
        """Logits of all exits up to the next one, (k, b, num_classes) float32, of those who are present then."""
        stream, _ = self.networks.exit_names[len(self._logits)].split("/")
        if stream not in self._exits.runs:
            self._load(stream)
        logits = self._logits.new_empty(0, self.networks.num_classes)
        if self.present:
            logits = average_views(next(self._exits)[1].float(), self.batch.num_views)
        self._logits = torch.cat([self._logits, logits[None]])
        return self._logits

    def leave(self, outputs: Tensor, leaving: Tensor) -> None:
        """Lets videos go: outputs (b, num_classes) and leaving (b,) bool; from the last exit all."""
        place = len(self._logits) - 1
        goes = leaving.tolist() if place < len(self.networks.exit_names) - 1 else [True] * len(outputs)
        for number, output, went in zip(self.present, outputs, goes, strict=True):
            if went:
                self._left[number] = (place, output)
                self.batch.clips[number].source.close()
        if all(goes):
            self.present = []
        else:
            self._keep([not went for went in goes])

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Shares the time of a block, but for what was spent on reading, between those who are present before."""
        present, began, read_before = self.present, time.perf_counter(), self._read_seconds()
        yield
        seconds = time.perf_counter() - began - (self._read_seconds() - read_before)
        for number in present:
            self._compute_seconds[number] += seconds / len(present)

    def predictions(self) -> LazyPredictions:
        """Those of the videos that could be read, once the batch is finished."""
        numbers, batch = sorted(self._left), self.batch
        places = [self._left[number][0] for number in numbers]
        cut_seconds = _seconds([clip.source.cut_seconds for clip in batch.clips])
        return LazyPredictions(
            paths=batch.paths,
            logits=self._outputs(numbers),
            seconds=batch.seconds,
            failures=batch.failures,
            exits=[self.networks.exit_names[place] for place in places],
            places=torch.tensor(places, dtype=torch.int64),
            decode_seconds=batch.seconds - cut_seconds,
            cut_seconds=cut_seconds,
            compute_seconds=_seconds([self._compute_seconds[number] for number in numbers]),
        )

    def _outputs(self, numbers: list[int]) -> Tensor:
        outputs = [self._left[number][1] for number in numbers]
        return torch.stack(outputs) if outputs else self._logits.new_empty(0, self.networks.num_classes)

    def _load(self, stream: str) -> None:
        """Reads a stream of those who are present; who cannot be read is no longer."""
        self._loaded[stream], read = self.batch.load(stream, self.present)
        self._keep([number in read for number in self.present])

    def _keep(self, stays: list[bool]) -> None:
        if all(stays):
            return
        self.present = [number for number, stay in zip(self.present, stays, strict=True) if stay]
        chosen = torch.tensor(stays, device=self.batch.device)
        self._logits = self._logits[:, chosen]
        self._exits.keep(chosen.repeat_interleave(self.batch.num_views))

    def _read_seconds(self) -> float:
        return sum(clip.read_seconds for clip in self.batch.clips)


def _seconds(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
