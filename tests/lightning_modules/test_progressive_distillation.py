"""Progressive distillation: the loss in float64, frozen networks, one forward each, options, whole checkpoints.

All of it on three networks, and on a TEAM-Net (see the fixture ``family``).
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks import ProgressiveStages
from datamodules.clip import ClipBatch
from lightning_modules.exit_networks import load_exit_networks
from lightning_modules.losses import SoftTargetLoss
from lightning_modules.networks import EarlyExitNetwork
from lightning_modules.progressive_distillation import ProgressiveDistillationModule

TEAM = "iframe+mv+residual"
CHANNELS = {"mv": 2, "residual": 3, "iframe": 3, TEAM: 8}
Stages = list[str]


def make_batch(seed: int, *, num_videos: int = 4, num_views: int = 1) -> ClipBatch:
    random = torch.Generator().manual_seed(seed)
    count = num_videos * num_views
    return ClipBatch(
        streams={s: torch.randn(count, 2, c, 32, 32, generator=random) for s, c in CHANNELS.items()},
        labels=torch.randint(2, (num_videos,), generator=random),
        indices=torch.arange(num_videos),
        paths=[f"{seed}/{i}.mp4" for i in range(num_videos)],
        seconds=torch.zeros(num_videos, dtype=torch.float64),
        corrupt_frames=torch.zeros(num_videos, dtype=torch.int64),
        substituted=torch.zeros(num_videos, dtype=torch.bool),
        num_views=num_views,
    )


class Clips(LightningDataModule):
    streams = tuple(CHANNELS)
    num_classes = 2

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        vars(self).update(attributes)

    def train_dataloader(self) -> DataLoader:
        return DataLoader([make_batch(seed) for seed in range(3)], batch_size=None)

    def val_dataloader(self) -> DataLoader:
        batches = [make_batch(3), make_batch(4, num_videos=0), make_batch(5, num_views=2)]
        return DataLoader(batches, batch_size=None)

    test_dataloader = predict_dataloader = val_dataloader


@pytest.fixture
def sources(tmp_path: Path, save_network: Callable[..., str], family: Any) -> dict[str, str]:
    return {stream: save_network(tmp_path, stream) for stream in family.streams}


@pytest.fixture
def build(sources: dict[str, str], family: Any) -> Callable[..., ProgressiveDistillationModule]:
    """A module before its run."""

    def build(stages: Stages | None = None, **options: Any) -> ProgressiveDistillationModule:
        callback = ProgressiveStages(["mv", "residual", "iframe"] if stages is None else stages)
        options = {"networks": sources, "exits": family.layout} | options
        return ProgressiveDistillationModule(stages=callback, **options)

    return build


def make_trainer(tmp_path: Path, max_epochs: int = 3, *callbacks: Callback, **options: Any) -> Trainer:
    return Trainer(
        default_root_dir=tmp_path,
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **options,
    )


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """In float64, term by term, over videos and classes."""
    student, teacher = student.double() / temperature, teacher.double() / temperature
    p = teacher.exp() / teacher.exp().sum(1, keepdim=True)
    q = student.exp() / student.exp().sum(1, keepdim=True)
    return sum(-(p[b, c] * q[b, c].log()) for b in range(len(p)) for c in range(p.shape[1])) / len(p)


@pytest.fixture
def distilled(build: Callable[..., ProgressiveDistillationModule], tmp_path: Path) -> ProgressiveDistillationModule:
    """A module whose exits have learned a little, so that they differ."""
    module = build(["mv"])
    make_trainer(tmp_path, 1).fit(module, Clips())
    return module.eval()


class TestLoss:
    @pytest.mark.parametrize("teacher", ["mv", "residual", "iframe", "own"])
    def test_equals_the_closed_form_over_all_exits(self, distilled, teacher, family):
        batch = make_batch(9)
        distilled.teacher = teacher
        logits = distilled(batch)
        assert [*distilled.networks.output_names] == family.output_names
        expected = 0
        for place in family.students:
            stream = family.output_names[place].split("/")[0]
            taught_by = logits[:, family.teacher(stream if teacher == "own" else teacher)]
            expected += soft_cross_entropy(logits[:, place], taught_by)
        (found,) = distilled.losses(logits, batch.labels).values()
        torch.testing.assert_close(found.double(), expected)

    def test_the_own_classifiers_are_those_of_the_sources(self, distilled, sources, family):
        batch = make_batch(9)
        for stream, network in distilled.networks.networks.items():
            state = torch.load(sources[stream])["state_dict"]
            for name, value in network.backbone.state_dict().items():
                torch.testing.assert_close(value, state[f"network.{name}"], rtol=0, atol=0)
            pooled = network.backbone.forward_features(batch.streams[stream])["layer4"].mean((3, 4))
            joined = getattr(network.backbone, "streams", {stream: network.backbone})
            parts = pooled.split([part.fc.in_features for part in joined.values()], dim=2)
            logits = {
                name: (pooled @ part.fc.weight.T + part.fc.bias).mean(1)
                for (name, part), pooled in zip(joined.items(), parts, strict=True)
            }
            for name, expected in {**logits, stream: sum(logits.values())}.items():
                torch.testing.assert_close(distilled(batch)[:, family.teacher(name)], expected)

    def test_labels_may_teach(self, distilled, family):
        batch = make_batch(9)
        distilled.teacher = "labels"
        logits = distilled(batch)
        students = logits[:, family.students].double()
        expected = -students.log_softmax(2)[torch.arange(4), :, batch.labels].mean(0).sum()
        (found,) = distilled.losses(logits, batch.labels).values()
        torch.testing.assert_close(found.double(), expected)

    def test_temperature_and_hard_labels_are_the_loss_functions(self, distilled, family):
        batch = make_batch(9)
        distilled.teacher = "iframe"
        distilled.loss = SoftTargetLoss(3.0, temperature_squared=True, hard_label_weight=0.5)
        logits = distilled(batch)
        students, teacher = logits[:, family.students], logits[:, family.teacher("iframe")]
        soft = sum(9 * soft_cross_entropy(student, teacher, 3.0) for student in students.unbind(1))
        hard = -0.5 * students.double().log_softmax(2)[torch.arange(4), :, batch.labels].mean(0).sum()
        found = distilled.losses(logits, batch.labels)
        torch.testing.assert_close(found["soft_target"].double(), soft)
        torch.testing.assert_close(found["hard_label"].double(), hard)


def test_flatness_is_measured_of_networks_and_of_their_internal_classifiers(distilled, family):
    targets = distilled.analysis_targets()
    assert [*targets] == [name for stream in family.streams for name in (stream, f"{stream}/exits")]
    stream, batch = family.streams[-1], make_batch(9)
    target = targets[f"{stream}/exits"]
    logits = target.model(batch.streams[stream])
    expected = torch.stack([F.cross_entropy(logits[:, k], batch.labels) for k in range(3)]).mean()
    torch.testing.assert_close(target.loss(logits, batch.labels), expected)
    learning = {name for name, parameter in target.model.named_parameters() if parameter.requires_grad}
    assert set(target.parameters) == learning


class TestRun:
    def test_backbones_stay_bit_identical_and_exits_learn(self, build, tmp_path, sources):
        before: dict[str, Tensor] = {}

        class Watch(Callback):
            def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
                before.update({name: p.detach().clone() for name, p in pl_module.networks.named_parameters()})

        module = build()
        trainer = make_trainer(tmp_path, 3, Watch())
        trainer.fit(module, Clips())
        for name, parameter in module.networks.named_parameters():
            assert torch.equal(parameter, before[name]) == ("backbone" in name), name
        for stream, network in module.networks.networks.items():
            state = torch.load(sources[stream])["state_dict"]
            for name, value in network.backbone.state_dict().items():
                torch.testing.assert_close(value, state[f"network.{name}"], rtol=0, atol=0)
            assert not any(parameter.requires_grad for parameter in network.backbone.parameters())
        in_optimizer = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
        learning = {id(p) for n in module.networks.networks.values() for p in n.classifiers.parameters()}
        assert in_optimizer == learning

    def test_each_network_runs_forward_once_a_step(self, build, tmp_path, monkeypatch, family):
        calls: list[str] = []
        forward = EarlyExitNetwork.forward_stage
        monkeypatch.setattr(EarlyExitNetwork, "forward_stage", lambda n, *a: calls.append(a[0]) or forward(n, *a))
        make_trainer(tmp_path, limit_val_batches=0).fit(build(), Clips())
        assert calls.count("stem") == calls.count("layer4") == len(family.streams) * 3 * 3, "networks, epochs, steps"

    @pytest.mark.parametrize(
        "stages", [["mv", "residual", "own"], ["iframe", "residual", "mv"], ["iframe"], ["labels"]]
    )
    def test_any_order_of_teachers(self, build, tmp_path, stages):
        seen: list[str] = []

        class Watch(Callback):
            def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
                seen.append(pl_module.teacher)

        module = build(stages)
        trainer = make_trainer(tmp_path, len(stages), Watch())
        trainer.fit(module, Clips())
        assert seen == stages
        term = "hard_label" if stages[-1] == "labels" else "soft_target"
        assert trainer.callback_metrics[f"train/loss/{term}"] == trainer.callback_metrics["train/loss"]

    @pytest.mark.parametrize("restart", [True, False])
    def test_the_learning_rate_restarts_or_goes_on(self, sources, tmp_path, restart):
        rates: list[float] = []

        class Watch(Callback):
            def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
                rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        module = ProgressiveDistillationModule(
            sources,
            ProgressiveStages(["mv", "iframe"], [2, 3], restart_lr=restart),
            optimizer=lambda groups: torch.optim.SGD(groups, 0.1),
            lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
        )
        make_trainer(tmp_path, 5, Watch()).fit(module, Clips())
        powers = [0, 1, 0, 1, 2] if restart else range(5)
        assert rates == pytest.approx([0.1 * 0.5**power for power in powers for _ in range(3)])

    def test_accuracies_of_all_exits_over_the_whole_split(self, distilled, tmp_path, family):
        trainer = make_trainer(tmp_path)
        (metrics,) = trainer.validate(distilled, Clips(), verbose=False)
        batches = [make_batch(3), make_batch(5, num_views=2)]
        logits = torch.cat([distilled(batch) for batch in batches])
        labels = torch.cat([batch.labels for batch in batches])
        correct = (logits.argmax(2) == labels[:, None]).double().mean(0)
        names = distilled.networks.output_names
        assert [metrics[f"val/top1/{name}"] for name in names] == pytest.approx(correct.tolist())
        assert metrics["val/top1"] == pytest.approx(correct[family.students].mean().item())
        losses = [-logits[i].double().log_softmax(1)[family.students, labels[i]].mean() for i in range(8)]
        assert metrics["val/loss"] == pytest.approx(sum(losses).item() / 8, rel=1e-5)
        assert metrics["val/num_videos"] == 8


class TestCheckpoint:
    def test_is_whole(self, distilled, tmp_path, sources, build):
        path = str(tmp_path / "pkd.ckpt")
        trainer = make_trainer(tmp_path)
        trainer.fit(distilled, Clips())
        trainer.save_checkpoint(path)
        for source in sources.values():
            Path(source).unlink()
        whole = load_exit_networks(path, key="`exits`").networks.eval()
        batch = make_batch(9)
        torch.testing.assert_close(whole.outputs(batch.streams), distilled.eval()(batch), rtol=0, atol=0)
        (metrics,) = make_trainer(tmp_path).test(build(), Clips(), ckpt_path=path, verbose=False)
        assert metrics["test/num_videos"] == 8

    def test_another_checkpoint_is_refused(self, sources):
        with pytest.raises(ValueError, match=r"expected a checkpoint of a ProgressiveDistillationModule \(`exits`\)"):
            load_exit_networks(next(iter(sources.values())), key="`exits`")

    def test_other_streams_are_refused(self, distilled, tmp_path, save_network):
        trainer = make_trainer(tmp_path)
        trainer.fit(distilled, Clips())
        trainer.save_checkpoint(tmp_path / "pkd.ckpt")
        module = ProgressiveDistillationModule({"flow": save_network(tmp_path, "flow")})
        with pytest.raises(ValueError, match=r"init_args.networks` names"):
            make_trainer(tmp_path).test(module, Clips(), ckpt_path=tmp_path / "pkd.ckpt", verbose=False)


class TestRefusals:
    """Before the first step, naming the key."""

    def refused(self, tmp_path: Path, module: ProgressiveDistillationModule, message: str, **data: Any) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            make_trainer(tmp_path).fit(module, Clips(**data))
        assert module.trainer.global_step == 0

    def test_missing_checkpoint(self, build, tmp_path, sources, family):
        module = build(networks=sources | {family.streams[0]: "gone.ckpt"})
        self.refused(tmp_path, module, r"no such checkpoint: gone.ckpt; .*`model.init_args.networks`")

    def test_no_checkpoint(self, build, tmp_path):
        self.refused(tmp_path, build(["own"], networks={}), "at least one checkpoint by stream in `model.init_args.ne")

    def test_a_checkpoint_of_another_stream(self, build, tmp_path, sources, family, save_network):
        last = family.streams[-1]
        module = build(networks=sources | {last: save_network(tmp_path, "flow")})
        message = f"networks.{last}`: expected a network trained on stream '{last}', came one on 'flow'"
        self.refused(tmp_path, module, re.escape(message))

    def test_a_checkpoint_of_other_classes(self, build, tmp_path, sources, family, save_network):
        module = build(networks={"flow": save_network(tmp_path, "flow", num_classes=3), **sources})
        message = f"networks.{family.streams[0]}`: expected 3 classes, as the first network has, came 2"
        self.refused(tmp_path, module, re.escape(message))

    def test_data_of_other_classes(self, build, tmp_path):
        self.refused(tmp_path, build(), r"the data has 5 classes, the network 2", num_classes=5)

    def test_data_without_a_stream(self, build, tmp_path, family):
        message = f"the model needs stream '{family.streams[-1]}', the data gives"
        self.refused(tmp_path, build(), re.escape(message), streams=(*family.streams[:-1], "flow"))

    def test_a_stream_without_exits(self, build, tmp_path, family):
        last = family.streams[-1]
        exits = dict.fromkeys(family.streams, "linear") | {last: {}}
        message = f"`model.init_args.exits.{last}`: expected internal classifiers"
        self.refused(tmp_path, build(exits=exits), re.escape(message))

    def test_exits_for_other_streams(self, build, tmp_path):
        self.refused(
            tmp_path, build(exits={"flow": "linear"}), r"`model.init_args.exits`: expected one layout, or one fo"
        )

    def test_an_unknown_teacher(self, build, tmp_path):
        self.refused(tmp_path, build(["mv", "flow"]), r"`stages.teachers`: expected some of \[.*'mv'.*came \['flow'\]")

    def test_exits_that_do_not_fit_the_network(self, build, tmp_path):
        self.refused(tmp_path, build(exits="resnet99"), r"`exits`: expected one of .*came 'resnet99'")

    def test_stages_that_do_not_add_up(self, sources, tmp_path):
        module = ProgressiveDistillationModule(sources, ProgressiveStages(["mv", "iframe"], [1, 1]))
        self.refused(tmp_path, module, r"add up to `trainer.max_epochs: 3`")

    def test_no_teacher_in_charge(self, sources, tmp_path):
        self.refused(tmp_path, ProgressiveDistillationModule(sources), r"give `model.init_args.stages`")

    def test_prediction_by_many_exits(self, distilled, tmp_path):
        with pytest.raises(ValueError, match="fit a WeightedInferenceModule on its checkpoint"):
            make_trainer(tmp_path).predict(distilled, Clips(), return_predictions=False)


def test_clips_of_other_segments_are_refused_before_the_first_step(
    tmp_path: Path, save_network: Callable[..., str]
) -> None:
    module = ProgressiveDistillationModule(
        {TEAM: save_network(tmp_path, TEAM)}, ProgressiveStages(["mv"]), exits="team_net"
    )
    with pytest.raises(ValueError, match=r"expected clips of 8 segments, .*came 2; set .*`test_segments` alike"):
        make_trainer(tmp_path).fit(module, Clips())
    assert module.trainer.global_step == 0


WIDE = {"class_path": "lightning_modules.networks.InternalClassifier", "init_args": {"channels": 3}}
ON_SEGMENTS = {"class_path": "lightning_modules.networks.SegmentClassifier", "init_args": {"num_segments": 2}}


@pytest.mark.parametrize(
    ("stream", "depth", "classifier", "weight"),
    [
        ("residual", "layer3", WIDE, ("layer3.head.conv", (3, 16, 3, 3))),
        (TEAM, "layer2", ON_SEGMENTS, ("layer2.fc", (2, 2 * 3 * 8 // 4))),
    ],
)
def test_classifiers_at_chosen_depths_by_the_command_line(
    tmp_path: Path,
    tiny_config: Path,
    save_network: Callable[..., str],
    streamkd: Callable[..., int | None],
    stream: str,
    depth: str,
    classifier: dict[str, Any],
    weight: tuple[str, tuple[int, ...]],
) -> None:
    linear = {"class_path": "lightning_modules.networks.LinearClassifier"}
    config = yaml.safe_load(tiny_config.read_text())
    config["model"] = {
        "class_path": "lightning_modules.progressive_distillation.ProgressiveDistillationModule",
        "init_args": {
            "networks": {stream: save_network(tmp_path, stream)},
            "exits": {stream: {"stem": linear, depth: classifier}},
            "stages": {"class_path": "callbacks.ProgressiveStages", "init_args": {"teachers": ["residual"]}},
        },
    }
    config["data"]["init_args"]["streams"] = [stream]
    config["trainer"]["max_epochs"] = 1
    tiny_config.write_text(yaml.safe_dump(config))
    assert streamkd("fit", "--config", tiny_config) == 0
    assert streamkd("test", "--config", tmp_path / "run/config.yaml") == 0
    networks = load_exit_networks(str(tmp_path / "run/checkpoints/last.ckpt"), key="`exits`").networks
    assert networks.exit_names == (f"{stream}/stem", f"{stream}/{depth}", f"{stream}/final")
    name, shape = weight
    assert networks.networks[stream].classifiers.get_submodule(name).weight.shape == shape
