"""Flow distillation: a step by hand in float64, terms that switch off, a start from the teacher, nothing of it kept."""

import json
from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.clip import ClipBatch, parts_of
from datamodules.clip_reader import ClipReader
from datamodules.index_cache import IndexCache
from datamodules.sampling import FrameSampler
from datamodules.transforms import RandomCrops, normalise
from datamodules.video_source import VideoSource
from lightning_modules.checkpoints import load_network
from lightning_modules.flow_distillation import FlowDistillationModule
from lightning_modules.networks import resnet10

CHANNELS = {"mv": 2, "residual": 3, "mv+residual": 5, "flow": 2}


def make_batch(seed: int, streams: tuple[str, ...] = tuple(CHANNELS)) -> ClipBatch:
    generator = torch.Generator().manual_seed(seed)
    clips = {name: torch.randn(4, 2, CHANNELS[name], 64, 64, generator=generator) for name in CHANNELS}
    return ClipBatch(
        streams={name: clips[name] for name in streams},
        labels=torch.arange(4) % 2,
        indices=torch.arange(4),
        paths=[f"{seed}/{i}.mp4" for i in range(4)],
        seconds=torch.zeros(4, dtype=torch.float64),
        corrupt_frames=torch.zeros(4, dtype=torch.int64),
        substituted=torch.zeros(4, dtype=torch.bool),
    )


class Clips(LightningDataModule):
    """Flow in training alone."""

    num_classes = 2

    def __init__(self, streams: tuple[str, ...] = tuple(CHANNELS)) -> None:
        super().__init__()
        self.streams = streams

    def train_dataloader(self) -> DataLoader:
        return DataLoader([make_batch(seed, self.streams) for seed in range(3)], batch_size=None)

    def val_dataloader(self) -> DataLoader:
        seen = tuple(name for name in self.streams if name != "flow")
        return DataLoader([make_batch(seed, seen) for seed in range(2)], batch_size=None)

    test_dataloader = predict_dataloader = val_dataloader


@pytest.fixture
def teacher(tmp_path: Path, save_network: Callable[..., str]) -> str:
    return save_network(tmp_path, "flow")


def make_module(teacher: str, stream: str = "mv+residual", **options: Any) -> FlowDistillationModule:
    torch.manual_seed(3)
    options = {"optimizer": partial(torch.optim.SGD, lr=0.01)} | options
    return FlowDistillationModule(resnet10(2, CHANNELS[stream], width=4), stream, teacher, **options)


def make_trainer(tmp_path: Path, **options: Any) -> Trainer:
    quiet: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(default_root_dir=tmp_path, accelerator="cpu", **{"max_epochs": 1, **quiet, **options})


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def pooled(network: Any, clips: Tensor) -> np.ndarray:
    """(B, T, C) float64: what the classifier sees."""
    return network.double().forward_features(clips.double())["layer4"].detach().numpy().mean(axis=(3, 4))


def terms_by_hand(student: Any, teacher: Any, batch: ClipBatch, stream: str, temperature: float) -> dict[str, float]:
    """Unweighted, numpy in float64."""
    weight, bias = (p.detach().double().numpy() for p in (student.fc.weight, student.fc.bias))
    own, flow = pooled(student, batch.streams[stream]), pooled(teacher, batch.streams["flow"])
    logits = (own @ weight.T + bias).mean(axis=1)
    target = (flow @ teacher.fc.weight.double().numpy().T + teacher.fc.bias.double().numpy()).mean(axis=1)
    p, q = log_softmax(target / temperature), log_softmax(logits / temperature)
    return {
        "cross_entropy": -log_softmax(logits)[np.arange(4), batch.labels].mean(),
        "feature": ((own - flow) ** 2).mean(),
        "clip_logits": temperature**2 * (np.exp(p) * (p - q)).sum(axis=1).mean(),
    }


@pytest.mark.parametrize("stream", ["mv", "residual", "mv+residual"])
@pytest.mark.parametrize(("feature_weight", "logit_weight"), [(50.0, 1.0), (0.0, 3.0), (7.0, 0.0), (0.0, 0.0)])
def test_terms_of_a_step_equal_a_float64_computation(
    tmp_path: Path, teacher: str, stream: str, feature_weight: float, logit_weight: float
) -> None:
    module = make_module(teacher, stream, feature_weight=feature_weight, logit_weight=logit_weight, temperature=3.0)
    student = make_module(teacher, stream).network.train()
    expected = terms_by_hand(student, load_network(teacher).network, make_batch(0), stream, 3.0)
    weights = {"cross_entropy": 1.0, "feature": feature_weight, "clip_logits": logit_weight}
    expected = {name: weights[name] * value for name, value in expected.items() if weights[name]}
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(module, Clips())
    came = {k.removeprefix("train/loss/"): v.item() for k, v in trainer.callback_metrics.items() if "loss/" in k}
    assert came == pytest.approx(expected, rel=2e-4)
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(sum(expected.values()), rel=2e-4)


