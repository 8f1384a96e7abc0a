"""Weighted inference: fit and exits against the pure functions, whole checkpoints, resumed fits, two ranks.

All of it on two networks and on a TEAM-Net (see the fixture ``streams``), but for what is about several networks.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.clip import ClipBatch
from lightning_modules.analysis.trade_off import THRESHOLDS
from lightning_modules.checkpoints import build_network
from lightning_modules.ensemble import combine, connect, exit_at, fit_exit_scales, take
from lightning_modules.exit_networks import STATE, attach_exits
from lightning_modules.weighted_inference import WeightedInferenceModule

TEAM = "iframe+mv+residual"
CHANNELS = {"mv": 2, "iframe": 3, TEAM: 8}
TWO = ["mv", "iframe"]
# Scales of few videos are well defined with a penalty, and found at once.
PENALTY: dict[str, Any] = {"l1": 0.01, "l1_from": 2}


def make_batch(videos: list[int], *, num_views: int = 1, substituted: int | None = None) -> ClipBatch:
    """Videos by number: the same number is the same video."""

    def clips(channels: int) -> Tensor:
        made = [make_clip(video, num_views, channels) for video in videos]
        return torch.cat(made) if made else torch.empty(0, 1, channels, 32, 32)

    numbers = torch.tensor(videos, dtype=torch.int64)
    return ClipBatch(
        streams={stream: clips(channels) for stream, channels in CHANNELS.items()},
        labels=numbers * 7 % 3,
        indices=numbers,
        paths=[f"{i}.mp4" for i in videos],
        seconds=torch.zeros(len(videos), dtype=torch.float64),
        corrupt_frames=torch.zeros(len(videos), dtype=torch.int64),
        substituted=numbers == (-1 if substituted is None else substituted),
        num_views=num_views,
    )


def make_clip(video: int, num_views: int, channels: int) -> Tensor:
    """Noise whose brightness tells something about the label, (num_views, 1, channels, 32, 32)."""
    generator = torch.Generator().manual_seed(video)
    brightness = 0.6 * (video * 7 % 3 - 1) + 0.5 * torch.randn((), generator=generator)
    return torch.randn(num_views, 1, channels, 32, 32, generator=generator) + brightness


class Clips(LightningDataModule):
    """Fits on videos 0 to 39 (7 of them twice), validates on 40 to 49."""

    streams = (*CHANNELS, "residual")
    classes = ("run", "jump", "fall")
    num_classes = 3

    def train_dataloader(self) -> DataLoader:
        batches = [list(range(start, start + 10)) for start in range(0, 40, 10)]
        return loader([*(make_batch(batch) for batch in batches[:3]), make_batch([*batches[3], *range(7)])])

    def val_dataloader(self) -> DataLoader:
        return loader([make_batch(list(range(40, 46))), make_batch([]), make_batch(list(range(46, 50)), num_views=2)])

    test_dataloader = predict_dataloader = val_dataloader


def loader(batches: list[ClipBatch]) -> DataLoader:
    return DataLoader(batches, batch_size=None)


@pytest.fixture(params=[TWO, [TEAM]], ids=["two networks", "TEAM-Net"])
def streams(request: pytest.FixtureRequest) -> list[str]:
    """What the networks see, of each family in turn."""
    return request.param


two_networks = pytest.mark.parametrize("streams", [TWO])


@pytest.fixture
def save_source(tmp_path: Path, network_config: Callable[..., dict[str, Any]]) -> Callable[..., str]:
    """Write a checkpoint as RecognitionModule leaves it; returns its path."""

    def save(stream: str, name: str | None = None, *, num_classes: int = 3, **options: Any) -> str:
        torch.manual_seed(len(stream))
        size = {"num_classes": num_classes, "width": 16 if stream == TEAM else 4}
        network = build_network(network_config(stream, **size))
        state = {f"network.{name}": value for name, value in network.state_dict().items()}
        hyper_parameters = {"network": network_config(stream, **size, weights="gone.pth"), "stream": stream}
        checkpoint = {
            "hyper_parameters": hyper_parameters | options.pop("hyper_parameters", {}),
            "pytorch-lightning_version": "2.6.6",
            "state_dict": state,
            "Clips": {"classes": list(Clips.classes)[:num_classes]},
        }
        path = tmp_path / f"{name or stream}.ckpt"
        torch.save(checkpoint | options, path)
        return str(path)

    return save


@pytest.fixture
def sources(streams: list[str], save_source: Callable[..., str]) -> dict[str, str]:
    return {stream: save_source(stream) for stream in streams}


@pytest.fixture
def exits(tmp_path: Path, sources: dict[str, str]) -> str:
    """A checkpoint as ProgressiveDistillationModule leaves it: networks with four exits each."""
    torch.manual_seed(3)
    trained = attach_exits(sources, "linear")
    state = {f"networks.{name}": value for name, value in trained.networks.state_dict().items()}
    path = tmp_path / "pkd.ckpt"
    torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": state, STATE: trained.state()}, path)
    return str(path)


@pytest.fixture(params=["fusion", "exits"])
def arguments(request: pytest.FixtureRequest, sources: dict[str, str], exits: str) -> dict[str, Any]:
    """Of a module that fuses networks, or their exits."""
    given: dict[str, Any] = {"networks": sources} if request.param == "fusion" else {"exits": exits}
    return given | PENALTY


def make_trainer(tmp_path: Path, **options: Any) -> Trainer:
    defaults = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    return Trainer(default_root_dir=tmp_path, enable_model_summary=False, **defaults | options)


def logits_of(module: WeightedInferenceModule, videos: list[int]) -> Tensor:
    """(K, N, C) float64, one network and one video at a time."""
    logits = {}
    for stream, network in module.networks.networks.items():
        of_exits = torch.stack([network(make_batch([video]).streams[stream])[0] for video in videos], dim=1)
        logits |= {f"{stream}/{name}": of_exits[place] for place, name in enumerate(network.exit_names)}
    return torch.stack([logits[name] for name in module.networks.exit_names]).double()


def labels_of(videos: list[int]) -> Tensor:
    return torch.tensor(videos) * 7 % 3


def spread_threshold(outputs: Tensor) -> float:
    """One at which videos (K, N, C) leave at many exits, and none is within rounding of it."""
    levels = outputs.softmax(dim=-1).amax(dim=-1).flatten().sort().values
    candidates = [float(a + b) / 2 for a, b in pairwise(levels) if b - a > 1e-4]
    return max(candidates, key=lambda level: len(exit_at(outputs, level).unique()))


def test_fit_finds_the_scales_of_the_pure_function(tmp_path: Path, arguments: dict[str, Any]) -> None:
    module, trainer = WeightedInferenceModule(**arguments), make_trainer(tmp_path)
    trainer.fit(module, Clips())
    videos = list(range(40))
    expected = fit_exit_scales(logits_of(module, videos), labels_of(videos), **PENALTY)
    torch.testing.assert_close(module.scales.detach().double(), expected, rtol=1e-3, atol=1e-3)
    logged = trainer.callback_metrics
    for name, scale in zip(module.networks.exit_names, expected[-1].tolist(), strict=True):
        assert logged[f"train/scale/{name}"] == pytest.approx(scale, abs=1e-3)
    full = combine(logits_of(module, videos), expected[-1])
    assert logged["train/loss"] == pytest.approx(F.cross_entropy(full, labels_of(videos)).item(), abs=1e-5)


def test_validation_runs_with_the_fitted_scales(tmp_path: Path, sources: dict[str, str]) -> None:
    module, trainer = WeightedInferenceModule(sources), make_trainer(tmp_path)
    trainer.fit(module, Clips())
    after_fit = dict(trainer.callback_metrics)
    (validated,) = trainer.validate(module, Clips(), verbose=False)
    assert {name: value for name, value in after_fit.items() if name in validated} == pytest.approx(validated)
    per_exit = {f"{name}/{stream}/final" for name in ("top1", "top1_alone", "exited") for stream in sources}
    assert validated.keys() == {f"val/{name}" for name in {"loss", "num_videos", "top1", "top5"} | per_exit}
    assert validated["val/num_videos"] == 10


@pytest.mark.parametrize(
    ("connection", "leave_early"), [("scaled", True), ("scaled", False), ("unscaled", True), ("unconnected", True)]
)
def test_metrics_are_those_of_the_exits_that_videos_leave_at(
    tmp_path: Path, exits: str, connection: Any, leave_early: bool
) -> None:
    """Whatever the fit was given: neither connection nor threshold concerns it."""
    fitted, trainer, data = WeightedInferenceModule(None, exits, **PENALTY), make_trainer(tmp_path), Clips()
    videos = range(30)
    trainer.fit(fitted, data)
    data.test_dataloader = lambda: loader([make_batch(list(videos[:17])), make_batch(list(videos[17:]))])
    weights = connect(connection, fitted.scales.detach().double())
    threshold = spread_threshold(combine(logits_of(fitted, list(videos)), weights)) if leave_early else 1.0
    module = WeightedInferenceModule(None, exits, connection=connection, threshold=threshold)
    checkpoint = trainer.checkpoint_callback.best_model_path
    (tested,) = make_trainer(tmp_path).test(module, data, ckpt_path=checkpoint, verbose=False)
    logits, labels = logits_of(module, list(videos)), labels_of(list(videos))
    outputs = combine(logits, connect(connection, module.scales.detach().double()))
    left = exit_at(outputs, threshold)
    assert not leave_early or len(left.unique()) > 2
    taken = take(outputs, left)
    assert tested["test/loss"] == pytest.approx(F.cross_entropy(taken, labels).item(), rel=1e-4)
    assert tested["test/top1"] == pytest.approx((taken.argmax(1) == labels).double().mean().item())
    assert tested["test/num_videos"] == 30
    for place, name in enumerate(module.networks.exit_names):
        hits = {"top1": outputs[place].argmax(1) == labels, "top1_alone": logits[place].argmax(1) == labels}
        for key, value in (hits | {"exited": left == place}).items():
            assert tested[f"test/{key}/{name}"] == pytest.approx(value.double().mean().item()), (key, name)
    if not leave_early:
        assert tested["test/top1"] == tested[f"test/top1/{module.networks.exit_names[-1]}"]


def test_predictions_say_where_a_video_left(tmp_path: Path, exits: str) -> None:
    module, trainer = WeightedInferenceModule(None, exits, **PENALTY), make_trainer(tmp_path)
    trainer.fit(module, Clips())
    outputs = combine(logits_of(module, list(range(40, 46))), module.scales.detach().double())
    module.threshold = spread_threshold(outputs)
    first, _, last = trainer.predict(module, Clips())
    left = exit_at(outputs, module.threshold)
    assert first.exits == [module.networks.exit_names[place] for place in left]
    assert len(set(first.exits)) > 1
    torch.testing.assert_close(first.logits.double(), take(outputs, left), rtol=1e-4, atol=1e-4)
    assert len(last.exits) == 4


CODES_ORDER = ["iframe", "mv/layer1", "mv/layer2", "mv/layer3", "mv/final"]


@two_networks
@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (None, ("mv", "iframe")),
        (["iframe", "mv"], ("iframe", "mv")),
        (CODES_ORDER, ("iframe", "mv")),
        ("cheapest", ("mv", "iframe")),  # two channels instead of three
    ],
)
def test_exits_come_in_the_order_asked_for(tmp_path: Path, exits: str, order: Any, expected: tuple[str, str]) -> None:
    names = [f"{stream}/{name}" for stream in expected for name in ("layer1", "layer2", "layer3", "final")]
    module, trainer = WeightedInferenceModule(None, exits, order=order, **PENALTY), make_trainer(tmp_path)
    trainer.fit(module, Clips())
    assert list(module.networks.exit_names) == names
    videos = list(range(40))
    scales = fit_exit_scales(logits_of(module, videos), labels_of(videos), **PENALTY)
    torch.testing.assert_close(module.scales.detach().double(), scales, rtol=1e-3, atol=1e-3)
    path = trainer.checkpoint_callback.best_model_path
    rebuilt = WeightedInferenceModule.load_from_checkpoint(path, weights_only=True)
    assert list(rebuilt.networks.exit_names) == names
    assert torch.equal(rebuilt(make_batch([50, 51])), module(make_batch([50, 51])))


@two_networks
def test_cheapest_reverses_streams_where_that_is_cheaper(tmp_path: Path, sources: dict[str, str]) -> None:
    reverse = {stream: sources[stream] for stream in ("iframe", "mv")}
    for order, first in ((None, "iframe"), ("cheapest", "mv")):
        module = WeightedInferenceModule(reverse, order=order)
        assert module.first_stream is None
        make_trainer(tmp_path).fit(module, Clips())
        assert module.networks.exit_names[0] == f"{first}/final"
        assert module.first_stream == first


def test_a_checkpoint_of_another_order_is_refused(tmp_path: Path, exits: str, streams: list[str]) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit(WeightedInferenceModule(None, exits, **PENALTY), Clips())
    path = trainer.checkpoint_callback.best_model_path
    for order in (streams[::-1], "cheapest"):
        other = WeightedInferenceModule(None, exits, order=order)
        with pytest.raises(ValueError, match=r"scales are for `model.init_args.order: None`, came .* fit anew"):
            make_trainer(tmp_path).test(other, Clips(), ckpt_path=path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"expected checkpoints by stream in `model\.init_args\.networks`, or one .* came None and None"),
        ({"networks": {"mv": "a"}, "exits": "b"}, r"`model\.init_args\.exits`, came {'mv': 'a'} and b"),
        ({"exits": "a", "max_loss": -1.0}, r"`model\.init_args\.max_loss` >= 0, came -1\.0"),
        ({"exits": "a", "threshold": 1.5}, r"`model\.init_args\.threshold`: expected from 0 .* came 1\.5"),
        ({"exits": "a", "connection": "loose"}, r"`model\.init_args\.connection`: expected one of .* 'loose'"),
        ({"exits": "a", "l1": -1.0}, r"`model\.init_args\.l1` >= 0 .*came -1\.0 and 6"),
        ({"exits": "a", "l1_from": 0}, r"`model\.init_args\.l1_from` >= 1, came 0\.1 and 0"),
    ],
)
def test_values_that_are_not_allowed_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightedInferenceModule(**arguments)


def test_exits_that_cannot_be_used_are_refused(tmp_path: Path, sources: dict[str, str], exits: str) -> None:
    for path, order, error, message in [
        ("/nowhere.ckpt", None, FileNotFoundError, r"no such checkpoint: /nowhere.*`model\.init_args\.exits`"),
        (
            next(iter(sources.values())),
            None,
            ValueError,
            r"a checkpoint of a ProgressiveDistillationModule \(`model\.init_args\.exits`",
        ),
        (exits, ["residual"], ValueError, r"`order`: expected each of .* came \['residual'\]"),
    ]:
        with pytest.raises(error, match=message):
            make_trainer(tmp_path).fit(WeightedInferenceModule(None, path, order=order), Clips())


def test_substitutes_do_not_count(tmp_path: Path, sources: dict[str, str]) -> None:
    scales = []
    for batches in ([make_batch(list(range(20)))], [make_batch(list(range(21)), substituted=20)]):
        module = WeightedInferenceModule(sources)
        make_trainer(tmp_path).fit(module, loader(batches))
        scales.append(module.scales.detach())
    assert torch.equal(*scales)


def test_a_checkpoint_is_whole(tmp_path: Path, arguments: dict[str, Any], sources: dict[str, str], exits: str) -> None:
    module, trainer = WeightedInferenceModule(**arguments), make_trainer(tmp_path)
    trainer.fit(module, Clips())
    (expected,) = trainer.test(module, Clips(), verbose=False)
    for source in (*sources.values(), exits):
        Path(source).unlink()
    path = trainer.checkpoint_callback.best_model_path
    fresh = WeightedInferenceModule(**arguments)
    (tested,) = make_trainer(tmp_path).test(fresh, Clips(), ckpt_path=path, weights_only=True, verbose=False)
    assert tested == expected
    rebuilt = WeightedInferenceModule.load_from_checkpoint(path, weights_only=True)
    predictions = make_trainer(tmp_path).predict(rebuilt, Clips())
    assert [tuple(p.logits.shape) for p in predictions] == [(6, 3), (0, 3), (4, 3)]
    assert not any(parameter.requires_grad for parameter in rebuilt.networks.parameters())


def test_the_fit_chooses_a_threshold_that_its_checkpoint_keeps(tmp_path: Path, exits: str) -> None:
    """The cheapest, exit by exit, that loses at most ten points on the videos of the fit."""
    module = WeightedInferenceModule(None, exits, threshold="chosen", max_loss=10.0, **PENALTY)
    trainer = make_trainer(tmp_path)
    trainer.fit(module, Clips())
    videos = make_batch(list(range(40)))
    outputs = combine(module.exit_logits(videos), module.weights)

    def right_and_cost(threshold: float) -> tuple[float, float]:
        left = exit_at(outputs, threshold)
        return (take(outputs, left).argmax(1) == videos.labels).float().mean().item(), left.double().mean().item()

    best, _ = right_and_cost(1.0)
    allowed = [(cost, -t) for t in THRESHOLDS for right, cost in [right_and_cost(t)] if right >= best - 0.1 - 1e-6]
    expected = -min(allowed)[1]
    assert 0 < expected < 1
    assert trainer.callback_metrics["train/threshold"].item() == pytest.approx(expected)
    path = trainer.checkpoint_callback.best_model_path
    others = WeightedInferenceModule(None, exits, threshold="chosen", connection="unconnected", **PENALTY)
    others.on_load_checkpoint(torch.load(path))
    assert others.exit_threshold != expected, "each connection has its own"
    fresh = WeightedInferenceModule(None, exits, threshold="chosen", **PENALTY)
    predictions = make_trainer(tmp_path).predict(fresh, Clips(), ckpt_path=path, weights_only=True)
    seen = combine(module.exit_logits(make_batch(list(range(40, 46)))), module.weights)
    names = [module.networks.exit_names[place] for place in exit_at(seen, expected).tolist()]
    assert predictions[0].exits == names
    assert len(set(names)) > 1


def test_validation_within_the_fit_has_no_threshold_yet(tmp_path: Path, exits: str) -> None:
    module = WeightedInferenceModule(None, exits, threshold="chosen", **PENALTY)
    make_trainer(tmp_path, val_check_interval=2, num_sanity_val_steps=1).fit(module, Clips())
    assert module.chosen.keys() == {"scaled", "unscaled", "unconnected", "divided"}


def test_mixed_precision_combines_in_float32(tmp_path: Path, exits: str) -> None:
    """Thresholds near 1 are finer than bfloat16; outputs are sums of the exits' logits in float32."""
    trainer = make_trainer(tmp_path, precision="bf16-mixed")
    trainer.fit(WeightedInferenceModule(None, exits, **PENALTY), Clips())
    module = WeightedInferenceModule(None, exits, threshold=0.9999, **PENALTY)
    seen: list[Any] = []

    class Watch(Callback):
        def on_test_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *_: Any) -> None:
            seen.append(outputs)

    path = trainer.checkpoint_callback.best_model_path
    tester = make_trainer(tmp_path, precision="bf16-mixed", callbacks=[Watch()])
    tester.test(module, Clips(), ckpt_path=path, verbose=False)
    for outputs in seen:
        combined = torch.einsum("jk,knc->jnc", module.weights.double(), outputs.exit_logits.double())
        assert outputs.logits.dtype == torch.float32
        torch.testing.assert_close(
            outputs.logits.double(), take(combined, exit_at(combined, 0.9999)), rtol=1e-5, atol=1e-5
        )


