"""ResKD's recipes: the numbers of the paper and its public code, what the networks cost, and names that they have."""

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from datamodules.low_resolution import LowResolution
from datamodules.multi_resolution import MultiResolutionDataModule
from lightning_modules import losses
from lightning_modules.analysis.cost import Convention, cost_of
from lightning_modules.checkpoints import build_network, without_weights
from lightning_modules.cli import main
from lightning_modules.networks.taps import Taps
from lightning_modules.parameter_rules import ParameterRule, build_optimizer

ROOT = Path(__file__).parents[1]
# Folder and suffix of the files.
TSN = [("activitynet", ""), ("fcvid", ""), ("mini_kinetics", "")]
TSM, SLOW_ONLY, SWIN = ("ssv2", ""), ("kinetics400", "_slow_only"), ("kinetics400", "_swin")
RECIPES = [*TSN, TSM, SLOW_ONLY, SWIN]
CHAIN = ("reskd_teacher", "reskd_baseline", "reskd")
DISTILLED = ("reskd_baseline", "reskd")
Recipe = tuple[str, str]

# Networks of teacher and student, frames, views.
NETWORKS = {
    TSN[0]: ("resnet152", "resnet50", 16, 1),
    TSN[1]: ("resnet152", "resnet50", 16, 1),
    TSN[2]: ("resnet152", "resnet50", 8, 1),
    TSM: ("tsm_resnet50", "tsm_resnet50", 8, 1),
    SLOW_ONLY: ("slow_only_resnet50", "slow_only_resnet50", 8, 30),
    SWIN: ("video_swin_b", "video_swin_s", 32, 12),
}
# Learning rate, weight decay, batch and epochs of teacher, then of student; clip.
TRAINING = {
    TSN[0]: ((0.01, 1e-4, 64, 50), (0.01, 1e-4, 64, 200), 20),
    TSN[1]: ((0.01, 1e-4, 64, 50), (0.01, 1e-4, 64, 200), 20),
    TSN[2]: ((0.01, 1e-4, 64, 50), (0.01, 1e-4, 64, 100), 20),
    TSM: ((0.0075, 5e-4, 96, 50), (0.01, 1e-4, 64, 100), 20),
    SLOW_ONLY: ((0.01, 1e-4, 64, 150), (0.01, 1e-4, 64, 150), 40),
    SWIN: ((0.0005, 0.05, 512, 50), (0.001, 0.02, 512, 60), None),
}
# G a video by the paper's convention: the teacher's and the student's. As printed, but for teachers and TSM: derived.
GIGA = {
    TSN[0]: ("185.3", "17.4"),
    TSN[1]: ("185.3", "17.4"),
    TSN[2]: ("92.6", "8.7"),
    TSM: ("33.0", "8.7"),
    SLOW_ONLY: ("1260", "332"),
    SWIN: ("2911", "421"),
}


def path_of(recipe: Recipe, stem: str) -> Path:
    return ROOT / "configs" / recipe[0] / f"{stem}{recipe[1]}.yaml"


@cache
def read(recipe: Recipe, stem: str) -> dict[str, Any]:
    """The configuration with its data in place."""
    path = path_of(recipe, stem)
    config = yaml.safe_load(path.read_text())
    if isinstance(config["data"], str):
        config["data"] = yaml.safe_load((path.parent / config["data"]).read_text())
    return config


def options(recipe: Recipe, stem: str, part: str) -> dict[str, Any]:
    return read(recipe, stem)[part]["init_args"]


def network_of(recipe: Recipe, stem: str) -> nn.Module:
    with torch.device("meta"):
        return build_network(without_weights(options(recipe, stem, "model")["network"]))


def data_of(recipe: Recipe, stem: str) -> MultiResolutionDataModule:
    given = options(recipe, stem, "data")
    low = given["low_resolution"] and LowResolution(**given["low_resolution"])
    return MultiResolutionDataModule(**{**given, "annotations": None, "low_resolution": low, "index_cache": None})


each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids="".join)
each_stem = pytest.mark.parametrize("stem", CHAIN)


@each_recipe
@each_stem
def test_training_has_the_published_numbers(recipe: Recipe, stem: str) -> None:
    model, data, trainer = options(recipe, stem, "model"), options(recipe, stem, "data"), read(recipe, stem)["trainer"]
    optimizer = model["optimizer"]["init_args"]
    batch = data["batch_size"] * trainer.get("accumulate_grad_batches", 1)
    teacher, student, clip = TRAINING[recipe]
    came = optimizer["lr"], optimizer["weight_decay"], batch, trainer["max_epochs"]
    assert came == (teacher if stem == "reskd_teacher" else student)
    assert trainer.get("gradient_clip_val") == clip
    assert optimizer.get("momentum") == (None if recipe == SWIN else 0.9)
    schedule = model["lr_scheduler"]["init_args"]
    assert schedule == ({"milestones": [90, 130]} if recipe == SLOW_ONLY else {"T_max": trainer["max_epochs"]})
    network = model["network"]["init_args"]
    assert network["dropout"] == 0.5
    assert network.get("fc_std") == {SLOW_ONLY: 0.01, SWIN: None}.get(recipe, 0.001)


