"""A run killed or told to stop anywhere and resumed by the same command equals an undisturbed one, bit for bit."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils._pytree import tree_map

KILLER = '''
import multiprocessing, os, subprocess
from pathlib import Path
from lightning.pytorch import Callback

class Kill(Callback):
    """Lists the events of a fit; sends a signal to all its processes, once in a run's life, at event `at`."""

    def __init__(self, marker: str, at: int, number: int, environment: dict[str, str]):
        self.marker, self.at, self.number, self.events = Path(marker), at, number, []
        os.environ.update(environment)

    def event(self, name):
        if len(self.events) == self.at and not self.marker.exists():
            self.marker.write_text(name)
            for worker in multiprocessing.active_children():
                subprocess.run(["kill", f"-{self.number}", str(worker.pid)])  # from outside
            os.kill(os.getpid(), self.number)
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

    def write(
        name: str,
        at: int = -1,
        changes: dict[str, Any] | None = None,
        number: int = signal.SIGKILL,
        environment: dict[str, str] | None = None,
    ) -> tuple[Any, ...]:
        config = yaml.safe_load(tiny_config.read_text())
        for section, values in (changes or {}).items():
            config[section] |= values
        config["run_dir"] = str(tmp_path / name)
        marker = str(tmp_path / "kills" / name)
        arguments = {"marker": marker, "at": at, "number": int(number), "environment": environment or {}}
        killer = {"class_path": "killer.Kill", "init_args": arguments}
        channels_last = {"class_path": "callbacks.channels_last.ChannelsLast"}
        config["trainer"]["callbacks"] = [killer, channels_last, *config["trainer"].get("callbacks", [])]
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        return "fit", "--config", path

    return write


@pytest.fixture
def run_with_kill(
    tmp_path: Path, fit_command: Callable[..., tuple[Any, ...]], streamkd: Callable[..., int | None]
) -> Callable[..., dict[str, Any]]:
    """Fit in `name`, sent signal `number` at event `at` (-1: never), and started again.

    `given` may be `changes`, laid over sections of the tiny configuration, and `environment`. Returns what it left, and
    the events of its last process.
    """

    def run(name: str, at: int = -1, *options: object, number: int = signal.SIGKILL, **given: Any) -> dict[str, Any]:
        marker = tmp_path / "kills" / name
        command = (*fit_command(name, at, number=number, **given), *options)
        assert streamkd(*command) == (0 if at < 0 else -9 if number == signal.SIGKILL else 143)
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


@pytest.mark.parametrize(("event", "steps_to_go"), [("batch start", 7), ("validation", 6)])
def test_a_terminated_run_saves_the_step_it_is_in(
    run_with_kill: Callable[..., dict[str, Any]], event: str, steps_to_go: int
) -> None:
    """Told in its third step, it has made three; a validation goes back to the last of the saves after every second.

    Workers get the signal, too.
    """
    undisturbed = run_with_kill("undisturbed")
    at = [i for i, name in enumerate(undisturbed["events"]) if name == event][2]
    options = ("--data.init_args.num_workers", 1)
    resumed = run_with_kill("terminated", at, *options, number=signal.SIGTERM)
    assert_same(resumed, undisturbed)
    assert resumed["events"].count("batch start") == steps_to_go


SLURM = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "fit", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"}
SLURM |= {"SLURM_PROCID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "1"}
ARRAY = {"SLURM_ARRAY_JOB_ID": "4700", "SLURM_ARRAY_TASK_ID": "3"}


@pytest.mark.parametrize(
    ("number", "job", "asked"),
    [
        pytest.param(signal.SIGUSR1, SLURM, "requeue 4711", id="job"),
        pytest.param(signal.SIGUSR1, SLURM | ARRAY, "requeue 4700_3", id="array", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, SLURM, "", id="cancelled", marks=pytest.mark.slow),
    ],
)
def test_a_slurm_job_that_ends_too_soon_is_put_back_into_the_queue(
    run_with_kill: Callable[..., dict[str, Any]], tmp_path: Path, number: int, job: dict[str, str], asked: str
) -> None:
    """Told in the first part of an accumulated step, it has made that step, of two batches."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    environment = job | {"PATH": f"{scontrol.parent}:{os.environ['PATH']}"}
    changes = {"trainer": {"accumulate_grad_batches": 2}}
    undisturbed = run_with_kill("undisturbed", changes=changes)
    at = undisturbed["events"].index("batch start")
    resumed = run_with_kill("stopped", at, changes=changes, number=number, environment=environment)
    assert_same(resumed, undisturbed)
    assert resumed["events"].count("batch start") == 8
    assert (tmp_path / "asked").read_text().split("\n")[:-1] == [asked] if asked else not (tmp_path / "asked").exists()
    assert {path.name for path in (tmp_path / "stopped").iterdir()} == {
        path.name for path in (tmp_path / "undisturbed").iterdir()
    }


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


@pytest.mark.parametrize("family", ["three networks"], indirect=True)
def test_distillation_from_stored_features_killed_within_an_epoch_ends_with_the_same_exits(
    run_with_kill: Callable[..., dict[str, Any]], distillation: dict[str, Any], tmp_path: Path
) -> None:
    distillation["data"]["init_args"] |= {"augment": False, "shuffle": True}
    store = {"class_path": "callbacks.frozen_features.FrozenFeatures", "init_args": {"folder": str(tmp_path / "store")}}
    distillation["trainer"]["callbacks"] = [store]
    undisturbed = run_with_kill("undisturbed", changes=distillation)
    starts = [i for i, event in enumerate(undisturbed["events"]) if event == "batch start"]
    resumed = run_with_kill("within the second stage", starts[7], changes=distillation)
    assert_same(resumed, undisturbed)
    assert resumed["events"].count("batch start") == len(starts) - 6, "from the last checkpoint"
    assert len(list((tmp_path / "store").glob("*.bin"))) == 2, "of train and val, found again"


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
