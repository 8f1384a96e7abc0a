"""The command `streamkd trade-off`: what `TradeOff` has measured in several runs, side by side."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.whole_file import open_whole
from lightning_modules.analysis.published_trade_off import published_points
from lightning_modules.analysis.trade_off import MeasuredTradeOff
from lightning_modules.analysis.trade_off_plot import draw_trade_offs
from lightning_modules.analysis.trade_off_table import table_of, write_table
from lightning_modules.console_table import print_table
from lightning_modules.named_runs import check_named


def compare_trade_offs(runs: Sequence[Path], output: Path) -> None:
    """Draw tests with early exits on equal axes, e.g. of one ensemble with several numbers of segments.

    Args:
        runs: run directories with a trade_off.json, of one data set.
        output: the PNG to write; the CSV of the same name stands beside it.

    Raises:
        ValueError: no run, two of one name, or different data sets or test videos.
        FileNotFoundError: a run without measurements.
    """
    measured = {run.name: _read(run) for run in check_named(runs)}
    _check(measured)
    (data_set,) = {trade_off.data_set for trade_off in measured.values()}
    figure = draw_trade_offs(_named(measured), published_points(data_set))
    with open_whole(output.with_suffix(".csv")) as file:
        write_table(file, measured)
    with open_whole(output, "wb") as file:
        figure.savefig(file, format="png", dpi=150)
    print_table(table_of(measured))
    print(f"{len(measured)} runs in {output} and {output.with_suffix('.csv')}", flush=True)


def _read(run: Path) -> MeasuredTradeOff:
    path = run / "trade_off.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; test the run with callbacks.trade_off.TradeOff in trainer.callbacks"
        )
    return MeasuredTradeOff.from_record(json.loads(path.read_text()))


def _check(measured: Mapping[str, MeasuredTradeOff]) -> None:
    tests = {name: f"{test.num_videos} videos of {test.data_set}" for name, test in measured.items()}
    if len(set(tests.values())) > 1:
        raise ValueError(f"--runs: expected tests of the same videos, came {tests}")


def _named(measured: Mapping[str, MeasuredTradeOff]) -> dict[str, MeasuredTradeOff]:
    """By segments, by rising number, where that tells the runs apart; else by the runs' names."""
    if len({test.num_segments for test in measured.values()}) < len(measured):
        return dict(measured)
    tests = sorted(measured.values(), key=lambda test: test.num_segments)
    return {f"{test.num_segments} segment{'s' * (test.num_segments > 1)}": test for test in tests}