def test_a_threshold_that_nobody_chose_is_refused(tmp_path: Path, exits: str) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit(WeightedInferenceModule(None, exits, **PENALTY), Clips())
    path = Path(trainer.checkpoint_callback.best_model_path)
    checkpoint = torch.load(path)
    del checkpoint["weighted_inference"]["chosen"]  # as earlier versions wrote it
    torch.save(checkpoint, path)
    module = WeightedInferenceModule(None, exits, threshold="chosen", **PENALTY)
    with pytest.raises(ValueError, match=r"`model.init_args.threshold: chosen`: expected a checkpoint whose fit chose"):
        make_trainer(tmp_path).predict(module, Clips(), ckpt_path=path)


def test_a_checkpoint_of_other_streams_is_refused(tmp_path: Path, sources: dict[str, str]) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit(WeightedInferenceModule(sources), Clips())
    path = trainer.checkpoint_callback.best_model_path
    message = f"the checkpoint is of streams {list(sources)}, `model.init_args.networks` names ['residual']"
    with pytest.raises(ValueError, match=re.escape(message)):
        make_trainer(tmp_path).test(WeightedInferenceModule({"residual": "gone.ckpt"}), Clips(), ckpt_path=path)


def test_networks_stay_as_they_are(tmp_path: Path, exits: str) -> None:
    module = WeightedInferenceModule(None, exits, **PENALTY)
    make_trainer(tmp_path, max_epochs=2).fit(module.train(), Clips())
    for name, value in torch.load(exits)["state_dict"].items():
        assert torch.equal(module.state_dict()[name], value)
    assert not any(part.training for part in module.train().networks.modules())


