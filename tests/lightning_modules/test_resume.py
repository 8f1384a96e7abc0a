"""A run killed anywhere and resumed by the same command equals an undisturbed one, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils._pytree import tree_map

KILLER = '''
import os, signal
from pathlib import Path
from lightning.pytorch import Callback

class Kill(Callback):
    """Lists the events of a fit; kills the process, once in a run's life, at event `at`."""

    def __init__(self, marker: str, at: int = -1):
        self.marker, self.at, self.events = Path(marker), at, []

    def event(self, name):
        if len(self.events) == self.at and not self.marker.exists():
            self.marker.write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)
        self.events.append(name)
        with open(f"{self.marker}.events", "a") as file:
            print(name, file=file)

    def setup(self, trainer, pl_module, stage):
        Path(f"{self.marker}.events").write_text("")
        save = trainer.save_checkpoint

        def save_checkpoint(path, *args):
            self.event(f"before {Path(path).name}")
            save(path, *args)
            self.event(f"after {Path(path).name}")

        trainer.save_checkpoint = save_checkpoint

    def on_train_start(self, trainer, pl_module):
        self.event(f"from step {trainer.global_step}")

    def on_train_batch_start(self, *args):
        self.event("batch start")

    def on_before_optimizer_step(self, *args):
        self.event("before step")

    def on_train_batch_end(self, *args):
        self.event("batch end")

    def on_validation_batch_end(self, *args):
        self.event("validation")

    def on_train_epoch_end(self, *args):
        self.event("epoch end")