def test_gradients_reach_the_student_only(tmp_path: Path, teacher: str) -> None:
    module = make_module(teacher)
    make_trainer(tmp_path, max_epochs=2).fit(module, Clips())
    assert module.teacher is not None
    before, after = load_network(teacher).network.state_dict(), module.teacher.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in module.teacher.network.parameters())
    started = dict(make_module(teacher).network.named_parameters())
    assert all(not torch.equal(p, started[name]) for name, p in module.network.named_parameters())


def test_without_terms_neither_flow_nor_a_teacher_is_needed(tmp_path: Path) -> None:
    module = make_module("gone.ckpt", feature_weight=0, logit_weight=0)
    make_trainer(tmp_path).fit(module, Clips(("mv+residual",)))
    assert module.teacher is None
    assert module.trainer.global_step == 3


def test_a_start_alone_needs_no_flow(tmp_path: Path, teacher: str) -> None:
    module = make_module(teacher, feature_weight=0, logit_weight=0, start_from_teacher=True)
    make_trainer(tmp_path, max_steps=0, limit_val_batches=0).fit(module, Clips(("mv+residual",)))
    assert torch.equal(module.network.layer1[0].conv1.weight, load_network(teacher).network.layer1[0].conv1.weight)


def test_checkpoints_know_nothing_of_the_teacher(tmp_path: Path, teacher: str) -> None:
    module = make_module(teacher, start_from_teacher=True)
    trainer = make_trainer(tmp_path)
    trainer.fit(module, Clips())
    path = tmp_path / "student.ckpt"
    trainer.save_checkpoint(path)
    assert {name.split(".")[0] for name in torch.load(path)["state_dict"]} == {"network"}
    Path(teacher).unlink()
    fresh = make_module(teacher, start_from_teacher=True)
    make_trainer(tmp_path).test(fresh, Clips(("mv+residual",)), ckpt_path=path, verbose=False)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), module.parameters(), strict=True))


@pytest.mark.parametrize("stream", ["mv", "residual", "mv+residual"])
def test_a_start_from_the_teacher(tmp_path: Path, teacher: str, stream: str) -> None:
    module = make_module(teacher, stream, start_from_teacher=True)
    trainer = make_trainer(tmp_path, max_steps=0, limit_val_batches=0)
    trainer.fit(module, Clips())
    flow, own = load_network(teacher).network.state_dict(), module.network.state_dict()
    mean = flow["conv1.weight"].sum(1, keepdim=True) / 2
    expected = {"mv": flow["conv1.weight"], "residual": mean.repeat(1, 3, 1, 1)}
    assert torch.allclose(own.pop("conv1.weight"), torch.cat([expected[part] for part in stream.split("+")], 1))
    assert all(torch.equal(value, flow[name]) for name, value in own.items())


class TestRefusals:
    """Before the first step, naming the key."""

    def refused(self, tmp_path: Path, module: Any, message: str, data: Clips | None = None) -> None:
        with pytest.raises(ValueError, match=message):
            make_trainer(tmp_path, num_sanity_val_steps=0).fit(module, data or Clips())
        assert module.trainer.global_step == 0

    def test_teacher_of_another_stream(self, tmp_path, save_network):
        message = r"`model.init_args.teacher`: expected a network trained on stream 'flow' .* came one on 'mv'"
        self.refused(tmp_path, make_module(save_network(tmp_path, "mv")), message)

    def test_data_without_flow(self, tmp_path, teacher):
        self.refused(tmp_path, make_module(teacher), r"needs stream 'flow', the data gives", Clips(("mv+residual",)))

    def test_features_of_another_width(self, tmp_path, teacher):
        module = FlowDistillationModule(resnet10(2, 5, width=8), "mv+residual", teacher)
        self.refused(
            tmp_path, module, r"64 of the student and 32 of the teacher; .*`model.init_args.feature_weight: 0`"
        )

    def test_a_start_from_another_architecture(self, tmp_path, teacher):
        module = FlowDistillationModule(resnet10(2, 5, width=8), "mv+residual", teacher, start_from_teacher=True)
        self.refused(tmp_path, module, r"`model.init_args.start_from_teacher`: expected networks of one architecture")

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"feature_weight": -1}, "weight`: expected 0 or more, came -1"), ({"temperature": 0}, "more than 0, came 0")],
    )
    def test_values(self, teacher, options, message):
        with pytest.raises(ValueError, match=message):
            make_module(teacher, **options)


WITNESS = """
import sys
from lightning.pytorch import Callback

class Witness(Callback):
    def __init__(self, path: str):
        self.path = path

    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        names = batch.streams if hasattr(batch, "streams") else batch.shapes
        with open(self.path, "a") as file:
            print(*names, file=file)

    def teardown(self, trainer, pl_module, stage):
        with open(self.path, "a") as file:
            print(trainer.state.fn.value, "cv2" in sys.modules, file=file)
"""
P_STREAM = "mv+residual"


