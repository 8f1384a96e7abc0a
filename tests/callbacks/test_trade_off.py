"""What a test leaves, against loops over the same videos; and what leaves nothing."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from callbacks.trade_off import TradeOff
from datamodules.annotations import ClassFolders
from datamodules.clip import ClipBatch
from datamodules.compressed_video import CompressedVideoDataModule
from lightning_modules.analysis.cost import cost_of
from lightning_modules.analysis.trade_off import MeasuredTradeOff
from lightning_modules.exit_networks import STATE, ExitNetworks
from lightning_modules.weighted_inference import WeightedInferenceModule

CHANNELS = {"mv": 2, "iframe": 3}
NETWORKS = "lightning_modules.networks"
TEST_SEGMENTS = 3  # 2 elsewhere


@pytest.fixture(scope="module")
def exits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint as ProgressiveDistillationModule leaves it."""
    torch.manual_seed(1)
    configs = {}
    for stream, channels in CHANNELS.items():
        init_args = {"num_classes": 2, "in_channels": channels, "width": 4, "input_norm": True}
        backbone = {"class_path": f"{NETWORKS}.resnet10", "init_args": init_args}
        network = {"backbone": backbone, "exits": "linear"}
        configs[stream] = {"class_path": f"{NETWORKS}.EarlyExitNetwork", "init_args": network}
    built = ExitNetworks.from_state({"configs": configs, "classes": ["left", "right"]})
    state = {f"networks.{name}": value for name, value in built.networks.state_dict().items()}
    path = tmp_path_factory.mktemp("exits") / "pkd.ckpt"
    torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": state, STATE: built.state()}, path)
    return str(path)


@pytest.fixture
def module(exits: str) -> WeightedInferenceModule:
    module = WeightedInferenceModule(exits=exits, connection="divided")
    module.setup("fit")
    return module.eval()


def data_of(videos: Path, **options: Any) -> CompressedVideoDataModule:
    sizes: dict[str, Any] = {"num_segments": 2, "test_segments": TEST_SEGMENTS, "size": 24, "test_clips": 2}
    return CompressedVideoDataModule(ClassFolders(str(videos)), list(CHANNELS), **sizes, batch_size=3, **options)


def trainer_for(folder: Path, callback: TradeOff) -> Trainer:
    quiet: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(default_root_dir=folder, accelerator="cpu", callbacks=[callback], **quiet)


@torch.no_grad()
def answers_of(module: WeightedInferenceModule, videos: Path, split: str) -> list[tuple[list[list[float]], int]]:
    """By video the softmax of all exits' outputs, one by one, and the label; as the test reads videos."""
    data = CompressedVideoDataModule(
        ClassFolders(str(videos)), list(CHANNELS), TEST_SEGMENTS, 24, batch_size=1, test_clips=2
    )
    data.setup("test")
    data._records["test"] = data._annotations.records(split)
    found = []
    for batch in (data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()):
        logits = module.exit_logits(batch)[:, 0]
        means = [logits[: place + 1].mean(dim=0).softmax(dim=0).tolist() for place in range(len(logits))]
        found.append((means, int(batch.labels)))
    return found


def expected_of(answers: list[tuple[list[list[float]], int]], threshold: float) -> tuple[float, list[int]]:
    """Accuracy and how many left at each exit."""
    left, right = [0] * 8, 0
    for exits, label in answers:
        place = next((place for place, values in enumerate(exits) if max(values) > threshold), 7)
        left[place] += 1
        right += exits[place].index(max(exits[place])) == label
    return right / len(answers), left


