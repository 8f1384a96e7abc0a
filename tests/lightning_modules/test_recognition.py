"""One network on one stream: losses, views, checks, checkpoints that rebuild, runs on one rank and on two."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.clip import ClipBatch
from datamodules.failure import Failure
from lightning_modules.checkpoints import load_network
from lightning_modules.networks import resnet10
from lightning_modules.parameter_rules import ParameterRule
from lightning_modules.recognition import RecognitionModule


def make_batch(
    num_videos: int = 4, *, num_views: int = 1, channels: int = 2, seed: int = 0, labels: Tensor | None = None
) -> ClipBatch:
    generator = torch.Generator().manual_seed(seed)
    return ClipBatch(
        streams={"mv": torch.randn(num_videos * num_views, 2, channels, 32, 32, generator=generator)},
        labels=torch.arange(num_videos) % 3 if labels is None else labels,
        indices=torch.arange(num_videos) + 100 * seed,
        paths=[f"{seed}-{i}.mp4" for i in range(num_videos)],
        seconds=torch.full((num_videos,), 0.5, dtype=torch.float64),
        corrupt_frames=torch.zeros(num_videos, dtype=torch.int64),
        substituted=torch.zeros(num_videos, dtype=torch.bool),
        failures=[Failure("bad.mp4", "bad")] * (num_videos == 0),
        num_views=num_views,
    )


class Clips(LightningDataModule):
    """Three batches of four random clips, and for evaluation one without videos among them."""

    streams = ("mv",)

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes

    def state_dict(self) -> dict[str, Any]:
        return {"classes": [f"class{i}" for i in range(self.num_classes)]}

    def train_dataloader(self) -> DataLoader:
        return loader([make_batch(seed=seed) for seed in (1, 2, 3)])

    def val_dataloader(self) -> DataLoader:
        return loader([make_batch(seed=4), make_batch(0), make_batch(2, seed=5, num_views=3)])

    test_dataloader = predict_dataloader = val_dataloader


def loader(batches: list[ClipBatch]) -> DataLoader:
    return DataLoader(batches, batch_size=None)


def make_module(**options: Any) -> RecognitionModule:
    torch.manual_seed(0)
    network = options.pop("network", None) or resnet10(3, 2, width=4, input_norm=True)
    options = {"optimizer": partial(torch.optim.SGD, lr=0.01), "stream": "mv"} | options
    return RecognitionModule(network, **options)


def make_trainer(tmp_path: Path, **options: Any) -> Trainer:
    defaults = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    return Trainer(default_root_dir=tmp_path, enable_model_summary=False, **defaults | options)


def test_fit_validate_test_and_predict(tmp_path: Path) -> None:
    module = make_module()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = make_trainer(tmp_path, num_sanity_val_steps=1)
    trainer.fit(module, Clips())
    logged = trainer.callback_metrics
    assert {"train/loss", "train/loss/cross_entropy", "train/top1"} <= logged.keys()
    assert {"val/loss", "val/top1", "val/top5", "val/num_videos"} <= logged.keys()
    assert logged["val/num_videos"] == 6
    assert not torch.equal(module.network.conv1.weight, before["network.conv1.weight"])
    (tested,) = trainer.test(module, Clips(), verbose=False)
    assert tested["test/top1"] == pytest.approx(logged["val/top1"].item())
    predictions = trainer.predict(module, Clips())
    assert [tuple(p.logits.shape) for p in predictions] == [(4, 3), (0, 3), (2, 3)]
    assert [str(failure) for failure in predictions[1].failures] == ["bad.mp4: bad"]
    assert predictions[0].paths[3] == "4-3.mp4"
    assert predictions[0].seconds.tolist() == [0.5] * 4


def test_a_step_outside_of_a_trainer_is_a_plain_one() -> None:
    module = make_module()
    batch = next(iter(Clips().train_dataloader()))
    expected = torch.nn.functional.cross_entropy(module(batch), batch.labels)
    torch.testing.assert_close(module.training_step(batch, 0), expected)


def test_validation_equals_a_plain_evaluation(tmp_path: Path) -> None:
    module = make_module().eval()
    logits, labels = [], []
    with torch.no_grad():
        for batch in Clips().val_dataloader():
            for video in range(len(batch)):  # one video at a time, its views averaged by hand
                views = batch.streams["mv"][video * batch.num_views : (video + 1) * batch.num_views]
                logits.append(sum(module.network(view[None])[0] for view in views) / batch.num_views)
            labels.append(batch.labels)
    stacked = torch.stack(logits)
    (came,) = make_trainer(tmp_path).validate(module, Clips(), verbose=False)
    assert came["val/loss"] == pytest.approx(F.cross_entropy(stacked, torch.cat(labels)).item(), rel=1e-5)
    assert came["val/top1"] == pytest.approx((stacked.argmax(1) == torch.cat(labels)).float().mean().item())


def test_one_step_equals_plain_pytorch(tmp_path: Path) -> None:
    module = make_module(parameter_rules=[ParameterRule("fc.*", lr=10)], label_smoothing=0.1)
    reference = resnet10(3, 2, width=4, input_norm=True)
    reference.load_state_dict(module.network.state_dict())
    batch = make_batch(seed=1)
    log_probabilities = reference(batch.streams["mv"]).log_softmax(1)
    targets = F.one_hot(batch.labels, 3) * 0.9 + 0.1 / 3
    (-(targets * log_probabilities).sum(1).mean()).backward()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            parameter -= (0.1 if name.startswith("fc") else 0.01) * parameter.grad
    make_trainer(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(module, Clips())
    torch.testing.assert_close(dict(module.network.named_parameters()), dict(reference.named_parameters()))


def test_soft_and_hard_labels_agree() -> None:
    module, logits, labels = make_module(), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    hard, soft = module.losses(logits, labels), module.losses(logits, F.one_hot(labels, 3).float())
    torch.testing.assert_close(hard, soft)


def test_multi_label_loss_and_metrics(tmp_path: Path) -> None:
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1]])
    module = make_module(multi_label=True)
    logits = torch.randn(4, 3, dtype=torch.float64)
    expected = -(labels * logits.sigmoid().log() + (1 - labels) * (1 - logits.sigmoid()).log()).mean()
    assert module.losses(logits, labels)["binary_cross_entropy"].item() == pytest.approx(expected.item())
    trainer = make_trainer(tmp_path)
    trainer.fit(module, loader([make_batch(labels=labels)]), loader([make_batch(labels=labels), make_batch(0)]))
    assert {"val/mAP", "val/loss", "train/loss/binary_cross_entropy"} <= trainer.callback_metrics.keys()


def test_several_labels_under_one_softmax(tmp_path: Path) -> None:
    """As ResKD's code has them: a sum over a video's labels, so that each weighs as a single one would."""
    labels = torch.tensor([[1, 0, 1], [0, 1, 0]])
    module = make_module(multi_label=True, multi_label_loss="softmax")
    logits = torch.tensor([[1.0, 2.0, 4.0], [0.0, 3.0, 0.0]])
    odds = logits.double().exp()
    chances = odds / odds.sum(1, keepdim=True)
    expected = -(chances[0, 0].log() + chances[0, 2].log() + chances[1, 1].log()) / 2
    assert module.losses(logits, labels)["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-6)
    (target,) = module.analysis_targets().values()
    assert target.loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    with pytest.raises(ValueError, match="`multi_label_loss`: expected binary or softmax, came 'hinge'"):
        make_module(multi_label=True, multi_label_loss="hinge")


def test_label_smoothing_with_several_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="`label_smoothing: 0` with `multi_label: true`"):
        make_module(multi_label=True, label_smoothing=0.1)


def test_loss_is_float32_under_bf16(tmp_path: Path) -> None:
    module = make_module()
    seen = []
    module.losses = lambda logits, labels: seen.append(logits) or type(module).losses(module, logits, labels)
    make_trainer(tmp_path, precision="bf16-mixed").fit(module, Clips())
    assert {logits.dtype for logits in seen} == {torch.float32}


def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_weights(tmp_path: Path) -> None:
    module = make_module(freeze_batch_norm=True)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    make_trainer(tmp_path, max_epochs=2).fit(module, Clips())
    for name, value in module.state_dict().items():
        is_statistic = "running" in name or "num_batches" in name
        assert torch.equal(value, before[name]) == is_statistic, name


def test_scheduler_interval_and_groups(tmp_path: Path) -> None:
    scheduler = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    module = make_module(lr_scheduler=scheduler, lr_interval="step", parameter_rules=[ParameterRule("fc.*", lr=10)])
    trainer = make_trainer(tmp_path)
    trainer.fit(module, Clips())
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == pytest.approx([0.1 / 8, 0.01 / 8])


@pytest.mark.parametrize(
    ("module", "data", "message"),
    [
        ({}, Clips(5), r"the data has 5 classes, the network 3.*num_classes: 5.*model\.init_args\.network`"),
        ({"stream": "flow"}, Clips(), r"needs stream 'flow', the data gives \['mv'\].*data\.streams"),
        ({"network": resnet10(3, 3, width=4)}, Clips(), r"'mv' has 2 channels, the network takes 3.*in_channels: 2"),
        ({"network": nn.Linear(2, 3)}, Clips(), "int attribute `num_classes`, came Linear"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, module: dict[str, Any], data: Clips, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path).fit(make_module(**module), data)


def test_unlabelled_videos_are_refused_in_training_only(tmp_path: Path) -> None:
    batches = loader([make_batch(labels=torch.tensor([0, 1, -1, 2]))])
    with pytest.raises(ValueError, match=r"0-2\.mp4: no label"):
        make_trainer(tmp_path).fit(make_module(), batches)
    assert len(make_trainer(tmp_path).predict(make_module(), batches)) == 1


@pytest.mark.parametrize(
    ("multi_label", "labels", "message"),
    [
        (True, torch.arange(4) % 3, r"came one label each \(B,\); set `model\.init_args\.multi_label: false`"),
        (False, torch.tensor([[1, 0, 1]] * 4), r"came several labels each \(4, 3\); set .*multi_label: true`"),
    ],
)
@pytest.mark.parametrize("verb", ["fit", "validate", "test"])
def test_data_with_one_label_and_with_several_are_told_apart(
    tmp_path: Path, verb: str, multi_label: bool, labels: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(make_trainer(tmp_path), verb)(make_module(multi_label=multi_label), loader([make_batch(labels=labels)]))


def test_predicting_does_not_ask_for_the_networks_classes(tmp_path: Path) -> None:
    class Unlabelled(Clips):
        @property
        def num_classes(self) -> int:
            raise ValueError("no annotations")

        @num_classes.setter
        def num_classes(self, _: int) -> None:
            pass

    assert make_trainer(tmp_path).predict(make_module(), Unlabelled())


# Checkpoints


CONFIG = """
model:
  class_path: lightning_modules.recognition.RecognitionModule
  init_args:
    network:
      class_path: lightning_modules.networks.resnet10
      init_args: {num_classes: 4, in_channels: 2, width: 4, weights: WEIGHTS}
    stream: mv
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.01}}
    lr_scheduler: {class_path: torch.optim.lr_scheduler.MultiStepLR, init_args: {milestones: [1]}}
    parameter_rules:
      - {pattern: fc.*, lr: 10}
