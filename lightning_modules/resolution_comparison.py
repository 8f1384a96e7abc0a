"""The command `streamkd resolutions`: runs trained at several resolutions or strides, side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from datamodules.whole_file import open_whole
from lightning_modules.analysis.cost import Convention
from lightning_modules.analysis.published_resolutions import published_resolutions
from lightning_modules.analysis.resolution_plot import draw_resolutions
from lightning_modules.analysis.resolution_sweep import MeasuredResolutions, ResolutionPoint, costs_of
from lightning_modules.analysis.resolution_table import COLUMNS, conditions_of, table_of, write_table
from lightning_modules.analysis.throughput import Throughput, measure_throughput
from lightning_modules.checkpoints import build_network
from lightning_modules.configured_network import lookup, network_section
from lightning_modules.console_table import print_table
from lightning_modules.named_runs import check_named
from lightning_modules.networks.degraded_input import DegradedInput
from lightning_modules.report import Run, load_run

# Of a network's arguments, those that make no other line of a picture.
IGNORED = ("weights", "sha256", "num_classes", "in_channels")
# Traits of a run beside its network's; named last.
COMMON = ("input", "model", "frames", "views", "epochs")


def compare_resolutions(
    runs: Sequence[Path],
    output: Path,
    *,
    timed_batch: int = 0,
    convention: Convention = "paper",
    columns: Sequence[str] = COLUMNS,
) -> None:
    """Draw finished runs of one data set over resolution and over cost, and print a table.

    Runs of equal networks, frames, views and epochs make one line; where several have one resolution, as with several
    seeds, the line goes through their mean. Costs and throughput are of the configured networks, on clips as large as
    those of the tests; no checkpoint is read.

    Args:
        runs: run directories with config.yaml, fit.json and test.json.
        output: the PNG to write; the CSV of the same name stands beside it.
        timed_batch: videos at a time in a measurement of throughput, on a GPU if there is one; 0: none.
        convention: what the picture counts as cost, multiply_adds or paper (ResKD's tables).
        columns: of the CSV, in order.

    Raises:
        ValueError: no run, two of one name, no network in a configuration, or different data, metrics or test videos.
        FileNotFoundError: a run that is not finished or not tested.
    """
    found = [_read(run) for run in check_named(runs)]
    _check_same_test(found)
    names, timer = _series(found), _Timer(timed_batch)
    measured = MeasuredResolutions(
        metric=found[0].metric,  # type: ignore[arg-type]
        data_set=found[0].data_set,
        num_videos=found[0].num_videos,
        points=[_point(run, name, timer) for run, name in zip(found, names, strict=True)],
    )
    figure = draw_resolutions(
        measured, published_resolutions(measured.data_set, measured.metric), convention=convention
    )
    with open_whole(output.with_suffix(".csv")) as file:
        write_table(file, measured, columns)
    with open_whole(output, "wb") as file:
        figure.savefig(file, format="png", dpi=150)
    print_table(table_of(measured))
    if conditions := conditions_of(measured):
        print(f"throughput: {conditions}")
    print(f"{len(found)} runs in {output} and {output.with_suffix('.csv')}", flush=True)


@dataclass(frozen=True)
class _TestedRun:
    """A run that is finished and tested.

    Args:
        name: of its directory.
        metric: top1 or mAP.
        score: 0 to 1.
        num_videos: tested.
        data_set: name of the annotations' class.
        network: ``class_path`` and ``init_args``, as it computes.
        clip: (T, C, H, W) of a view.
        num_views: of a video.
        traits: what tells lines apart, by what it is.
    """

    name: str
    metric: str
    score: float
    num_videos: int
    data_set: str
    network: dict[str, Any]
    clip: tuple[int, ...]
    num_views: int
    traits: dict[str, Any]

    @property
    def size(self) -> int:
        """Short side of the frames, before they are up-sampled."""
        full = min(self.clip[-2:])
        return min(full, self.network["init_args"]["size"]) if _is_degraded(self.network) else full


class _Timer:
    """Measures networks as they are configured, each shape of clips once.

    Args:
        batch_size: videos; 0: nothing is measured.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._known: dict[str, Throughput] = {}

    def __call__(self, run: _TestedRun) -> Throughput | None:
        if not self.batch_size:
            return None
        key = repr((run.network, run.clip, run.num_views))
        if key not in self._known:
            clips = torch.zeros(self.batch_size * run.num_views, *run.clip, device=self.device)
            network = build_network(run.network).to(self.device)
            self._known[key] = measure_throughput(network, clips, num_views=run.num_views)
        return self._known[key]


def _read(folder: Path) -> _TestedRun:
    for name, verb in {"config.yaml": "fit", "fit.json": "fit", "test.json": "test"}.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; run `lightning {verb}` with --run_dir {folder} first")
    run, config = load_run(folder), yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    network, stream = network_section(config, of=folder / "config.yaml"), lookup(config, "model", "init_args", "stream")
    clip = run.test.get("clips", {}).get(stream)
    if clip is None:
        raise ValueError(
            f"{folder / 'test.json'}: expected the shape of the clips of stream {stream!r} in `clips`, came "
            f"{run.test.get('clips')}; run `lightning test` again"
        )
    data_set = str(lookup(config, "data", "init_args", "annotations", "class_path")).rpartition(".")[2]
    return _TestedRun(
        name=folder.name,
        metric=run.metric,
        score=run.score,
        num_videos=run.test["num_videos"],
        data_set=data_set,
        network=network,
        clip=tuple(clip),
        num_views=run.test["num_views"],
        traits=_traits(run, config, network, clip),
    )


def _traits(run: Run, config: Mapping[str, Any], network: Mapping[str, Any], clip: Sequence[int]) -> dict[str, Any]:
    """By what the lines of a picture differ; resolution is no part of it."""
    degraded = _is_degraded(network)
    inner = network["init_args"]["network"] if degraded else network
    options = {name: value for name, value in inner["init_args"].items() if name not in IGNORED}
    return {
        "network": inner["class_path"].rpartition(".")[2],
        **options,
        "input": "upsampled" if degraded else "native",
        "model": str(lookup(config, "model", "class_path")).rpartition(".")[2],
        "frames": clip[0],
        "views": run.test["num_views"],
        "epochs": run.fit["epochs"],
    }


def _series(runs: Sequence[_TestedRun]) -> list[str]:
    """A name for each run's line: its network, and of the other traits those in which runs differ."""
    options = dict.fromkeys(key for run in runs for key in run.traits if key not in ("network", *COMMON))
    differing = [key for key in (*options, *COMMON) if len({str(run.traits.get(key)) for run in runs}) > 1]
    return [" ".join([run.traits["network"], *_described(run.traits, differing)]) for run in runs]


def _described(traits: Mapping[str, Any], keys: Sequence[str]) -> Iterator[str]:
    """("strides", [1, 1, 2, 2]) -> "strides 1,1,2,2"; nothing of what a network leaves to its default."""
    for key in keys:
        value = traits.get(key)
        if value is not None:
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield text if key in ("input", "model") else f"{key} {text}"


def _is_degraded(network: Mapping[str, Any]) -> bool:
    return network["class_path"].rpartition(".")[2] == DegradedInput.__name__


def _check_same_test(runs: Sequence[_TestedRun]) -> None:
    tests = {run.name: f"{run.metric} on {run.num_videos} videos of {run.data_set}" for run in runs}
    if len(set(tests.values())) > 1:
        raise ValueError(f"--runs: expected tests of the same videos and metric, came {tests}")


def _point(run: _TestedRun, series: str, timer: _Timer) -> ResolutionPoint:
    with torch.device("meta"):
        costs = costs_of(build_network(run.network), run.clip, num_views=run.num_views)
    return ResolutionPoint(
        series=series,
        size=run.size,
        input_size=min(run.clip[-2:]),
        score=run.score,
        multiply_adds=costs["multiply_adds"],
        paper=costs["paper"],
        throughput=timer(run),
        run=run.name,
    )
