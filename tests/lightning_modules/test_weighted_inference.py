"""Score fusion: the fit against the pure functions, whole checkpoints, frozen networks, resumed fits, two ranks."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.clip import ClipBatch
from lightning_modules.ensemble import fit_scales
from lightning_modules.networks import resnet10
from lightning_modules.weighted_inference import ScoreFusionModule

CHANNELS = {"mv": 2, "iframe": 3}


def make_batch(videos: list[int], *, num_views: int = 1, substituted: int | None = None) -> ClipBatch:
    """Videos by number: the same number is the same video."""

    def clips(channels: int) -> Tensor:
        made = [torch.randn(num_views, 1, channels, 32, 32, generator=torch.Generator().manual_seed(i)) for i in videos]
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


class Clips(LightningDataModule):
    """Fits on videos 0 to 39 (7 of them twice), validates on 40 to 49."""

    streams = ("mv", "iframe", "residual")
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


def save_source(path: Path, stream: str, *, num_classes: int = 3, **options: Any) -> str:
    """A checkpoint as RecognitionModule leaves it."""
    torch.manual_seed(len(stream))
    init_args = {"num_classes": num_classes, "in_channels": CHANNELS[stream], "width": 4, "weights": "gone.pth"}
    network = resnet10(**init_args | {"weights": None})
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    config = {"class_path": "lightning_modules.networks.resnet10", "init_args": init_args}
    checkpoint = {
        "hyper_parameters": {"network": config, "stream": stream} | options.pop("hyper_parameters", {}),
        "pytorch-lightning_version": "2.6.6",
        "state_dict": state,
        "Clips": {"classes": list(Clips.classes)[:num_classes]},
    }
    torch.save(checkpoint | options, path)
    return str(path)


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    return {stream: save_source(tmp_path / f"{stream}.ckpt", stream) for stream in CHANNELS}


def make_trainer(tmp_path: Path, **options: Any) -> Trainer:
    defaults = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    return Trainer(default_root_dir=tmp_path, enable_model_summary=False, **defaults | options)


def logits_of(module: ScoreFusionModule, videos: list[int]) -> Tensor:
    """(K, N, C) float64, one network and one video at a time."""
    rows = [
        [network(make_batch([video]).streams[stream])[0] for video in videos]
        for stream, network in module.networks.items()
    ]
    return torch.stack([torch.stack(row) for row in rows]).double()


def test_fit_finds_the_scales_of_the_pure_function(tmp_path: Path, sources: dict[str, str]) -> None:
    module, trainer = ScoreFusionModule(sources, l1=0.01), make_trainer(tmp_path)
    trainer.fit(module, Clips())
    videos = list(range(40))
    labels = torch.tensor(videos) * 7 % 3
    expected = fit_scales(logits_of(module, videos), labels, l1=0.01)
    torch.testing.assert_close(module.scales.detach().double(), expected, rtol=1e-3, atol=1e-3)
    logged = trainer.callback_metrics
    assert logged["train/scale/mv"] == pytest.approx(expected[0].item(), abs=1e-3)
    assert "train/loss" in logged


def test_validation_runs_with_the_fitted_scales(tmp_path: Path, sources: dict[str, str]) -> None:
    module, trainer = ScoreFusionModule(sources), make_trainer(tmp_path)
    trainer.fit(module, Clips())
    after_fit = dict(trainer.callback_metrics)
    (validated,) = trainer.validate(module, Clips(), verbose=False)
    assert {name: value for name, value in after_fit.items() if name in validated} == pytest.approx(validated)
    assert validated.keys() == {
        f"val/{name}" for name in ("loss", "num_videos", "top1", "top5", "top1/mv", "top1/iframe")
    }
    assert validated["val/num_videos"] == 10


def test_single_accuracies_are_those_of_the_networks(tmp_path: Path, sources: dict[str, str]) -> None:
    module = ScoreFusionModule(sources)
    data = Clips()
    data.test_dataloader = lambda: loader([make_batch(list(range(30)))])
    trainer = make_trainer(tmp_path)
    trainer.fit(module, Clips())
    (tested,) = trainer.test(module, data, verbose=False)
    logits, labels = logits_of(module, list(range(30))), torch.arange(30) * 7 % 3
    singles = (logits.argmax(2) == labels).float().mean(1)
    fused = torch.einsum("k,knc->nc", module.scales.detach().double(), logits)
    assert tested["test/top1/mv"] == pytest.approx(singles[0].item())
    assert tested["test/top1/iframe"] == pytest.approx(singles[1].item())
    assert tested["test/top1"] == pytest.approx((fused.argmax(1) == labels).float().mean().item())
    assert tested["test/loss"] == pytest.approx(F.cross_entropy(fused, labels).item(), rel=1e-5)


def test_substitutes_do_not_count(tmp_path: Path, sources: dict[str, str]) -> None:
    scales = []
    for batches in ([make_batch(list(range(20)))], [make_batch(list(range(21)), substituted=20)]):
        module = ScoreFusionModule(sources)
        make_trainer(tmp_path).fit(module, loader(batches))
        scales.append(module.scales.detach())
    assert torch.equal(*scales)


def test_a_checkpoint_is_whole(tmp_path: Path, sources: dict[str, str]) -> None:
    module, trainer = ScoreFusionModule(sources), make_trainer(tmp_path)
    trainer.fit(module, Clips())
    (expected,) = trainer.test(module, Clips(), verbose=False)
    for path in sources.values():
        Path(path).unlink()
    path = trainer.checkpoint_callback.best_model_path
    fresh = ScoreFusionModule(sources)
    (tested,) = make_trainer(tmp_path).test(fresh, Clips(), ckpt_path=path, weights_only=True, verbose=False)
    assert tested == expected
    rebuilt = ScoreFusionModule.load_from_checkpoint(path, weights_only=True)
    predictions = make_trainer(tmp_path).predict(rebuilt, Clips())
    assert [tuple(p.logits.shape) for p in predictions] == [(6, 3), (0, 3), (4, 3)]
    assert not any(parameter.requires_grad for parameter in rebuilt.networks.parameters())


def test_a_checkpoint_of_other_streams_is_refused(tmp_path: Path, sources: dict[str, str]) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit(ScoreFusionModule(sources), Clips())
    path = trainer.checkpoint_callback.best_model_path
    with pytest.raises(ValueError, match=r"the checkpoint fuses \['mv', 'iframe'\], .* names \['mv'\]"):
        make_trainer(tmp_path).test(ScoreFusionModule({"mv": sources["mv"]}), Clips(), ckpt_path=path)


def test_networks_stay_as_they_are(tmp_path: Path, sources: dict[str, str]) -> None:
    module = ScoreFusionModule(sources)
    make_trainer(tmp_path, max_epochs=2).fit(module.train(), Clips())
    for stream, path in sources.items():
        for name, value in torch.load(path)["state_dict"].items():
            assert torch.equal(module.networks[stream].state_dict()[name.removeprefix("network.")], value)
    assert not any(part.training for part in module.train().networks.modules())


@pytest.mark.parametrize("keep_sources", [True, False])
@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_resumed_fit_finds_the_same_scales(
    tmp_path: Path, sources: dict[str, str], step: int, keep_sources: bool
) -> None:
    module = ScoreFusionModule(sources)
    saving = ModelCheckpoint(tmp_path / "steps", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    make_trainer(tmp_path, callbacks=[saving]).fit(module, Clips())
    if not keep_sources:
        for path in sources.values():
            Path(path).unlink()
    resumed = ScoreFusionModule(sources)
    data = Clips()
    batches = list(data.train_dataloader())
    # The loader that resumes is the DataModule's business: here it hands out what is left.
    data.train_dataloader = lambda: loader([*batches[step:], *([batches[-1]] * step)])
    path = tmp_path / "steps" / f"step={step}.ckpt"
    trainer = make_trainer(tmp_path)
    trainer.fit(resumed, data, ckpt_path=path, weights_only=True)
    assert trainer.global_step == 4
    assert torch.equal(resumed.scales, module.scales)


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
    tmp_path: Path, sources: dict[str, str], source: dict[str, Any], message: str
) -> None:
    sources["iframe"] = save_source(tmp_path / "other.ckpt", "iframe", **source)
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path).fit(ScoreFusionModule(sources), Clips())


def test_data_of_other_classes_or_streams_is_refused(tmp_path: Path, sources: dict[str, str]) -> None:
    for attributes, message in [
        ({"classes": ("jump", "run", "fall")}, "the classes of the data are others.*class 0 is 'jump', not 'run'"),
        ({"streams": ("mv",)}, "needs stream 'iframe', the data gives"),
    ]:
        data = Clips()
        vars(data).update(attributes)
        with pytest.raises(ValueError, match=message):
            make_trainer(tmp_path).fit(ScoreFusionModule(sources), data)


def test_a_missing_source_is_named(tmp_path: Path, sources: dict[str, str]) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint: /nowhere\.ckpt"):
        make_trainer(tmp_path).fit(ScoreFusionModule(sources | {"mv": "/nowhere.ckpt"}), Clips())


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_damaged_source_is_named(tmp_path: Path, sources: dict[str, str], content: bytes | None) -> None:
    path = Path(sources["mv"])
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(
        ValueError, match=rf"{path}: expected a whole Lightning checkpoint .*`model\.init_args\.networks`"
    ):
        make_trainer(tmp_path).fit(ScoreFusionModule(sources), Clips())


def test_testing_before_fitting_is_refused(tmp_path: Path, sources: dict[str, str]) -> None:
    for verb in ("validate", "test", "predict"):
        with pytest.raises(ValueError, match="has no networks: run `fit`"):
            getattr(make_trainer(tmp_path), verb)(ScoreFusionModule(sources), Clips())


RANKS = """
import sys