@pytest.mark.parametrize("keep_sources", [True, False])
@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_resumed_fit_finds_the_same_scales(tmp_path: Path, exits: str, step: int, keep_sources: bool) -> None:
    module = WeightedInferenceModule(None, exits, order="cheapest", **PENALTY)
    saving = ModelCheckpoint(tmp_path / "steps", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    make_trainer(tmp_path, callbacks=[saving]).fit(module, Clips())
    if not keep_sources:
        Path(exits).unlink()
    resumed = WeightedInferenceModule(None, exits, order="cheapest", **PENALTY)
    data = Clips()
    batches = list(data.train_dataloader())
    # The loader that resumes is the DataModule's business: here it hands out what is left.
    data.train_dataloader = lambda: loader([*batches[step:], *([batches[-1]] * step)])
    path = tmp_path / "steps" / f"step={step}.ckpt"
    trainer = make_trainer(tmp_path)
    trainer.fit(resumed, data, ckpt_path=path, weights_only=True)
    assert trainer.global_step == 4
    assert torch.equal(resumed.scales, module.scales)


@two_networks
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"num_classes": 2}, r"networks\.iframe`: expected 3 classes, as the first network has, came 2"),
        ({"Clips": {"classes": ["run", "fall", "jump"]}}, r"networks\.iframe` .*class 1 is 'fall', not 'jump'"),
        ({"hyper_parameters": {"stream": "mv"}}, "trained on stream 'iframe', came one on 'mv'"),
        ({"hyper_parameters": {"multi_label": True}}, "one trained with `multi_label: true`"),
        ({"hyper_parameters": {"network": None}}, "expected a checkpoint of a RecognitionModule"),
    ],
)
def test_sources_that_do_not_belong_together_are_refused(
    tmp_path: Path, sources: dict[str, str], save_source: Callable[..., str], source: dict[str, Any], message: str
) -> None:
    sources["iframe"] = save_source("iframe", "other", **source)
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path).fit(WeightedInferenceModule(sources), Clips())


