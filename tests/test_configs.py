"""Every YAML file under configs/ is understood by the command line, or is part of one that is."""

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

CONFIGS = Path(__file__).parents[1] / "configs"
README = (CONFIGS / "README.md").read_text()
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name not in ("sweeps", "trainer"))
EXPERIMENTS = [path for path in FILES if "model" in yaml.safe_load(path.read_text())]
CHAINS = [path for path in FILES if path.name == "chain.yaml"]
ON_CPUS = ("demo", "ut_interaction")
DATA_SETS = [path for path in FILES if path.name == "annotations.yaml" and path.parent.name != "demo"]


def variants(path: Path) -> list[list[str]]:
    """The options that a header gives for variants: lines of them in a row, each `--run_dir` being the first of one."""
    blocks = re.findall(r"(?:^# +--.*\n)+", path.read_text(), re.MULTILINE)
    texts = [text for block in blocks for text in re.split(r"\n(?=# +--run_dir)", block)]
    return [shlex.split(text.replace("#", "")) for text in texts]


# Those that differ in the data set's name alone count once: each costs a parser.
VARIANTS = list(
    {
        (path.stem, *(option.replace(path.parent.name, "") for option in options)): (path, options)
        for path in EXPERIMENTS
        for options in variants(path)
    }.values()
)


@pytest.fixture(scope="session")
def parse(parse_fit: Callable[..., Any]) -> Callable[..., Namespace]:
    """Parse a fit's configuration against the real signatures, without running it."""
    return lambda path, *options: parse_fit("--config", str(path), *options)


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


@pytest.mark.parametrize("path", [path for path in EXPERIMENTS if path.parent.name in ON_CPUS], ids=name)
def test_experiments_made_for_cpus_convolve_channels_last(path: Path, parse: Any) -> None:
    classes = [callback.class_path for callback in parse(path).trainer.callbacks]
    assert classes.count("callbacks.channels_last.ChannelsLast") == 1


@pytest.mark.parametrize(("path", "options"), VARIANTS, ids=[f"{name(p)}-{' '.join(o)[:40]}" for p, o in VARIANTS])
def test_variants_in_headers_parse(path: Path, options: list[str], parse: Any, holds: Callable[..., bool]) -> None:
    config = parse(path, *options)
    for key, value in zip(options[::2], options[1::2], strict=True):
        assert holds(config, key.removeprefix("--"), yaml.safe_load(value)), key
    assert "--run_dir" not in options or config.run_dir.startswith(f"runs/{path.parent.name}/")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_cosine_schedules_end_with_the_run(path: Path, parse: Any) -> None:
    config = parse(path)
    schedule = config.model.init_args.get("lr_scheduler")
    if schedule is not None and schedule.class_path.endswith("CosineAnnealingLR"):
        steps_by = config.model.init_args.lr_interval
        assert steps_by != "epoch" or schedule.init_args.T_max == config.trainer.max_epochs


@pytest.mark.parametrize("path", sorted(set(FILES) - {*EXPERIMENTS, *DATA_SETS, *CHAINS}), ids=name)
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
