"""Cross-resolution distillation: a step by hand, a teacher that stays as it is, checkpoints without it, refusals."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.clip import ClipBatch
from lightning_modules.checkpoints import TrainedNetwork, load_network
from lightning_modules.cross_resolution import CrossResolutionModule
from lightning_modules.frozen_teacher import FrozenTeacher
from lightning_modules.losses import PositionLogitMatching
from lightning_modules.networks import resnet10, video_swin_t
from lightning_modules.networks.taps import Taps

CONFIG = {"class_path": "lightning_modules.networks.resnet10", "init_args": {"num_classes": 2, "width": 4}}


def make_batch(seed: int) -> ClipBatch:
    high = torch.randn(4, 2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    return ClipBatch(
        streams={"iframe": F.avg_pool3d(high, (1, 2, 2)), "iframe_high": high},
        labels=torch.arange(4) % 2,
        indices=torch.arange(4),
        paths=[f"{seed}/{i}.mp4" for i in range(4)],
        seconds=torch.zeros(4, dtype=torch.float64),
        corrupt_frames=torch.zeros(4, dtype=torch.int64),
        substituted=torch.zeros(4, dtype=torch.bool),
    )


class Clips(LightningDataModule):
    num_classes = 2

    def __init__(self, streams: tuple[str, ...] = ("iframe", "iframe_high"), classes: Any = None) -> None:
        super().__init__()
        self.streams, self.classes = streams, classes or []

    def train_dataloader(self) -> DataLoader:
        return DataLoader([make_batch(seed) for seed in range(3)], batch_size=None)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


@pytest.fixture
def teacher(tmp_path: Path, save_network: Callable[..., str]) -> str:
    return save_network(tmp_path, "iframe")


def make_module(teacher: str, **options: Any) -> CrossResolutionModule:
    torch.manual_seed(3)
    options = {"optimizer": partial(torch.optim.SGD, lr=0.01)} | options
    return CrossResolutionModule(resnet10(2, 3, width=4), "iframe", teacher, **options)


def make_trainer(tmp_path: Path, **options: Any) -> Trainer:
    quiet: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(default_root_dir=tmp_path, accelerator="cpu", **{"max_epochs": 1, **quiet, **options})


def by_hand(network: nn.Module, source: str, batch: ClipBatch, weight: float) -> Tensor:
    """Cross-entropy and weighted feature distance of one batch."""
    last = load_network(source).network.forward_features(batch.streams["iframe_high"])["layer4"]
    own = network.forward_features(batch.streams["iframe"])["layer4"]
    up = F.interpolate(own.flatten(0, 1), last.shape[-2:], mode="bilinear", align_corners=False)
    distance = (up.unflatten(0, (4, 2)) - last.detach()).square().mean()
    logits = own.mean((3, 4)) @ network.fc.weight.T + network.fc.bias
    return F.cross_entropy(logits.mean(1), batch.labels) + weight * distance


def test_several_labels_are_learned_as_a_recognition_module_does(teacher: str) -> None:
    module = make_module(teacher, multi_label=True, multi_label_loss="softmax")
    logits, labels = torch.randn(3, 2), torch.tensor([[1, 1], [0, 1], [0, 0]])
    expected = -(labels * logits.log_softmax(1)).sum() / 3
    torch.testing.assert_close(module.losses(logits, labels), {"cross_entropy": expected})


def test_one_step_equals_plain_pytorch(tmp_path: Path, teacher: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = make_module(teacher)
    reference = make_module(teacher).network
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(module, Clips())
    loss = by_hand(reference, teacher, make_batch(0), 100.0)
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    parts = [trainer.callback_metrics[f"train/loss/{term}"].item() for term in ("cross_entropy", "feature")]
    assert sum(parts) == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    for (name, parameter), ours in zip(reference.named_parameters(), module.network.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter - 0.01 * parameter.grad, msg=name, rtol=1e-4, atol=1e-5)
    assert f"teacher {teacher}: 100 x squared error of the last maps, mean over all elements" in capsys.readouterr().out


@pytest.mark.parametrize("norm", ["eval", "batch-statistics", "unfrozen"])
def test_weights_of_the_teacher_never_change_and_statistics_by_policy(tmp_path: Path, teacher: str, norm: Any) -> None:
    module = make_module(teacher, teacher_norm=norm)
    make_trainer(tmp_path).fit(module, Clips())
    before = load_network(teacher).network
    after = module.teacher.network
    for (name, value), came in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(value, came), name
        assert not came.requires_grad
    changed = {n for (n, v), c in zip(before.named_buffers(), after.buffers(), strict=True) if not torch.equal(v, c)}
    assert changed == (set(dict(before.named_buffers())) if norm == "unfrozen" else set())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_any_precision(tmp_path: Path, teacher: str, precision: Any) -> None:
    module = make_module(teacher)
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=0, precision=precision)
    trainer.fit(module, Clips())
    expected = by_hand(make_module(teacher).network, teacher, make_batch(0), 100.0).item()
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("norm", ["batch-statistics", "unfrozen"])
def test_statistics_of_the_batch(teacher: str, norm: Any) -> None:
    clip = make_batch(1).streams["iframe_high"]
    network = load_network(teacher).network.train()
    expected = network.forward_features(clip)["layer4"]
    came = FrozenTeacher(load_network(teacher), norm)(clip).features
    torch.testing.assert_close(came, expected)
    assert not torch.allclose(came, load_network(teacher).network.forward_features(clip)["layer4"], atol=1e-3)
    assert not came.requires_grad


def test_checkpoints_know_nothing_of_the_teacher(tmp_path: Path, teacher: str) -> None:
    module = make_module(teacher)
    trainer = make_trainer(tmp_path)
    trainer.fit(module, Clips())
    path = tmp_path / "student.ckpt"
    trainer.save_checkpoint(path)
    names = torch.load(path)["state_dict"]
    assert {name.split(".")[0] for name in names} == {"network"}
    assert len(names) == len(module.network.state_dict())
    Path(teacher).unlink()
    fresh = make_module(teacher)
    (metrics,) = make_trainer(tmp_path).test(fresh, Clips(streams=("iframe",)), ckpt_path=path, verbose=False)
    assert metrics["test/num_videos"] == 12


def test_smaller_models_alone_and_positions(tmp_path: Path, teacher: str) -> None:
    """Teacher and student may see the same frames; another loss may be injected."""
    module = make_module(teacher, teacher_stream="iframe", matching=PositionLogitMatching())
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=0)
    reference = make_module(teacher).network.train()
    expected = PositionLogitMatching()(
        Taps.of(reference, make_batch(0).streams["iframe"]),
        Taps.of(load_network(teacher).network, make_batch(0).streams["iframe"]),
    )
    trainer.fit(module, Clips(streams=("iframe",)))
    came = trainer.callback_metrics["train/loss/position_logits"].item()
    assert came == pytest.approx(expected.item(), rel=1e-5)


class TestRefusals:
    """Before the first step, naming the key."""

    def refused(self, tmp_path: Path, module: CrossResolutionModule, message: str, data: Clips | None = None) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            make_trainer(tmp_path, num_sanity_val_steps=0).fit(module, data or Clips())
        assert module.trainer.global_step == 0

    def test_missing_teacher(self, tmp_path):
        self.refused(tmp_path, make_module("gone.ckpt"), r"no such checkpoint: gone.ckpt; .*`model.init_args.teacher`")

    def test_teacher_of_other_classes(self, tmp_path, save_network):
        source = save_network(tmp_path, "iframe", num_classes=3)
        self.refused(tmp_path, make_module(source), r"`model.init_args.teacher`: expected 2 classes, .* came 3")

    def test_teacher_of_another_stream(self, tmp_path, save_network):
        source = save_network(tmp_path, "residual")
        message = r"`model.init_args.teacher`: expected a network trained on stream 'iframe' .* came one on 'residual'"
        self.refused(tmp_path, make_module(source), message)

    def test_teacher_of_several_labels(self, tmp_path, save_network):
        source = save_network(tmp_path, "iframe", multi_label=True)
        self.refused(tmp_path, make_module(source), r"`multi_label: False`, came one on 'iframe' with `multi_label: Tr")

    def test_batches_that_a_teacher_does_not_normalise_by(self):
        network = video_swin_t(2)
        source = TrainedNetwork(network, {}, "rgb", [], False)
        with pytest.raises(
            ValueError, match=r"`model.init_args.teacher_norm: unfrozen`: expected a teacher with Batch"
        ):
            FrozenTeacher(source, "unfrozen")

    def test_data_without_the_high_view(self, tmp_path, teacher):
        self.refused(tmp_path, make_module(teacher), r"stream 'iframe_high', the data gives", Clips(("iframe",)))

    def test_maps_of_other_channels(self, tmp_path, teacher):
        module = CrossResolutionModule(resnet10(2, 3, width=8), "iframe", teacher)
        self.refused(tmp_path, module, r"64 channels on a grid of 1x1 of the student .* 32 channels on a grid of 2x2")

    def test_another_norm_policy(self, tmp_path, teacher):
        module = make_module(teacher, teacher_norm="train")
        self.refused(tmp_path, module, r"`model.init_args.teacher_norm`: expected eval, batch-statistics or unfrozen")

    def test_a_network_without_depths(self, teacher):
        network = nn.Flatten()
        network.num_classes = 2
        with pytest.raises(ValueError, match="expected a network with depths"):
            CrossResolutionModule(network, "iframe", teacher)


def test_a_student_is_a_backbone_of_progressive_distillation(
    tiny_config: Path, tmp_path: Path, save_network: Callable[..., str], streamkd: Callable[..., int | None]
) -> None:
    """By the command line: a student, whose teacher is gone from then on, exits on it, their weights; lazily too."""
    config = yaml.safe_load(tiny_config.read_text())
    student = {"class_path": "lightning_modules.networks.resnet10", "init_args": {"num_classes": 2, "width": 4}}
    sources = {stream: save_network(tmp_path, stream) for stream in ("iframe", "residual")}
    reskd = {"network": student, "stream": "iframe", "teacher": sources["iframe"]}
    stages = {"class_path": "callbacks.ProgressiveStages", "init_args": {"teachers": ["residual", "iframe"]}}
    networks = {"residual": sources["residual"], "iframe": str(tmp_path / "reskd/checkpoints/best.ckpt")}
    pkd = {"networks": networks, "exits": "linear", "stages": stages}
    wise = {"exits": str(tmp_path / "pkd/checkpoints/best.ckpt"), "order": ["iframe", "residual"]}
    runs = {
        "reskd": ("cross_resolution.CrossResolutionModule", reskd, ["iframe"]),
        "pkd": ("progressive_distillation.ProgressiveDistillationModule", pkd, ["residual", "iframe"]),
        "wise": ("weighted_inference.WeightedInferenceModule", wise, ["residual", "iframe"]),
    }
    for name, (module, options, streams) in runs.items():
        config["run_dir"] = str(tmp_path / name)
        config["model"] = {"class_path": f"lightning_modules.{module}", "init_args": options}
        config["data"]["init_args"] |= {"streams": streams, "low_resolution": {"size": 16}}
        tiny_config.write_text(yaml.safe_dump(config))
        assert streamkd("fit", "--config", tiny_config) == 0
        Path(sources["iframe"]).unlink(missing_ok=True)
    assert torch.load(tmp_path / "wise/checkpoints/best.ckpt")["exit_networks"]["sizes"] == {"iframe": (16, 16)}
    trained = torch.load(tmp_path / "reskd/checkpoints/best.ckpt")["state_dict"]
    deployed = torch.load(tmp_path / "wise/checkpoints/best.ckpt")["state_dict"]
    for key, value in trained.items():
        assert torch.equal(value, deployed[key.replace("network.", "networks.networks.iframe.backbone.", 1)]), key
    results = []
    for lazy in ("false", "true"):
        assert streamkd("test", "--config", tiny_config, "--data.lazy", lazy, "--model.threshold", 0.6) == 0
        results.append(json.loads((tmp_path / "wise" / "test.json").read_text())["metrics"])
    for key, value in results[1].items():
        assert results[0][key] == pytest.approx(value, abs=1e-6), key