'''


@pytest.fixture
def fit_command(tmp_path: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, ...]]:
    """Write the configuration of a fit in `name` with `Kill`, see `run_with_kill`; returns the command."""
    (tmp_path / "killer.py").write_text(KILLER)
    (tmp_path / "kills").mkdir()
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, at: int = -1, changes: dict[str, Any] | None = None) -> tuple[Any, ...]:
        config = yaml.safe_load(tiny_config.read_text())
        for section, values in (changes or {}).items():
            config[section] |= values
        config["run_dir"] = str(tmp_path / name)
        kill = {"marker": str(tmp_path / "kills" / name), "at": at}
        config["trainer"]["callbacks"] = [{"class_path": "killer.Kill", "init_args": kill}]
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        return "fit", "--config", path

    return write


@pytest.fixture
def run_with_kill(
    tmp_path: Path, fit_command: Callable[..., tuple[Any, ...]], streamkd: Callable[..., int | None]
) -> Callable[..., dict[str, Any]]:
    """Fit in `name`, killed at event `at` (-1: never) and started again.

    `changes` are laid over sections of the tiny configuration. Returns what it left, and the events of its last
    process.
    """

    def run(name: str, at: int = -1, *options: object, changes: dict[str, Any] | None = None) -> dict[str, Any]:
        marker = tmp_path / "kills" / name
        command = (*fit_command(name, at, changes), *options)
        assert streamkd(*command) == (0 if at < 0 else -9)
        assert at < 0 or streamkd(*command) == 0, f"resuming failed after: {marker.read_text()}"
        return {"events": Path(f"{marker}.events").read_text().splitlines(), **_left_by(tmp_path / name)}

    return run


def _left_by(run_dir: Path) -> dict[str, Any]:
    last, best = (torch.load(run_dir / "checkpoints" / f"{name}.ckpt") for name in ("last", "best"))
    return {
        "weights": last["state_dict"],
        "optimizer": last["optimizer_states"],
        "scheduler": last["lr_schedulers"],
        "best weights": best["state_dict"],
        "best score": last["callbacks"]["RunCheckpoints"]["best_score"],
        "metrics": (run_dir / "metrics.csv").read_text(),
    }


def assert_same(resumed: dict[str, Any], undisturbed: dict[str, Any]) -> None:
    """Bit for bit, all but the events."""
    for key in ("metrics", "best score", "scheduler"):
        assert resumed[key] == undisturbed[key], key
    for key in ("weights", "optimizer", "best weights"):
        torch.testing.assert_close(resumed[key], undisturbed[key], rtol=0, atol=0, equal_nan=True)


def test_fit_killed_at_the_first_a_middle_and_a_boundary_step_equals_an_undisturbed_one(
    run_with_kill: Callable[..., dict[str, Any]],
) -> None:
    undisturbed = run_with_kill("undisturbed")
    events = undisturbed["events"]
    middle = [i for i, event in enumerate(events) if event == "batch start"][3]
    boundary = events.index("after last.ckpt", events.index("validation"))
    for name, at, steps_to_go in (("first", 0, 10), ("middle", middle, 8), ("boundary", boundary, 5)):
        resumed = run_with_kill(name, at)
        assert_same(resumed, undisturbed)
        assert resumed["events"].count("batch start") == steps_to_go


@pytest.mark.slow
def test_fit_killed_at_every_event_equals_an_undisturbed_one(run_with_kill: Callable[..., dict[str, Any]]) -> None:
    """Before and after every step, validation batch and save: some fifty places."""
    undisturbed = run_with_kill("undisturbed")
    for at in range(len(undisturbed["events"])):
        assert_same(run_with_kill(f"killed at {at}", at), undisturbed)


@pytest.mark.slow
def test_workers_change_nothing(run_with_kill: Callable[..., dict[str, Any]]) -> None:
    """A resume with two workers equals an undisturbed run with none."""
    undisturbed = run_with_kill("undisturbed")
    middle = [i for i, event in enumerate(undisturbed["events"]) if event == "batch start"][7]
    assert_same(run_with_kill("workers", middle, "--data.init_args.num_workers", 2), undisturbed)


@pytest.fixture
def distillation(tmp_path: Path, save_network: Callable[..., str], tiny_config: Path, family: Any) -> dict[str, Any]:
    """What makes the tiny configuration one of progressive distillation: three stages of an epoch each."""
    streams = family.streams
    model = {
        "class_path": "lightning_modules.progressive_distillation.ProgressiveDistillationModule",
        "init_args": {
            "networks": {stream: save_network(tmp_path, stream) for stream in streams},
            "exits": family.layout,
            "stages": {
                "class_path": "callbacks.ProgressiveStages",
                "init_args": {"teachers": ["mv", "residual", "iframe"], "restart_lr": True},
            },
            "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}},
            "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.ExponentialLR", "init_args": {"gamma": 0.5}},
        },
    }
    data = yaml.safe_load(tiny_config.read_text())["data"]
    data["init_args"] |= {"streams": streams, "size": 32}
    return {"model": model, "data": data, "trainer": {"max_epochs": 3}}


def test_distillation_killed_in_a_stage_and_at_a_switch_ends_with_the_same_exits(
    run_with_kill: Callable[..., dict[str, Any]], distillation: dict[str, Any]
) -> None:
    undisturbed = run_with_kill("undisturbed", changes=distillation)
    events = undisturbed["events"]
    starts = [i for i, event in enumerate(events) if event == "batch start"]
    switch = events.index("epoch end") + 1
    for name, at in (("within the second stage", starts[7]), ("at the first switch", switch)):
        assert_same(run_with_kill(name, at, changes=distillation), undisturbed)


@pytest.mark.slow
def test_distillation_killed_at_every_event_ends_with_the_same_exits(
    run_with_kill: Callable[..., dict[str, Any]], distillation: dict[str, Any]
) -> None:
    undisturbed = run_with_kill("undisturbed", changes=distillation)
    for at in range(len(undisturbed["events"])):
        assert_same(run_with_kill(f"killed at {at}", at, changes=distillation), undisturbed)


class Continued:
    """Whether each process of a fit starts behind the last whole checkpoint."""

    def __init__(self, run_dir: Path) -> None:
        self.checkpoints, self.events = run_dir / "checkpoints", run_dir.parent / f"kills/{run_dir.name}.events"
        self.step = 0

    def look(self) -> dict[int, None]:
        """The steps that need not be repeated."""
        events = self.events.read_text().splitlines() if self.events.exists() else []
        assert not events or events[0] == f"from step {self.step}"
        self.events.unlink(missing_ok=True)
        steps = {path.stem: torch.load(path)["global_step"] for path in self.checkpoints.glob("[!.]*")}
        self.step = steps.get("last", 0)
        return dict.fromkeys(range(self.step))


def _bytes_of(left: Any) -> Any:
    """What a run has left, comparable bit for bit."""
    return tree_map(lambda value: value.numpy().tobytes() if isinstance(value, torch.Tensor) else value, left)


def check_random_kills(killing: Callable[..., Any], command: tuple[Any, ...], run_dir: Path, kills: int) -> None:
    killing(
        command,
        [run_dir],
        watched=[run_dir.parent / "kills"],
        whole=Continued(run_dir).look,
        results=lambda: _bytes_of(_left_by(run_dir)),
    ).check(kills, share=0.6)


@pytest.mark.slow
def test_fit_killed_at_random_equals_an_undisturbed_one(
    fit_command: Callable[..., tuple[Any, ...]], killing: Callable[..., Any], tmp_path: Path
) -> None:
    """With the processes that read for it."""
    command = fit_command("killed", changes={"trainer": {"max_epochs": 15}})
    check_random_kills(killing, (*command, "--data.num_workers", 2), tmp_path / "killed", 20)


@pytest.mark.slow
def test_distillation_killed_at_random_ends_with_the_same_exits(
    fit_command: Callable[..., tuple[Any, ...]],
    killing: Callable[..., Any],
    distillation: dict[str, Any],
    tmp_path: Path,
) -> None:
    distillation["trainer"]["max_epochs"] = 12
    check_random_kills(killing, fit_command("killed", changes=distillation), tmp_path / "killed", 10)


@pytest.mark.parametrize("norm", ["batch-statistics", "unfrozen"])
def test_a_student_killed_within_an_epoch_ends_with_the_same_weights(
    run_with_kill: Callable[..., dict[str, Any]],
    tmp_path: Path,
    save_network: Callable[..., str],
    tiny_config: Path,
    norm: str,
) -> None:
    """Of a teacher, whose statistics may drift but do not count, a checkpoint keeps nothing."""
    config = yaml.safe_load(tiny_config.read_text())
    options = {"stream": "iframe", "teacher": save_network(tmp_path, "iframe"), "teacher_norm": norm}
    config["model"]["class_path"] = "lightning_modules.cross_resolution.CrossResolutionModule"
    config["model"]["init_args"] |= options
    config["data"]["init_args"] |= {"streams": ["iframe"], "low_resolution": {"size": 16}}
    changes = {section: config[section] for section in ("model", "data")}
    undisturbed = run_with_kill("undisturbed", changes=changes)
    middle = [i for i, event in enumerate(undisturbed["events"]) if event == "batch start"][3]
    assert_same(run_with_kill("killed", middle, changes=changes), undisturbed)
