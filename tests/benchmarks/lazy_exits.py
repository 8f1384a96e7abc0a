"""Time that lazy exits save on the demo's test videos, decode included: lazy over full inference, interleaved.

For each order of exits, scales are fitted on the validation split, and the threshold is chosen on it as `TradeOff`
does: the cheapest that loses no more than 0.5 points of top-1 there. `full` reads all streams of a video from one
decode and runs all exits, as an evaluation without exits does; `lazy` reads and runs what is due. Both begin with a
file whose index is built anew each time, or kept; one process, no worker. A ratio is that of the seconds for all videos
within a round; printed are the median over rounds and its quartiles. Run by `make bench-lazy`, on the exits of
`configs/demo/pkd.yaml`; `--networks runs/demo` takes the three whole networks, whose only exits are their own.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path

import av
import torch
from demo_split import forgetful, load_split, read
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from datamodules.annotations import ClassFolders
from datamodules.clip_dataset import ClipDataset
from datamodules.compressed_video import CompressedVideoDataModule
from datamodules.lazy_clip_dataset import LazyClipDataset
from lightning_modules.analysis.efficiency import exit_costs
from lightning_modules.analysis.trade_off import ExitCosts, choose_threshold, sweep
from lightning_modules.ensemble import average_views, combine, exit_at, fit_exit_scales, take
from lightning_modules.exit_networks import attach_exits, load_exit_networks
from lightning_modules.freed_memory import keep_freed_memory
from lightning_modules.lazy_inference import lazy_infer
from lightning_modules.networks.early_exit import EarlyExitNetworks

STREAMS = ("mv", "residual", "iframe")
ORDERS = (STREAMS, ("residual", "mv", "iframe"), ("iframe", "mv", "residual"), ("iframe", "residual", "mv"))
# Videos a batch, and whether indices are kept.
SETTINGS = {"1 video": (1, False), "1, index kept": (1, True), "8 videos": (8, False)}
MAX_LOSS = 0.5
GATHER_SIZE = 16
Clock = Callable[[], float]
Job = Callable[[ClipDataset, range], object]


class Exits:
    """Networks whose exits come in one order, with fitted scales and a chosen threshold.

    Args:
        networks: in any order.
        order: of the streams.
        logits: of the validation split, (N, num_classes) by exit.
        labels: (N,) int64.
    """

    def __init__(
        self, networks: EarlyExitNetworks, order: Sequence[str], logits: dict[str, Tensor], labels: Tensor
    ) -> None:
        self.networks = EarlyExitNetworks(dict(networks.networks.items()), order=order).eval()  # type: ignore[arg-type]
        stacked = self.stack(logits)
        self.weights = fit_exit_scales(stacked, labels).float()
        points = sweep(stacked, labels, self.weights, ExitCosts(range(len(stacked))))
        self.threshold = choose_threshold(points, MAX_LOSS)

    def stack(self, logits: dict[str, Tensor]) -> Tensor:
        """(K, N, num_classes) in order."""
        return torch.stack([logits[name] for name in self.networks.exit_names])

    @torch.no_grad()
    def full(self, dataset: ClipDataset, numbers: range) -> Tensor:
        batch = read(dataset, numbers)
        logits = average_views(self.networks(batch.streams), batch.num_views).transpose(0, 1)
        return combine(logits, self.weights[-1])

    def lazy(self, dataset: ClipDataset, numbers: range) -> Tensor:
        lazily = LazyClipDataset(dataset)
        batch = lazily.collate([lazily[number] for number in numbers])
        return lazy_infer(self.networks, self.weights, self.threshold, batch).logits


def top1(outputs: Tensor, labels: Tensor) -> float:
    return float((outputs.argmax(dim=1) == labels).double().mean())


def load_networks(arguments: argparse.Namespace) -> EarlyExitNetworks:
    if arguments.networks is None:
        return load_exit_networks(str(arguments.exits), key="--exits").networks.eval()
    sources = {stream: str(arguments.networks / stream / "checkpoints/best.ckpt") for stream in STREAMS}
    return attach_exits(sources, {}).networks.eval()


def batches(size: int, batch_size: int) -> Iterator[range]:
    return (range(start, min(start + batch_size, size)) for start in range(0, size, batch_size))


@torch.no_grad()
def gather(networks: EarlyExitNetworks, dataset: ClipDataset) -> tuple[dict[str, Tensor], Tensor]:
    """Logits (N, num_classes) of each exit, and labels (N,)."""
    logits, labels = [], []
    for numbers in batches(len(dataset), GATHER_SIZE):
        batch = read(dataset, numbers)
        logits.append(average_views(networks(batch.streams), batch.num_views))
        labels.append(batch.labels)
    return dict(zip(networks.exit_names, torch.cat(logits).unbind(1), strict=True)), torch.cat(labels)


def seconds(job: Job, dataset: ClipDataset, numbers: range, clock: Clock, *, keep: bool) -> float:
    used = dataset if keep else forgetful(dataset)
    start = clock()
    job(used, numbers)
    return clock() - start


def measure(exits: Exits, dataset: ClipDataset, size: int, clock: Clock) -> dict[str, tuple[float, float]]:
    """Seconds a video by setting, (full, lazy), taking turns batch by batch."""
    taken = {}
    for name, (batch_size, keep) in SETTINGS.items():
        totals = {exits.full: 0.0, exits.lazy: 0.0}
        for turn, numbers in enumerate(batches(size, batch_size)):
            for job in [*totals][:: 1 if turn % 2 else -1]:
                totals[job] += seconds(job, dataset, numbers, clock, keep=keep)
        taken[name] = (totals[exits.full] / size, totals[exits.lazy] / size)
    return taken


def ratio_of(rounds: list[tuple[float, float]]) -> str:
    ratios = [lazy / full for full, lazy in rounds]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    full, lazy = (1000 * statistics.median(values) for values in zip(*rounds, strict=True))
    return f"{middle:.2f} ({low:.2f}-{high:.2f}; {lazy:.1f} of {full:.1f} ms)"


def main() -> None:
    keep_freed_memory()  # as the command line does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exits", type=Path, default=Path("runs/demo/pkd/checkpoints/best.ckpt"))
    parser.add_argument("--networks", type=Path, help="folder of the runs mv, residual and iframe, in place of --exits")
    parser.add_argument("--data", type=Path, default=Path("data/demo"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--videos", type=int, default=120, help="spread over the test split")
    parser.add_argument("--cpu-time", action="store_true", help="not wall-clock time: for a machine that is busy")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    console = Console(width=160)
    versions = f"{torch.get_num_threads()} threads; PyTorch {torch.__version__}, PyAV {av.__version__}"
    effort = f"{arguments.videos} videos, {arguments.rounds} rounds, {clock.__name__}"
    console.print(f"{platform.processor() or platform.machine()}, {versions}; {effort}")
    data = CompressedVideoDataModule(ClassFolders(str(arguments.data)), STREAMS, num_segments=3, size=112)
    networks = load_networks(arguments)
    splits = {split: load_split(data, split) for split in ("val", "test")}
    logits = {split: gather(networks, dataset) for split, dataset in splits.items()}
    contest = {order: Exits(networks, order, *logits["val"]) for order in ORDERS}
    console.print(accuracies(contest, logits, splits["test"].reader.shapes))
    console.print(times(contest, thinned(splits["test"], arguments.videos), arguments.rounds, clock, console))


def thinned(dataset: ClipDataset, size: int) -> ClipDataset:
    """So many videos, spread evenly."""
    records = [dataset.records[number * len(dataset) // size] for number in range(size)]
    return ClipDataset(records, dataset.reader)


def accuracies(
    contest: dict[tuple[str, ...], Exits],
    logits: dict[str, tuple[dict[str, Tensor], Tensor]],
    shapes: dict[str, tuple[int, ...]],
) -> Table:
    """What exits cost in accuracy, where videos leave, and the multiply-adds saved."""
    columns = ("order", "threshold", "val top-1", "test top-1", "leaving, by stream (test)", "multiply-adds (test)")
    result = Table(*columns, title="Without exits -> with exits")
    for order, exits in contest.items():
        outputs = {split: combine(exits.stack(found), exits.weights) for split, (found, _) in logits.items()}
        places = {split: exit_at(found, exits.threshold) for split, found in outputs.items()}
        changes = [
            f"{top1(outputs[split][-1], labels):.3f} -> {top1(take(outputs[split], places[split]), labels):.3f}"
            for split, (_, labels) in logits.items()
        ]
        names = [exits.networks.exit_names[place] for place in places["test"].tolist()]
        leaving = [f"{sum(name.startswith(stream) for name in names) / len(names):.2f} {stream}" for stream in order]
        costs = torch.tensor(exit_costs(exits.networks, shapes)).double()
        adds = float(costs[places["test"]].mean() / costs[-1])
        result.add_row(" ".join(order), f"{exits.threshold:.3f}", *changes, ", ".join(leaving), f"{adds:.2f}")
    return result


def times(
    contest: dict[tuple[str, ...], Exits], dataset: ClipDataset, rounds: int, clock: Clock, console: Console
) -> Table:
    """One row an order, one column a setting."""
    taken: dict[tuple[str, ...], list[dict[str, tuple[float, float]]]] = {order: [] for order in contest}
    for exits in contest.values():
        measure(exits, dataset, 8, clock)
    turns = list(product(range(rounds), contest.items()))
    for _, (order, exits) in track(turns, description="rounds", console=console, transient=True):
        taken[order].append(measure(exits, dataset, len(dataset), clock))
    result = Table("order", *SETTINGS, title="Seconds a video, lazy over full: median ratio (quartiles)")
    for order, figures in taken.items():
        result.add_row(" ".join(order), *(ratio_of([figure[name] for figure in figures]) for name in SETTINGS))
    return result


if __name__ == "__main__":
    main()