def test_data_of_other_classes_or_streams_is_refused(tmp_path: Path, sources: dict[str, str]) -> None:
    for attributes, message in [
        ({"classes": ("jump", "run", "fall")}, "the classes of the data are others.*class 0 is 'jump', not 'run'"),
        ({"streams": ("residual",)}, re.escape(f"needs stream '{next(iter(sources))}', the data gives")),
    ]:
        data = Clips()
        vars(data).update(attributes)
        with pytest.raises(ValueError, match=message):
            make_trainer(tmp_path).fit(WeightedInferenceModule(sources), data)


def test_a_missing_source_is_named(tmp_path: Path, sources: dict[str, str]) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint: /nowhere\.ckpt"):
        make_trainer(tmp_path).fit(WeightedInferenceModule(dict.fromkeys(sources, "/nowhere.ckpt")), Clips())


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_damaged_source_is_named(tmp_path: Path, sources: dict[str, str], content: bytes | None) -> None:
    path = Path(next(iter(sources.values())))
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(
        ValueError,
        match=rf"{re.escape(str(path))}: expected a whole Lightning checkpoint .*`model\.init_args\.networks`",
    ):
        make_trainer(tmp_path).fit(WeightedInferenceModule(sources), Clips())


def test_testing_before_fitting_is_refused(tmp_path: Path, sources: dict[str, str]) -> None:
    for verb in ("validate", "test", "predict"):
        with pytest.raises(ValueError, match="has no networks: run `fit`"):
            getattr(make_trainer(tmp_path), verb)(WeightedInferenceModule(sources), Clips())


