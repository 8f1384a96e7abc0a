"""configs/trainer/: each file goes with every kind of module, by itself and with others; scripts name what there is."""

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.distributed.run import get_args_parser

ROOT = Path(__file__).parents[1]
FILES = sorted(path.stem for path in (ROOT / "configs/trainer").glob("*.yaml"))
KINDS = ("mv", "pkd", "wise", "reskd", "p_stream")
ANYWHERE = ("accumulate", "channels_last", "compile")
TOGETHER = (("one_gpu", "16_mixed", *ANYWHERE), ("ddp", "multi_node", "bf16_mixed", "sync_batch_norm", *ANYWHERE))


def check(config: Any, kind: str, names: tuple[str, ...]) -> None:
    """What the last of `names` to have a key says is so, callbacks of all behind those of the experiment."""
    expected: dict[str, Any] = {}
    added: list[str] = []
    for name in names:
        keys = yaml.safe_load((ROOT / "configs/trainer" / f"{name}.yaml").read_text())["trainer"]
        added += [callback["class_path"] for callback in keys.pop("callbacks+", [])]
        expected |= keys
    assert {key: config.trainer[key] for key in expected} == expected
    callbacks = [callback.class_path for callback in config.trainer.callbacks or []]
    assert callbacks[len(callbacks) - len(added) :] == added
    own = yaml.safe_load((ROOT / f"configs/demo/{kind}.yaml").read_text())["trainer"]
    own = yaml.safe_load((ROOT / "configs/demo" / own).read_text()) if isinstance(own, str) else own
    assert len(callbacks) == len(added) + len(own["callbacks"])
    assert config.trainer.max_epochs == own["max_epochs"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", [KINDS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])])
def test_a_file_goes_with_every_kind_of_module(
    kind: str, name: str, parse_fit: Callable[..., Any], trainer_files: Callable[..., list[str]]
) -> None:
    check(parse_fit("--config", str(ROOT / f"configs/demo/{kind}.yaml"), *trainer_files(name)), kind, (name,))


@pytest.mark.parametrize("names", TOGETHER, ids=["a GPU", "many"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_go_together(
    kind: str, names: tuple[str, ...], parse_fit: Callable[..., Any], trainer_files: Callable[..., list[str]]
) -> None:
    check(parse_fit("--config", str(ROOT / f"configs/demo/{kind}.yaml"), *trainer_files(*names)), kind, names)


def test_every_file_is_tried_and_stands_in_the_readme() -> None:
    assert {name for names in TOGETHER for name in names} == set(FILES)
    table = re.findall(r"^\| `trainer/(\w+)\.yaml` \|", (ROOT / "configs/README.md").read_text(), re.MULTILINE)
    assert sorted(table) == FILES


def test_bfloat16_and_accumulated_steps_run_on_a_cpu(
    tiny_config: Path,
    tmp_path: Path,
    streamkd: Callable[..., int | None],
    trainer_files: Callable[..., list[str]],
) -> None:
    """Five batches are a step of four and one of one; in bfloat16 they differ by its rounding."""
    command = ("fit", "--config", tiny_config, "--trainer.max_epochs", 1)
    left = {}
    for name in ("accumulate", "bf16_mixed"):
        precision = trainer_files("bf16_mixed") if name == "bf16_mixed" else []
        options = (*trainer_files("accumulate", "channels_last"), *precision, "--run_dir", tmp_path / name)
        assert streamkd(*command, *options) == 0
        left[name] = torch.load(tmp_path / name / "checkpoints" / "last.ckpt")
        assert left[name]["global_step"] == 2
    ours, theirs = (left[name]["state_dict"] for name in ("bf16_mixed", "accumulate"))
    differences = [(ours[key] - value).abs().max().item() for key, value in theirs.items() if value.is_floating_point()]
    assert 0 < max(differences) < 0.1


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_weights_and_clips_may_be_of_another_precision(
    precision: str,
    tiny_config: Path,
    tmp_path: Path,
    streamkd: Callable[..., int | None],
    write_fusion_config: Callable[..., Path],
) -> None:
    """Read at once and lazily."""
    options = ("--trainer.precision", precision, "--trainer.max_epochs", 1)
    assert streamkd("fit", "--config", tiny_config, *options) == 0
    best = tmp_path / "run/checkpoints/best.ckpt"
    dtypes = {value.dtype for name, value in torch.load(best)["state_dict"].items() if name.endswith("weight")}
    assert dtypes == {torch.float64 if precision == "64-true" else torch.bfloat16}
    command = ("--config", write_fusion_config({"residual": str(best)}), *options, "--run_dir", tmp_path / "fusion")
    assert streamkd("fit", *command) == 0
    assert streamkd("test", *command, "--data.lazy", "true") == 0


def test_scripts_name_files_and_options_that_there_are(parse_fit: Callable[..., Any]) -> None:
    script = ROOT / "configs/trainer/slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text().replace('"$1"', "configs/demo/mv.yaml").replace('"${@:2}"', "")
    (started,) = re.findall(r"^srun lightning fit (.*)$", text, re.MULTILINE)
    torchrun = re.findall(r"^torchrun (.*)$", (ROOT / "README.md").read_text().replace("\\\n", " "), re.MULTILINE)
    options = [get_args_parser().parse_args(shlex.split(command)) for command in torchrun]
    assert [(node.nnodes, node.node_rank, node.no_python) for node in options] == [("2", 0, True), ("2", 1, True)]
    for command in [shlex.split(started), *(node.training_script_args[1:] for node in options)]:
        arguments = [str(ROOT / part) if part.startswith("configs/") else part for part in command]
        config = parse_fit(*arguments)
        assert (config.trainer.strategy, config.trainer.num_nodes) == ("ddp", 2)
    sbatch = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.MULTILINE))
    assert sbatch["nodes"] == "2"
    assert sbatch["gres"] == f"gpu:{sbatch['ntasks-per-node']}"  # a task for each GPU that `devices: auto` finds
    assert sbatch["signal"] == "SIGUSR1@90"