@each_recipe
@each_stem
def test_networks_see_the_published_frames_and_views(recipe: Recipe, stem: str) -> None:
    teacher, student, frames, views = NETWORKS[recipe]
    is_teacher = stem == "reskd_teacher"
    name = options(recipe, stem, "model")["network"]["class_path"].rpartition(".")[2]
    assert name == (teacher if is_teacher else student)
    data = data_of(recipe, stem)
    shape = (frames, 3, 224, 224)
    small = (frames, 3, 112, 112)
    assert data.test_reader.shapes == ({"rgb": shape} if is_teacher else {"rgb": small, "rgb_high": shape})
    assert data.test_reader.num_views == views
    assert data.test_reader.crop_fraction == (1 if views > 1 else 224 / 256)
    stride = {SLOW_ONLY: 8, SWIN: 2}.get(recipe)
    sampler = data.reader.sampler
    assert (sampler.mode, sampler.stride) == ("dense", stride) if stride else sampler.mode == "segments"
    assert data.reader.random_crops.scales == (1, 0.875, 0.75, 0.66)
    assert data.reader.random_crops.flip == (0 if recipe == TSM else 0.5)
    if not is_teacher:
        assert data.reader.low == LowResolution(112, "tensor", antialias=False)


@each_recipe
@each_stem
def test_networks_know_the_classes_of_their_data(recipe: Recipe, stem: str) -> None:
    assert options(recipe, stem, "data")["annotations"] == "annotations.yaml"
    reader = yaml.safe_load((ROOT / "configs" / recipe[0] / "annotations.yaml").read_text())["class_path"]
    module, _, name = reader.rpartition(".")
    annotations = getattr(import_module(module), name)
    model = options(recipe, stem, "model")
    assert model["network"]["init_args"]["num_classes"] == annotations.num_classes
    assert model.get("multi_label", False) == annotations.multi_label == (recipe in TSN[:2])
    assert model.get("multi_label_loss") == ("softmax" if annotations.multi_label else None)
    assert read(recipe, stem).get("monitor") == ("val/mAP" if annotations.multi_label else None)


@each_recipe
@each_stem
def test_weights_have_the_digests_that_other_recipes_have(recipe: Recipe, stem: str) -> None:
    network = options(recipe, stem, "model")["network"]["init_args"]
    if recipe == SWIN:
        assert "sha256" not in network
        return
    known = (ROOT / "configs/ucf101/iframe.yaml").read_text()
    assert network["weights"] in known
    assert network["sha256"] in known
    assert network["weights"].endswith(f"-{network['sha256'][:8]}.pth")


@each_recipe
def test_the_student_learns_from_the_teacher_before_it(recipe: Recipe) -> None:
    assert options(recipe, "reskd", "model")["teacher"] == best(read(recipe, "reskd_teacher")["run_dir"])
    assert "teacher_norm" not in options(recipe, "reskd", "model"), "eval, unlike the public code"
    runs = {read(recipe, "reskd_teacher")["run_dir"], *re.findall(r"--run_dir (\S+)", text(recipe, "reskd_teacher"))}
    named = re.findall(r"--model.teacher (\S+)", text(recipe, "reskd"))
    assert set(named) <= {best(run) for run in runs}
    assert len(named) == (2 if recipe in TSN else 0)  # Table 6


def best(run: str) -> str:
    return f"{run}/checkpoints/best.ckpt"


def text(recipe: Recipe, stem: str) -> str:
    return path_of(recipe, stem).read_text()


@each_recipe
def test_the_baseline_differs_in_the_teacher_alone(recipe: Recipe) -> None:
    baseline, student = (yaml.safe_load(text(recipe, stem)) for stem in DISTILLED)
    for key in ("teacher", "matching"):
        del student["model"]["init_args"][key]
    for config in (baseline, student):
        del config["run_dir"], config["model"]["class_path"]
    assert baseline == student


@pytest.mark.parametrize("recipe", [*TSN, TSM, SLOW_ONLY], ids="".join)
def test_features_weigh_a_hundred(recipe: Recipe) -> None:
    matching = options(recipe, "reskd", "model")["matching"]
    assert matching == {"class_path": "lightning_modules.losses.FeatureMatching", "init_args": {"weight": 100}}


def test_positions_weigh_twice_their_divergence() -> None:
    """200 x T^2 x a mean over positions and 400 classes, T = 2; here the features are the logits."""
    given = options(SWIN, "reskd", "model")["matching"]
    assert given["init_args"] == {"weight": 200, "temperature": 2, "reduction": "elements"}
    matching = getattr(losses, given["class_path"].rpartition(".")[2])(**given["init_args"])
    head: Any = SimpleNamespace(classifier=lambda features: features)
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 400, 2, 2, dtype=torch.float64).unbind()
    p, q = (logits.div(2).softmax(2) for logits in (teacher, student))
    divergences = (p * (p / q).log()).sum(2)
    came = matching(Taps(student, head), Taps(teacher, head))
    assert came.item() == pytest.approx(2 * divergences.mean().item(), rel=1e-9)


