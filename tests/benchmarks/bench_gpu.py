"""Training and inference on a GPU: precision, memory layout and compilation, and whether the loader keeps up.

Samples a second of each method's training step at the papers' sizes (ResNet-18/18/50, 224 pixels, 3 segments, batches
of 32), ways to compute taking turns, and the multiply-adds that the device gets done meanwhile; how many cores must
read for the device not to wait, by reading measured in one process here; how much of a loop over a real loader the
device is busy; and ResKD's ResNet-50 on 16 frames of 56 to 224 pixels beside Table 4 of the paper, a few and many
videos at a time, launched kernel by kernel and as one CUDA graph. Run by `make bench-gpu`; `--dry-run` runs everything
at tiny sizes on the CPU.
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import torch
from bare_processes import read_samples
from bench_loader import BATCH_SIZE, compressed, videos_in
from bench_rows import Effort, Row, markdown, row, table, write_csv
from gpu_stages import PAPERS, TINY, WAYS, Sizes, Stage, stages
from interleaved import in_turns, over, seconds
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from datamodules.annotations import ClassFolders
from datamodules.stream_views import normalise_batch
from lightning_modules.analysis.hardware import hardware
from lightning_modules.analysis.published_resolutions import published_resolutions
from lightning_modules.analysis.throughput import measure_throughput
from lightning_modules.freed_memory import keep_freed_memory
from lightning_modules.networks import resnet50
from lightning_modules.networks.channels_last import store_channels_last

PART = "gpu"
# What loaders read for each method; flow comes out of its cache.
READ = {
    "mv": ("mv",),
    "residual": ("residual",),
    "iframe": ("iframe",),
    "PKD": ("iframe", "mv", "residual"),
    "ResKD": ("rgb",),
    "IP TSN's P-stream": ("mv+residual",),
}
NO_GPU = "no GPU here, nothing measured: `make bench-gpu` needs one that PyTorch finds (torch {version})"
SERIES = "ResKD, ResNet-50"
SIDES = (224, 144, 112, 96, 72, 56)


def by_way(sizes: Sizes, device: torch.device, effort: Effort) -> tuple[list[Row], dict[str, float]]:
    """Speed of each method's step over that in float32; and the samples a second of the fastest way."""
    made = {way: stages(sizes, options, device) for way, options in WAYS.items()}
    rows, fastest = [], {}
    for name, plain in made["float32"].items():
        with FlopCounterMode(display=False) as counter:
            plain.step()
        jobs = {way: found[name].step for way, found in made.items()}
        taken = in_turns(jobs, effort.rounds(20), name=name)
        rates = {way: sizes.batch_size / statistics.median(found) for way, found in taken.items()}
        fastest[name] = max(rates.values())
        for way in list(jobs)[1:]:
            speed = counter.get_total_flops() / 2e12 / statistics.median(taken[way])
            figure = f"{rates[way]:.0f} samples/s, {speed:.3g} T multiply-adds/s; in float32 {rates['float32']:.0f}"
            rows.append(row(PART, f"{name}: a training step, {way}", "float32", over(taken, way)["float32"], figure))
    return rows, fastest


def cores_needed(annotations: ClassFolders, rates: Mapping[str, float]) -> Iterator[Row]:
    """Samples a second that the device trains on, over what all cores could read of the streams that it takes."""
    torch.set_num_threads(1)
    cores = os.cpu_count() or 1
    for name, rate in rates.items():
        loader = compressed(annotations, READ[name]).train_dataloader()
        keys = list(islice(loader.sampler, 2 * BATCH_SIZE))
        read = partial(read_samples, loader.dataset, keys)  # type: ignore[arg-type]
        read()  # makes indices
        core = len(keys) / seconds(read)
        figure = f"one core reads {core:.0f} samples/s of {', '.join(READ[name])}; {math.ceil(rate / core)} would do"
        yield row(PART, f"{name}: samples/s trained on", f"what {cores} cores read", [rate / (core * cores)], figure)


