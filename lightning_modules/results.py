"""The command `streamkd results`: what finished runs came to, beside what papers report, as a table in Markdown."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from datamodules.whole_file import open_whole
from lightning_modules.chain import CONFIGS, Experiment, read_chain
from lightning_modules.configured_network import lookup
from lightning_modules.cost_command import video_cost
from lightning_modules.report import load_run

BEGIN, END = "<!-- results: written by `streamkd results` -->", "<!-- end of results -->"
_HEADER = ("experiment", "runs", "test, %", "paper, %", "difference", "source", "G a video", "fit", "hardware")


def write_results(runs: str = "runs", output: str | None = None) -> None:
    """Print a table of the runs of all experiments that a `configs/<data set>/chain.yaml` names.

    Mean and standard deviation are over the runs of an experiment: splits and seeds. Cost is in 1e9 multiply-adds of a
    test video, all its views through all networks and exits; time that of one fit, mean over the runs.

    Args:
        runs: folder that holds `<data set>/<experiment>`, or `<data set>/<split or seed>/<experiment>`.
        output: a Markdown file to write the table into, between its lines that begin and end the results.

    Raises:
        FileNotFoundError: no such run.
        ValueError: `output` lacks one of these lines.
    """
    data_sets = sorted(path.parent.name for path in CONFIGS.glob("*/chain.yaml"))
    chains = {name: read_chain(name) for name in data_sets}
    table = results_table(chains, {name: _roots(Path(runs, name)) for name in data_sets})
    print(table, flush=True)
    if output is not None:
        _insert(Path(output), table)


def results_table(chains: Mapping[str, Sequence[Experiment]], roots: Mapping[str, Sequence[Path]]) -> str:
    """Results in Markdown, a row for each experiment that was tested.

    Args:
        chains: experiments by data set.
        roots: by data set, the folders that may have run directories of these names.

    Raises:
        FileNotFoundError: none was tested.
    """
    tested = {
        f"{data_set}/{experiment.name}": (experiment, _tested(root / experiment.name for root in roots[data_set]))
        for data_set, experiments in chains.items()
        for experiment in experiments
    }
    rows = [_row(name, experiment, runs) for name, (experiment, runs) in tested.items() if runs]
    if not rows:
        raise FileNotFoundError(
            "expected run directories `<data set>/<experiment>` or `<data set>/<split or seed>/<experiment>` with a "
            f"test.json, of data sets {', '.join(chains)}, found none; `streamkd reproduce` makes them (--runs)"
        )
    versions = {run.fit["hardware"]["versions"] for _, runs in tested.values() for run in runs if "hardware" in run.fit}
    return "\n".join([*_aligned([_HEADER, *rows]), "", *sorted(versions)]).strip()


def _roots(folder: Path) -> list[Path]:
    """The folder of a data set's runs, and those of its splits and seeds."""
    return [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]


@dataclass(frozen=True)
class _TestedRun:
    """What a run left.

    Args:
        score: on the test split, in percent.
        fit: contents of `fit.json`.
        config: contents of `config.yaml`.
        path: of that.
    """

    score: float
    fit: dict[str, Any]
    config: dict[str, Any]
    path: Path


def _tested(folders: Iterable[Path]) -> list[_TestedRun]:
    """Those of some run directories that were tested."""
    found = [folder for folder in folders if all((folder / name).is_file() for name in ("config.yaml", "test.json"))]
    runs = [(load_run(folder), folder / "config.yaml") for folder in found]
    return [
        _TestedRun(100 * run.score, run.fit, yaml.safe_load(config.read_text(encoding="utf-8")), config)
        for run, config in runs
    ]


def _row(name: str, experiment: Experiment, runs: Sequence[_TestedRun]) -> tuple[str, ...]:
    scores = [run.score for run in runs]
    seconds = [run.fit["seconds"] for run in runs if "seconds" in run.fit]
    return (
        f"`{name}`",
        _which([run.config for run in runs]),
        f"{mean(scores):.1f}" + (f" ± {stdev(scores):.1f}" if len(scores) > 1 else ""),
        "" if experiment.paper is None else f"{experiment.paper:g}",
        "" if experiment.paper is None else f"{mean(scores) - experiment.paper:+.1f}",
        experiment.source,
        _giga(runs[0].path),
        _duration(mean(seconds)) if seconds else "",
        "; ".join(sorted({run.fit["hardware"]["devices"] for run in runs if "hardware" in run.fit})),
    )


def _which(configs: Sequence[Mapping[str, Any]]) -> str:
    """E.g. `split 1, 2, 3; seed 0`."""
    splits = {lookup(config, "data", "init_args", "annotations", "init_args", "split") for config in configs} - {None}
    seeds = {config["seed_everything"] for config in configs}
    named = {"split": splits, "seed": seeds}
    return "; ".join(f"{name} {', '.join(map(str, sorted(values)))}" for name, values in named.items() if values)


def _giga(config: Path) -> str:
    """Nothing where networks that a run was made of are gone."""
    try:
        return f"{video_cost(str(config)) / 1e9:.4g}"
    except FileNotFoundError:
        return ""


def _duration(seconds: float) -> str:
    units = {"h": 3600, "min": 60, "s": 1}
    unit = next((unit for unit, length in units.items() if seconds >= length), "s")
    return f"{seconds / units[unit]:.1f} {unit}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines.insert(1, ["-" * width for width in widths])
    return [f"| {' | '.join(line)} |" for line in lines]


def _insert(path: Path, table: str) -> None:
    text = path.read_text(encoding="utf-8")
    changed, times = re.subn(
        f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: f"{BEGIN}\n\n{table}\n\n{END}", text, flags=re.S
    )
    if times != 1:
        raise ValueError(f"{path}: expected a line `{BEGIN}` and one `{END}` behind it, found none (--output)")
    with open_whole(path) as file:
        file.write(changed)