def giga(recipe: Recipe, stem: str, convention: Convention) -> float:
    """Of all views of a test video."""
    reader = data_of(recipe, stem).test_reader
    clip = torch.empty(1, *reader.shapes["rgb"], device="meta")
    return reader.num_views * cost_of(network_of(recipe, stem), clip, convention=convention).total / 1e9


@each_recipe
@pytest.mark.parametrize("stem", ["reskd_teacher", "reskd"])
def test_networks_cost_what_the_paper_prints(recipe: Recipe, stem: str) -> None:
    printed = GIGA[recipe][stem == "reskd"]
    digits = len(printed.partition(".")[2])
    assert f"{giga(recipe, stem, 'paper'):.{digits}f}" == printed
    for file in (stem,) if stem == "reskd_teacher" else DISTILLED:
        assert re.search(rf"^# Cost +{re.escape(printed)} G a video ", text(recipe, file), re.MULTILINE), file


def test_costs_beside_the_papers_convention() -> None:
    assert f"{giga(TSM, 'reskd_teacher', 'multiply_adds'):.1f} G multiply-adds" in text(TSM, "reskd_teacher")
    for stem in ("reskd_teacher", "reskd"):
        assert f" {giga(SWIN, stem, 'with_attention'):.0f} G with attention" in text(SWIN, stem)
    for recipe in (SLOW_ONLY, SWIN):
        clip = giga(recipe, "reskd_teacher", "paper") / NETWORKS[recipe][3]
        told = re.findall(r"the\s+#?\s*teacher's\s+#?\s*(\S+) G a clip", text(recipe, "reskd"))
        assert told == [f"{clip:.{len(told[0].partition('.')[2])}f}"]


def test_the_command_prints_the_cost_of_all_views(capsys: pytest.CaptureFixture[str]) -> None:
    main(["cost", "--config", str(path_of(SLOW_ONLY, "reskd"))])
    printed = capsys.readouterr().out
    assert re.search(r"a video, 30 views .* 331\.8", printed)


def rates(recipe: Recipe, stem: str) -> dict[str, tuple[float, float]]:
    """Factors on learning rate and weight decay, by parameter."""
    rules = options(recipe, stem, "model").get("parameter_rules")
    given = yaml.safe_load((path_of(recipe, stem).parent / rules).read_text()) if rules else []
    network = network_of(recipe, stem)
    rules = [ParameterRule(**rule) for rule in given]
    optimizer = build_optimizer(lambda p: torch.optim.SGD(p, lr=1, weight_decay=1), network, rules)
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = optimizer.param_groups
    return {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize("recipe", [*TSN, TSM], ids="".join)
@pytest.mark.parametrize("stem", ["reskd_teacher", "reskd"])
def test_biases_learn_twice_as_fast_and_norms_do_not_decay(recipe: Recipe, stem: str) -> None:
    expected = {}
    for prefix, module in network_of(recipe, stem).named_modules():
        for name, _ in module.named_parameters(recurse=False):
            is_norm = isinstance(module, nn.BatchNorm2d)
            kind = (1.0, 0.0) if is_norm else (2.0, 0.0) if name == "bias" else (1.0, 1.0)
            expected[f"{prefix}.{name}"] = kind
    assert rates(recipe, stem) == expected
    assert {(2.0, 0.0), (1.0, 0.0), (1.0, 1.0)} == set(expected.values())


@pytest.mark.parametrize("stem", ["reskd_teacher", "reskd"])
def test_swins_parameters_have_what_the_public_codes_keys_give(stem: str) -> None:
    """Of the keys within a name the longest counts alone."""
    keys = {"relative_position_bias_table": (1.0, 0.0), "norm": (1.0, 0.0), "backbone": (0.1, 1.0)}
    came = rates(SWIN, stem)
    for name, factors in came.items():
        theirs = name.replace("head.", "cls_head.fc_cls.") if name.startswith("head.") else f"backbone.{name}"
        found = [key for key in sorted(keys, key=len, reverse=True) if key in theirs]
        assert factors == (keys[found[0]] if found else (1.0, 1.0)), name
    assert len(set(came.values())) == 3


def test_slow_only_has_no_rules() -> None:
    assert all("parameter_rules" not in options(SLOW_ONLY, stem, "model") for stem in CHAIN)


@each_recipe
def test_the_readme_lists_files_costs_and_the_papers_figures(recipe: Recipe) -> None:
    section = (
        (ROOT / "configs/README.md").read_text().partition("## Cross-resolution distillation: the papers' recipes")[2]
    )
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith(f"| `{recipe[0]}/")]
    for stem, costs in zip(CHAIN, (GIGA[recipe][0], *[GIGA[recipe][1]] * 2), strict=True):
        (row,) = (row for row in rows if row.startswith(f"| `{recipe[0]}/{stem}{recipe[1]}.yaml` "))
        assert f"| {costs} |" in row
        (figure,) = re.findall(r"# Result +not measured(?:; [^:]*:(?: mAP| top-1)? ([\d.]+))?", text(recipe, stem))
        assert re.findall(r"^[\d.]+", row.split("|")[4].strip()) == [figure] * bool(figure)