class Chain:
    """Runs one experiment after the other by the command line, each in a process of its own."""

    def __init__(self, config: Path, streamkd: Callable[..., int | None]) -> None:
        self.path, self.folder, self.streamkd = config, config.parent, streamkd
        self.config = yaml.safe_load(config.read_text())
        self.config["trainer"]["callbacks"] = [{"class_path": "witness.Witness", "init_args": {"path": "seen.txt"}}]
        (self.folder / "witness.py").write_text(WITNESS)

    def configure(self, name: str, module: str, model: dict[str, Any], **data: Any) -> None:
        self.config["run_dir"] = str(self.folder / name)
        self.config["model"] = {"class_path": f"lightning_modules.{module}", "init_args": model}
        self.config["data"]["init_args"] |= data
        self.path.write_text(yaml.safe_dump(self.config))

    def run(self, verb: str, *options: object) -> None:
        assert self.streamkd(verb, "--config", self.path, *options) == 0

    def best(self, name: str) -> str:
        return str(self.folder / name / "checkpoints" / "best.ckpt")


def fused_by_hand(checkpoint: str, path: str) -> dict[str, float]:
    """Probabilities by class: the two networks of a checkpoint, on what the video holds, by the learned scales."""
    state = torch.load(checkpoint)["state_dict"]
    sampler = FrameSampler(2)
    logits = []
    for place, stream in enumerate(("iframe", P_STREAM)):
        prefix = f"networks.networks.{stream}.backbone."
        network = resnet10(2, CHANNELS.get(stream, 3), width=4).eval()
        network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        source = VideoSource(parts_of("iframe", P_STREAM), IndexCache())
        views = ClipReader(source, {"iframe": 24, P_STREAM: 24}, sampler, RandomCrops()).read(path).streams
        logits.append(state["scales"][-1, place] * network(normalise(stream, views[stream])))
    left, right = sum(logits)[0].softmax(0).tolist()  # type: ignore[index]
    return {"left": left, "right": right}


def test_from_flow_to_two_streams_and_early_exits(
    tiny_config: Path,
    tiny_videos: Path,
    tmp_path: Path,
    save_network: Callable[..., str],
    streamkd: Callable[..., int | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """IP TSN, and progressive distillation of its P-stream; whoever is deployed needs neither flow nor other files."""
    pytest.importorskip("cv2")
    monkeypatch.chdir(tmp_path)
    flow, iframe = save_network(tmp_path, "flow"), save_network(tmp_path, "iframe")
    network = {"class_path": "lightning_modules.networks.resnet10", "init_args": {"num_classes": 2, "in_channels": 5}}
    network["init_args"]["width"] = 4  # type: ignore[index]
    chain = Chain(tiny_config, streamkd)
    student = {"network": network, "stream": P_STREAM, "teacher": flow, "start_from_teacher": True}
    chain.configure(
        "p_stream", "flow_distillation.FlowDistillationModule", student, streams=[P_STREAM, "flow"], privileged=["flow"]
    )
    chain.run("fit")
    Path(flow).unlink()
    chain.run("predict", "--data.predict_paths", f"[{tiny_videos}/test/left]")
    networks = {"iframe": iframe, P_STREAM: chain.best("p_stream")}
    deployed = {"streams": ["iframe", P_STREAM], "privileged": []}
    chain.configure("ip_tsn", "weighted_inference.WeightedInferenceModule", {"networks": networks}, **deployed)
    chain.run("fit", "--data.fit_split", "val")
    stages = {"class_path": "callbacks.ProgressiveStages", "init_args": {"teachers": [P_STREAM, "iframe"]}}
    pkd = {"networks": networks, "exits": "linear", "stages": stages}
    ip_tsn = tiny_config.read_text()
    chain.configure("pkd", "progressive_distillation.ProgressiveDistillationModule", pkd)
    chain.run("fit")
    for source in networks.values():
        Path(source).unlink()
    tiny_config.write_text(ip_tsn)
    chain.run("test")
    for lazy, workers in (("false", "0"), ("true", "0"), ("true", "1")):
        reading = ("--data.lazy", lazy, "--data.num_workers", workers)
        chain.run("predict", "--data.predict_paths", f"[{tiny_videos}/test]", *reading)
        answers = [json.loads(line) for line in (tmp_path / "ip_tsn/predictions.jsonl").read_text().splitlines()]
        assert len(answers) == 5
        for answer in answers:
            shown = {top["class"]: top["probability"] for top in answer["top"]}
            assert shown == pytest.approx(fused_by_hand(chain.best("ip_tsn"), answer["path"]), abs=2e-6), reading
    chain.configure("wise", "weighted_inference.WeightedInferenceModule", {"exits": chain.best("pkd")})
    chain.run("fit", "--data.fit_split", "val")
    metrics = json.loads((tmp_path / "wise/fit.json").read_text())["metrics"]
    assert {f"val/top1/{P_STREAM}/layer2", f"val/top1/{P_STREAM}/final", "val/top1/iframe/layer1"} <= metrics.keys()
    seen = [line for line, _ in groupby(Path("seen.txt").read_text().splitlines())]
    assert seen == [
        *["fit True", P_STREAM, "predict False", "fit False", "test False"],
        *[f"iframe {P_STREAM}", "predict False"] * 3,
        "fit False",
    ]