def test_sweep_of_both_splits(module: WeightedInferenceModule, tiny_videos: Path, tmp_path: Path, capsys: Any) -> None:
    module.max_loss = 10.0
    trainer_for(tmp_path, TradeOff(timed_videos=4)).test(module, data_of(tiny_videos), verbose=False)
    measured = MeasuredTradeOff.from_record(json.loads((tmp_path / "trade_off.json").read_text()))

    clips = {stream: torch.zeros(1, TEST_SEGMENTS, channels, 24, 24) for stream, channels in CHANNELS.items()}
    costs = [2 * cost for cost in cost_of(module.networks, clips).exits.values()]
    for split, points in {"val": measured.validation, "test": measured.test}.items():
        answers = answers_of(module, tiny_videos, split)
        assert len(answers) == {"val": 6, "test": 5}[split]
        for point in points:
            top1, left = expected_of(answers, point.threshold)
            assert (point.top1, point.exited) == (pytest.approx(top1), pytest.approx([n / sum(left) for n in left]))
            passed = [sum(left[place:]) / sum(left) for place in range(8)]
            assert point.multiply_adds == pytest.approx(sum(c * p for c, p in zip(costs, passed, strict=True)))
    assert len({point.exited for point in measured.test}) > 2

    allowed = [point for point in measured.validation if measured.validation[-1].top1 - point.top1 <= 0.1 + 1e-9]
    assert measured.chosen == min(allowed, key=lambda point: (point.multiply_adds, -point.threshold)).threshold
    assert (measured.num_videos, measured.timed_videos, measured.num_segments, measured.num_views) == (5, 4, 3, 2)
    assert measured.data_set == "ClassFolders"
    seconds = [point.seconds for point in measured.test]
    assert all(value is not None and value > 0 for value in seconds)
    with open(tmp_path / "trade_off.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["series"] == "test"]
    assert [float(row["top1"]) for row in rows] == [point.top1 for point in measured.test]
    assert [float(row["exited/mv/layer2"]) for row in rows] == [point.exited[1] for point in measured.test]
    assert [float(row["threshold"]) for row in rows if row["chosen"] == "1"] == [measured.chosen]
    assert (tmp_path / "trade_off.png").read_bytes().startswith(b"\x89PNG")
    assert f"{measured.chosen:g}*" in capsys.readouterr().out


def test_the_validation_split_is_read_as_the_test_split_is(
    module: WeightedInferenceModule, tiny_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, exit_logits = [], module.exit_logits

    def record(batch: ClipBatch) -> torch.Tensor:
        seen.extend((path, batch.num_views, batch.streams["mv"].shape[1]) for path in batch.paths)
        return exit_logits(batch)

    monkeypatch.setattr(module, "exit_logits", record)
    trainer_for(tmp_path, TradeOff(timed_videos=0)).test(module, data_of(tiny_videos), verbose=False)
    files = [str(path) for split in ("test", "val") for path in (tiny_videos / split).glob("*/*")]
    assert sorted(seen) == sorted((path, 2, TEST_SEGMENTS) for path in files)


def test_single_networks(module: WeightedInferenceModule, tiny_videos: Path, tmp_path: Path) -> None:
    """Backbones without internal classifiers."""
    trainer = trainer_for(tmp_path, TradeOff(timed_videos=0))
    (results,) = trainer.test(module, data_of(tiny_videos), verbose=False)
    measured = MeasuredTradeOff.from_record(json.loads((tmp_path / "trade_off.json").read_text()))
    for stream, channels in CHANNELS.items():
        network: Any = module.networks.networks[stream]
        alone = measured.networks[stream]
        assert alone.top1 == pytest.approx(results[f"test/top1_alone/{stream}/final"])
        clip = torch.zeros(1, TEST_SEGMENTS, channels, 24, 24)
        assert alone.multiply_adds == 2 * cost_of(network.backbone, clip).total
        assert alone.seconds is None
    assert (measured.timed_videos, measured.test[0].seconds) == (0, None)


def test_a_lazy_test_leaves_the_files_alone(module: WeightedInferenceModule, tiny_videos: Path, tmp_path: Path) -> None:
    trainer_for(tmp_path, TradeOff()).test(module, data_of(tiny_videos, lazy=True), verbose=False)
    assert not list(tmp_path.glob("trade_off*"))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="`timed_videos`"):
        TradeOff(timed_videos=-1)
    with pytest.raises(ValueError, match=r"came LightningModule; take it out of `trainer.callbacks`"):
        TradeOff().setup(Trainer(logger=False), LightningModule(), "test")
