"""Which configurations may continue a run, and which checkpoint a verb takes."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_modules.run_directory import RunDirectory, RunError, differences

CONFIG: dict[str, Any] = {
    "run_dir": "runs/a",
    "seed_everything": 0,
    "model": {"class_path": "M", "init_args": {"lr": 0.1, "layers": [1, 2]}},
    "data": {"init_args": {"num_workers": 0, "batch_size": 4}},
    "trainer": {"max_epochs": 2, "devices": 1, "callbacks": None, "logger": None},
}


def changed(**values: Any) -> dict[str, Any]:
    """CONFIG with `a__b=value` set at a.b."""
    config: dict[str, Any] = yaml.safe_load(yaml.safe_dump(CONFIG))
    for key, value in values.items():
        *parents, leaf = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return config


@pytest.mark.parametrize(
    "free",
    [
        {"run_dir": "runs/b"},
        {"trainer__max_epochs": 9},
        {"trainer__devices": 2},
        {"trainer__logger": {"class_path": "L"}},
        {"data__init_args__num_workers": 4},
    ],
    ids=str,
)
def test_keys_that_do_not_change_a_step_may_differ(free: dict[str, Any]) -> None:
    assert differences(CONFIG, changed(**free)) == []


@pytest.mark.parametrize(
    ("bound", "line"),
    [
        ({"model__init_args__lr": 0.2}, "model.init_args.lr: 0.1 -> 0.2"),
        ({"model__init_args__layers": [1, 3]}, "model.init_args.layers.1: 2 -> 3"),
        ({"model__init_args__layers": [1]}, "model.init_args.layers.1: 2 -> (none)"),
        ({"seed_everything": 1}, "seed_everything: 0 -> 1"),
        ({"data__init_args__batch_size": 8}, "data.init_args.batch_size: 4 -> 8"),
        ({"trainer__callbacks": ["C"]}, "trainer.callbacks.0: (none) -> C"),
        ({"model__new": 5}, "model.new: (none) -> 5"),
    ],
    ids=str,
)
def test_keys_that_change_the_result_are_listed(bound: dict[str, Any], line: str) -> None:
    assert line in differences(CONFIG, changed(**bound))


def test_another_experiment_is_refused_with_keys_and_remedy(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.check_same(CONFIG)  # nothing there yet
    run.config.write_text(yaml.safe_dump(CONFIG))
    run.check_same(CONFIG)
    with pytest.raises(RunError, match=r"model.init_args.lr: 0.1 -> 0.2.*--run_dir.*--overwrite true"):
        run.check_same(changed(model__init_args__lr=0.2))


def test_checkpoint_is_the_best_then_the_last_then_an_error(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(RunError, match=r"best.ckpt or .*last.ckpt; run fit"):
        run.checkpoint(None)
    run.checkpoints.mkdir()
    run.last.touch()
    assert run.checkpoint(None) == run.last
    with pytest.raises(RunError, match=r"no checkpoint .*best.ckpt;"):
        run.checkpoint("best")
    run.best.touch()
    assert run.checkpoint(None) == run.checkpoint("best") == run.best
    assert run.checkpoint("last") == run.checkpoint(str(run.last)) == run.last


@pytest.mark.parametrize(("max_epochs", "finished"), [(12, True), (5, True), (7, True), (None, True), (13, False)])
def test_more_epochs_reopen_a_finished_run(tmp_path: Path, max_epochs: int | None, finished: bool) -> None:
    run = RunDirectory(tmp_path)
    assert not run.is_finished(max_epochs)
    run.checkpoints.mkdir()
    run.last.touch()
    assert not run.is_finished(max_epochs)
    run.fit_report.write_text(json.dumps({"max_epochs": 12, "epochs": 7}))  # stopped early
    assert run.is_finished(max_epochs) is (finished and max_epochs in (12, 5, 7, None))


def test_clear_leaves_what_runs_did_not_write(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.checkpoints.mkdir()
    mine = [run.config, run.last, run.best, run.fit_report, tmp_path / "metrics.csv", run.report("test")]
    mine += [tmp_path / "resolution_sweep.csv", tmp_path / "attention.npz", tmp_path / "receptive_field.png"]
    mine += [tmp_path / "annotated/a/b.mp4"]
    mine[-1].parent.mkdir(parents=True)
    for path in [*mine, tmp_path / "notes.txt"]:
        path.touch()
    run.clear()
    assert [path for path in mine if path.exists()] == []
    assert (tmp_path / "notes.txt").exists()
