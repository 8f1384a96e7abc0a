"""The files `configs/*/chain.yaml`: order, figures and variants, against the experiments and the Makefile."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from lightning_modules.chain import Chain, Experiment, read_chain

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
TARGETS = ("ucf101", "hmdb51", "activitynet", "fcvid", "mini-kinetics", "ssv2", "kinetics400", "kinetics-subset")
CHAINS = [*(target.replace("-", "_") for target in TARGETS), "demo"]
EXPERIMENTS = [(data_set, experiment) for data_set in CHAINS for experiment in read_chain(data_set, CONFIGS)]


def name(value: object) -> str:
    return value.name if isinstance(value, Experiment) else str(value)


def header(experiment: Experiment) -> str:
    lines = experiment.config.read_text().splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


def test_every_data_set_of_a_paper_has_a_chain_and_so_has_the_demo() -> None:
    assert {path.parent.name for path in CONFIGS.glob("*/chain.yaml")} == set(CHAINS)


@pytest.mark.parametrize("data_set", CHAINS)
def test_experiments_stand_behind_those_whose_networks_they_take(data_set: str) -> None:
    chain, before = Chain(data_set, read_chain(data_set, CONFIGS)), set()
    for experiment in chain.experiments:
        assert chain.sources(experiment) <= before, experiment.name
        before.add(experiment.name)
    all_of_it = {path.stem for path in (CONFIGS / data_set).glob("*.yaml") if "run_dir:" in path.read_text()}
    assert {experiment.config.stem for experiment in chain.experiments} == all_of_it - {"pkd_ip"}, "no paper has pkd_ip"


@pytest.mark.parametrize(("data_set", "experiment"), EXPERIMENTS, ids=name)
def test_figures_are_those_of_headers(data_set: str, experiment: Experiment) -> None:
    (result,) = re.findall(r"Result +(.*)", header(experiment))
    figures = [
        float(figure) for figure in re.findall(r"\d+\.?\d*", re.sub(r"\d+ epochs|ResNet-\d+|\d+ splits", "", result))
    ]
    if experiment.paper is not None:
        assert experiment.paper in (*figures, round(sum(figures) / len(figures), 2))  # or of each split
        of_its_network = f"with {experiment.name.rpartition('_')[2].replace('resnet', 'ResNet-')}"
        assert of_its_network in result or "resnet152" not in experiment.name
    else:
        assert not re.search(r"(paper|code|CoViAR|elsewhere):?( mAP| top-1)? \d", result) or "ResNet-152" in result


@pytest.mark.parametrize(("data_set", "experiment"), [case for case in EXPERIMENTS if case[1].options], ids=name)
def test_variants_are_those_of_headers(data_set: str, experiment: Experiment) -> None:
    run_dir = f"--run_dir runs/{data_set}/{experiment.name}"
    (told,) = re.findall(rf"{run_dir}((?: --\S+ (?!--)\S+)+)", header(experiment))
    words = shlex.split(told)
    assert dict(zip(words[::2], words[1::2], strict=True)) == {f"--{k}": v for k, v in experiment.options.items()}


@pytest.mark.parametrize("target", TARGETS)
def test_targets_run_the_chains(target: str) -> None:
    given = ["DATA=/my data", "SPLIT=2", "FRACTION=0.01", "SEED=3", "EXPERIMENTS=a,b", "OPTIONS=trainer.devices: 2"]
    asked = f"reproduce {target.replace('-', '_')} --data '/my data' --split 2 --seed 3 --fraction 0.01"
    asked = [*shlex.split(asked), "--experiments", "[a,b]", "--options", "{trainer.devices: 2}"]
    for suffix, flags in {"": [], "-dry": ["--dry_run"]}.items():
        make = ["make", "-n", f"{target}{suffix}", *given]
        shown = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        (line,) = [line for line in shown.splitlines() if "streamkd reproduce" in line]
        assert shlex.split(line)[1:] == [*asked, *flags]


def test_read_as_yaml() -> None:
    for path in CONFIGS.glob("*/chain.yaml"):
        assert all(
            set(entry or {}) <= {"config", "options", "paper", "source"}
            for entry in yaml.safe_load(path.read_text()).values()
        )