import torch
from torch.utils.data import DataLoader

from datamodules.epoch_sampler import EpochSampler
from module_under_test import Clips, ScoreFusionModule, make_batch, make_trainer


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
path, num_videos, *sources = sys.argv[1:]
num_videos = int(num_videos)
module = ScoreFusionModule(dict(zip(("mv", "iframe"), sources)), l1=0.01)
trainer = make_trainer(None, enable_checkpointing=False, strategy="ddp", devices=2, use_distributed_sampler=False)
trainer.fit(module, Shards())
if trainer.is_global_zero:
    torch.save(module.scales.detach(), path)
"""


@pytest.mark.parametrize("num_videos", [1, 13, 40])
def test_two_ranks_find_the_scales_of_one(tmp_path: Path, sources: dict[str, str], num_videos: int) -> None:
    """The videos in order, six a batch: on two ranks 13 make shards of seven and six, one makes but one."""
    module = ScoreFusionModule(sources, l1=0.01)
    videos = list(range(num_videos))
    make_trainer(tmp_path).fit(module, loader([make_batch(videos, substituted=3)]))
    (tmp_path / "run.py").write_text(RANKS)
    (tmp_path / "module_under_test.py").write_text(Path(__file__).read_text())
    result = tmp_path / "scales.pt"
    subprocess.run(
        [sys.executable, tmp_path / "run.py", result, str(num_videos), sources["mv"], sources["iframe"]],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=60,
        capture_output=True,
    )
    torch.testing.assert_close(torch.load(result), module.scales.detach(), rtol=1e-4, atol=1e-5)


def test_batches_without_videos_change_nothing(tmp_path: Path, sources: dict[str, str]) -> None:
    scales = []
    for empty in ([], [make_batch([])]):
        module = ScoreFusionModule(sources)
        make_trainer(tmp_path).fit(module, loader([*empty, make_batch(list(range(20))), *empty]))
        scales.append(module.scales.detach())
    assert torch.equal(*scales)
