"""Every YAML file under configs/ is understood by the command line, or is part of one that is."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

from lightning_modules.cli import _run
from lightning_modules.trainer_cli import TrainerCLI

CONFIGS = Path(__file__).parents[1] / "configs"
README = (CONFIGS / "README.md").read_text()
FILES = sorted(CONFIGS.rglob("*.yaml"))
EXPERIMENTS = [path for path in FILES if "model" in yaml.safe_load(path.read_text())]
DATA_SETS = [path for path in FILES if path.name == "annotations.yaml" and path.parent.name != "demo"]


class Parsed(Exception):
    """Carries the configuration out of a command line that stops there."""


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Parse a fit's configuration against the real signatures, without running it."""

    def stop(cli: TrainerCLI) -> None:
        raise Parsed(cli.config.fit)

    monkeypatch.setattr(TrainerCLI, "before_instantiate_classes", stop)

    def parse_file(path: Path, *options: str) -> Namespace:
        with pytest.raises(Parsed) as parsed:
            _run(["fit", "--config", str(path), *options])
        return parsed.value.args[0]

    return parse_file


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_experiments_parse_and_say_what_they_cost(path: Path, parse: Any) -> None:
    config = parse(path)
    assert config.run_dir == f"runs/{path.parent.name}/{path.stem}"
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert f"lightning fit --config configs/{name(path)}" in " ".join(header)
    for word in ("# Command", "# Cost", "# Result"):
        assert [line for line in header if line.startswith(word)], word


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_cosine_schedules_end_with_the_run(path: Path, parse: Any) -> None:
    config = parse(path)
    schedule = config.model.init_args.get("lr_scheduler")
    if schedule is not None and schedule.class_path.endswith("CosineAnnealingLR"):
        steps_by = config.model.init_args.lr_interval
        assert steps_by != "epoch" or schedule.init_args.T_max == config.trainer.max_epochs


@pytest.mark.parametrize("path", sorted(set(FILES) - set(EXPERIMENTS) - set(DATA_SETS)), ids=name)
def test_shared_parts_are_used(path: Path) -> None:
    users = [other for other in EXPERIMENTS if _refers(other, path)]
    assert users, "no experiment refers to this file"


def _refers(experiment: Path, part: Path) -> bool:
    return (
        f": {os.path.relpath(part, experiment.parent)}" in experiment.read_text()
        or name(part) in experiment.read_text()
    )


@pytest.mark.parametrize("path", DATA_SETS, ids=name)
def test_data_sets_parse_and_the_readme_lists_them(path: Path, parse: Any) -> None:
    config = parse(CONFIGS / "demo" / "mv.yaml", "--data.annotations", str(path))
    annotations = config.data.init_args.annotations
    assert annotations.init_args.root.startswith("data/")
    (row,) = (line for line in README.splitlines() if line.startswith(f"| `{path.parent.name}` "))
    assert f"`{annotations.class_path.rpartition('.')[2]}`" in row


@pytest.mark.parametrize("key", ["model.init_args.network.init_args.depth", "data.init_args.shuffle", "trainer.epochs"])
def test_a_key_that_no_signature_has_would_be_noticed(key: str, tmp_path: Path, parse: Any) -> None:
    config = yaml.safe_load((CONFIGS / "demo" / "mv.yaml").read_text())
    config["data"]["init_args"]["annotations"] = None
    config["trainer"] = {}
    *parents, leaf = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[leaf] = 1
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(Exception, match=leaf):
        parse(path)