RANKS = """
import sys

import torch
from torch.utils.data import DataLoader

from datamodules.epoch_sampler import EpochSampler
from module_under_test import Clips, WeightedInferenceModule, make_batch, make_trainer


class Shards(Clips):
    def train_dataloader(self):
        place = {"num_replicas": self.trainer.world_size, "rank": self.trainer.global_rank}
        sampler = EpochSampler(num_videos, shuffle=False, repeat=True, **place)
        return DataLoader(Keys(), sampler=sampler, batch_size=6, collate_fn=collate)


def collate(videos):
    return make_batch(videos, substituted=3)


class Keys:
    def __getitem__(self, key):
        return key[1]


torch.set_num_threads(1)
path, sizes, *sources = sys.argv[1:]
scales = {}
for num_videos in map(int, sizes.split(",")):
    module = WeightedInferenceModule(dict(zip(("mv", "iframe"), sources)), l1=0.01, l1_from=2)
    trainer = make_trainer(None, enable_checkpointing=False, strategy="ddp", devices=2, use_distributed_sampler=False)
    trainer.fit(module, Shards())
    assert trainer.world_size == 2
    scales[num_videos] = module.scales.detach()
if trainer.is_global_zero:
    torch.save(scales, path)
"""


@two_networks
def test_two_ranks_find_the_scales_of_one(tmp_path: Path, sources: dict[str, str]) -> None:
    """The videos in order, six a batch: on two ranks 13 make shards of seven and six, one makes but one."""
    expected = {}
    for num_videos in (1, 13, 40):
        module = WeightedInferenceModule(sources, l1=0.01, l1_from=2)
        make_trainer(tmp_path).fit(module, loader([make_batch(list(range(num_videos)), substituted=3)]))
        expected[num_videos] = module.scales.detach()
    (tmp_path / "run.py").write_text(RANKS)
    (tmp_path / "module_under_test.py").write_text(Path(__file__).read_text())
    result = tmp_path / "scales.pt"
    sizes = ",".join(map(str, expected))
    subprocess.run(
        [sys.executable, tmp_path / "run.py", result, sizes, sources["mv"], sources["iframe"]],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=90,
        capture_output=True,
    )
    torch.testing.assert_close(torch.load(result), expected, rtol=1e-4, atol=1e-5)


def test_batches_without_videos_change_nothing(tmp_path: Path, sources: dict[str, str]) -> None:
    scales = []
    for empty in ([], [make_batch([])]):
        module = WeightedInferenceModule(sources)
        make_trainer(tmp_path).fit(module, loader([*empty, make_batch(list(range(20))), *empty]))
        scales.append(module.scales.detach())
    assert torch.equal(*scales)
