"""Sweeps under configs/sweeps/: every swept parameter reaches the configuration, and `wandb agent` runs them."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from lightning_modules.cli import main

ROOT = Path(__file__).parents[1]
SWEEPS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))}
RUN = SWEEPS.pop("run")
METHODS = ("recognition", "pkd", "wise", "reskd", "flow_distillation")
METRIC = SWEEPS["recognition"]["metric"]["name"]


def options(sweep: dict[str, Any], **config: Any) -> list[str]:
    """Those of `fit` in the sweep's command, as W&B's own code puts a run's parameters into it."""
    macros = create_sweep_command_args({"args": as_arguments(config)}) | {"env": ["env"], "program": [sweep["program"]]}
    parts = [macros[part[2:-1]] if part.startswith("${") else [part] for part in sweep["command"]]
    command = [option for part in parts for option in part]
    assert command[:3] == ["env", "lightning", "fit"]
    return command[3:]


def as_arguments(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A run's parameters as the server sends them."""
    return {name: {"value": value} for name, value in config.items()}


def ends(parameter: dict[str, Any]) -> tuple[Any, Any]:
    """Two of the values that a sweep may try."""
    values = parameter.get("values") or [parameter["min"], parameter["max"]]
    return values[0], values[-1]


def given(value: Any) -> Any:
    """A value as YAML has it: lists are swept over as text."""
    return yaml.safe_load(value) if isinstance(value, str) else value


@pytest.fixture
def in_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an agent tells the runs that it starts."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "0123")


def test_every_method_has_a_bayesian_sweep_and_a_grid() -> None:
    methods = {name: sweep["method"] for name, sweep in SWEEPS.items()}
    assert methods == dict.fromkeys(METHODS, "bayes") | {f"{name}_grid": "grid" for name in METHODS}
    stopped = {name for name, sweep in SWEEPS.items() if "early_terminate" in sweep}
    assert stopped == set(METHODS) - {"wise"}  # whose fit is one pass
    assert all("run_cap" in sweep for name, sweep in SWEEPS.items() if name in METHODS)


@pytest.mark.usefixtures("in_a_sweep")
@pytest.mark.parametrize("name", SWEEPS)
def test_every_swept_parameter_changes_the_configuration(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    parse_fit: Callable[..., Namespace],
    holds: Callable[..., bool],
) -> None:
    monkeypatch.chdir(ROOT)
    sweep = SWEEPS[name]
    choices = {key: ends(parameter) for key, parameter in sweep["parameters"].items()}
    configs = [parse_fit(*options(sweep, **{key: both[end] for key, both in choices.items()})) for end in (0, 1)]
    for key, both in choices.items():
        held = [[holds(config, key, given(value)) for value in both] for config in configs]
        assert held == [[True, False], [False, True]], key
    metric = {"max": "maximize", "min": "minimize"}
    for config in configs:
        assert sweep["metric"] == {"name": config.monitor, "goal": metric[config.monitor_mode]}
        assert config.run_dir == "runs/sweeps/sweep/0123"
        assert config.logger == RUN["logger"] == "wandb"
        last = sweep.get("early_terminate", {}).get("min_iter", 0)
        assert last < config.trainer.max_epochs


@pytest.mark.usefixtures("in_a_sweep")
@pytest.mark.parametrize("key", ["model.optimizer.lrr", "model.learning_rate", "modle.stream"])
def test_an_unknown_parameter_is_one_line_with_the_remedy(
    key: str, tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", str(tiny_config), f"--{key}=0.1"])
    assert exit_.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert key.rpartition(".")[2] in line
    assert "correct it in the sweep's file" in line
    assert not (tmp_path / "run").exists()


class StandIn(ThreadingHTTPServer):
    """As much of W&B's server as an agent talks to: hands out runs, all at once, and ends the sweep after them.

    Args:
        sweep: its configuration.
        configs: the parameters of a run by its id.
    """

    def __init__(self, sweep: dict[str, Any], configs: dict[str, dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.sweep = sweep
        self.waiting = [
            {"type": "run", "run_id": name, "program": sweep["program"], "args": as_arguments(config)}
            for name, config in configs.items()
        ]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data for a GraphQL query."""
        if "SweepWithRuns" in query:
            return {"project": {"sweep": {"id": "1", "config": yaml.safe_dump(self.sweep), "runs": {"edges": []}}}}
        if "CreateAgent" in query:
            return {"createAgent": {"agent": {"id": "agent"}}}
        if "Heartbeat" in query:
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(self._commands(variables))}}
        return {"viewer": {"id": "1", "entity": "entity", "username": "user", "flags": "{}", "teams": {"edges": []}}}

    def _commands(self, variables: dict[str, Any]) -> list[dict[str, Any]]:
        commands, self.waiting = self.waiting, []
        return commands or ([] if json.loads(variables["runState"]) else [{"type": "exit"}])


class Answers(BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"data": self.server.answer(asked["query"], asked.get("variables") or {})}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """In silence."""


@pytest.fixture
def serve() -> Iterator[Callable[..., StandIn]]:
    servers = []

    def start(*args: Any) -> StandIn:
        servers.append(StandIn(*args))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_an_agent_runs_a_sweep(
    tiny_config: Path,
    tmp_path: Path,
    serve: Callable[..., StandIn],
    read_wandb_log: Callable[[Path], list[Any]],
) -> None:
    places = {"configs/demo/residual.yaml": tiny_config, "configs/sweeps": ROOT / "configs" / "sweeps"}
    command = [_replace(part, places) for part in SWEEPS["recognition"]["command"]]
    sweep = {**SWEEPS["recognition"], "command": [*command, "--trainer.max_epochs=1"]}
    choices = {key: ends(parameter) for key, parameter in sweep["parameters"].items()}
    configs = {name: {key: both[end] for key, both in choices.items()} for end, name in enumerate(("run0", "run1"))}
    server = serve(sweep, configs)

    agent = [sys.executable, "-m", "wandb", "agent", "entity/project/sweep"]
    subprocess.run(agent, cwd=tmp_path, env=_environment(server, tmp_path), check=True, timeout=500)
    for name, config in configs.items():
        run = tmp_path / "runs" / "sweeps" / "sweep" / name
        assert json.loads((run / "fit.json").read_text())["epochs"] == 1
        saved = yaml.safe_load((run / "config.yaml").read_text())
        assert saved["model"]["init_args"]["optimizer"]["init_args"]["lr"] == config["model.optimizer.lr"]
        assert saved["data"]["init_args"]["batch_size"] == config["data.batch_size"]
        (log,) = run.glob(f"wandb/offline-run-*-{name}/run-*.wandb")
        items = [item for record in read_wandb_log(log) for item in record.history.item]
        logged = {"/".join(item.nested_key): float(item.value_json) for item in items}
        assert logged[METRIC] == pytest.approx(json.loads((run / "fit.json").read_text())["best_score"])


def _replace(text: str, places: dict[str, Path]) -> str:
    for old, new in places.items():
        text = text.replace(old, str(new))
    return text


def _environment(server: StandIn, home: Path) -> dict[str, str]:
    paths = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        **{f"WANDB_{name}_DIR": str(home / name) for name in ("CONFIG", "CACHE", "DATA")},
    }
    wandb = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "offline"}
    return {**os.environ, **paths, **wandb, "OMP_NUM_THREADS": "1"}