def busy(annotations: ClassFolders, stage: Stage, num_batches: int) -> Row:
    """The share of a loop over a real loader in which a PKD step computes."""
    cores = os.cpu_count() or 1
    data = compressed(annotations, num_workers=max(cores - 1, 1), pin_memory=stage.device.type == "cuda")
    batches = cycle(data.train_dataloader())
    for batch in islice(batches, 4):
        stage.step(normalise_batch(data.reader.views, batch.to(stage.device)))
    alone, began = 0.0, time.perf_counter()
    for batch in islice(batches, num_batches):
        moved = normalise_batch(data.reader.views, batch.to(stage.device))
        alone += seconds(partial(stage.step, moved))
    share = alone / (time.perf_counter() - began)
    return row(PART, "PKD: the device computes", f"a loop over a loader of {cores - 1} workers", [share])


def by_side(
    sides: Sequence[int], batch_size: int, frames: int, *, graphed: bool, device: torch.device
) -> Iterator[Row]:
    """Videos a second of ResNet-50 in bfloat16 by the side of frames, over those of the largest; beside the paper's."""
    network = resnet50(200).to(device, torch.bfloat16).eval()
    store_channels_last(network)
    paper = {p.size: p.videos_per_second for p in published_resolutions("ActivityNet", "mAP") if p.series == SERIES}
    found = {}
    for side in sides:
        clips = torch.randn(batch_size, frames, 3, side, side, device=device, dtype=torch.bfloat16)
        found[side] = measure_throughput(Graphed(network, clips) if graphed else network, clips).videos_per_second
    largest, how = max(sides), "one CUDA graph" if graphed else "kernel by kernel"
    for side in sides[1:]:
        gain = (paper.get(side) or math.nan) / (paper.get(largest) or math.nan)
        figure = (
            f"{found[side]:.1f} videos/s, {found[largest]:.1f} of {largest}; the paper, on a V100: {gain:.1f} times"
        )
        job = f"ResNet-50, {batch_size} x {frames} frames of {side}, {how}: videos/s"
        yield row(PART, job, f"of {largest}", [found[side] / found[largest]], figure)


class Graphed(nn.Module):
    """A network's kernels on clips like these, launched all at once.

    Args:
        network: in eval mode, on a GPU.
        clips: that it always computes on, whatever it is called with.
    """

    def __init__(self, network: nn.Module, clips: torch.Tensor) -> None:
        super().__init__()
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(side_stream):  # chooses kernels, before they are recorded
            network(clips)
        torch.cuda.current_stream().wait_stream(side_stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self.graph):
            self.logits = network(clips)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        self.graph.replay()
        return self.logits


def measure(sizes: Sizes, device: torch.device, effort: Effort) -> Iterator[Row]:
    """All rows."""
    rows, fastest = by_way(sizes, device, effort)
    yield from rows
    is_dry = device.type == "cpu"
    best = WAYS["bf16, channels last"]
    for batch_size, graphed in ((2, False),) if is_dry else ((8, False), (8, True), (64, False), (64, True)):
        sides, frames = ((64, 32), 2) if is_dry else (SIDES, 16)
        yield from by_side(sides, batch_size, frames, graphed=graphed, device=device)
    with tempfile.TemporaryDirectory() as folder:
        annotations = videos_in(Path(folder), number=64 if is_dry else 256)
        yield busy(annotations, stages(sizes, best, device)["PKD"], num_batches=2 if is_dry else 40)
        yield from cores_needed(annotations, fastest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, at tiny sizes; keeps nothing")
    parser.add_argument("--effort", type=float, default=1.0, help="what numbers of rounds are multiplied by")
    given = parser.parse_args()
    if not (given.dry_run or torch.cuda.is_available()):
        print(NO_GPU.format(version=torch.__version__))
        return
    keep_freed_memory()
    device = torch.device("cpu" if given.dry_run else "cuda")
    found, console, rows = hardware(device), Console(width=160), []
    for each in measure(TINY if given.dry_run else PAPERS, device, Effort(given.effort)):
        console.print(" | ".join(each.cells), highlight=False)
        rows.append(each)
    note = f"{found['devices']}; {found['versions']}"
    console.print(table(PART, rows), note)
    if not given.dry_run:
        folder = Path(__file__).parent / "results"
        write_csv(rows, folder / "bench_gpu.csv")
        (folder / "bench_gpu.md").write_text(markdown(rows, note), encoding="utf-8")


if __name__ == "__main__":
    main()