trainer: {max_epochs: 1, accelerator: cpu, logger: false, enable_progress_bar: false, enable_model_summary: false}
"""


def run_cli(tmp_path: Path, *arguments: str) -> LightningCLI:
    weights = tmp_path / "start.pth"
    torch.save(resnet10(4, 2, width=4).state_dict(), weights)
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.replace("WEIGHTS", str(weights)))
    return LightningCLI(
        LightningModule,
        Clips,
        subclass_mode_model=True,
        save_config_callback=None,
        parser_kwargs={"parser_mode": "omegaconf"},
        args=["fit", f"--config={config}", f"--trainer.default_root_dir={tmp_path}", *arguments],
    )


def test_checkpoints_of_the_command_line_rebuild_by_themselves(tmp_path: Path) -> None:
    cli = run_cli(
        tmp_path,
        "--model.init_args.network.init_args.num_classes=3",
        "--model.init_args.parameter_rules=[{pattern: .*bias, weight_decay: 0}]",
    )
    assert [rule.pattern for rule in cli.model.parameter_rules] == [".*bias"]
    (tmp_path / "start.pth").unlink()
    path = cli.trainer.checkpoint_callback.best_model_path
    rebuilt = RecognitionModule.load_from_checkpoint(path, weights_only=True)
    assert rebuilt.num_classes == 3
    assert rebuilt.parameter_rules == cli.model.parameter_rules
    batch = make_batch()
    with torch.no_grad():
        torch.testing.assert_close(rebuilt.eval()(batch), cli.model.eval()(batch), rtol=0, atol=0)
    trained = load_network(path)
    assert (trained.stream, trained.classes) == ("mv", ["class0", "class1", "class2"])
    torch.testing.assert_close(trained.network.state_dict(), cli.model.network.state_dict(), rtol=0, atol=0)
    hparams = torch.load(path, weights_only=True)["hyper_parameters"]
    assert hparams["network"]["init_args"]["weights"] is None
    assert cli.model.hparams["network"]["init_args"]["weights"] is not None


def test_checkpoints_of_plain_python_rebuild_with_their_network(tmp_path: Path) -> None:
    module, trainer = make_module(label_smoothing=0.1), make_trainer(tmp_path)
    trainer.fit(module, Clips())
    network = resnet10(3, 2, width=4, input_norm=True)
    rebuilt = RecognitionModule.load_from_checkpoint(
        trainer.checkpoint_callback.best_model_path, weights_only=True, network=network
    )
    assert (rebuilt.stream, rebuilt.label_smoothing) == ("mv", 0.1)
    torch.testing.assert_close(rebuilt.network.state_dict(), module.network.state_dict())
