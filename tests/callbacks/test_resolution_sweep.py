"""What a test leaves against loops over the same videos; costs, throughput, and modules that are refused."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from sklearn.metrics import average_precision_score
from torch.utils.data import DataLoader

from callbacks.resolution_sweep import ResolutionSweep
from datamodules.clip import ClipBatch, ClipSample
from lightning_modules.analysis.cost import cost_of
from lightning_modules.analysis.resolution_sweep import MeasuredResolutions
from lightning_modules.networks import resnet10
from lightning_modules.recognition import RecognitionModule

VIDEOS = 20


def label(index: int, multi_label: bool) -> torch.Tensor:
    several = torch.tensor([index % 2, index % 3 == 0, index % 5 < 2]).float()
    return several if multi_label else torch.tensor(index % 3)


def clips(index: int) -> torch.Tensor:
    """(2 views, T, C, H, W)."""
    return torch.randn(2, 2, 3, 32, 48, generator=torch.Generator().manual_seed(index))


class Videos(LightningDataModule):
    def __init__(self, multi_label: bool) -> None:
        super().__init__()
        self.multi_label = multi_label

    def test_dataloader(self) -> DataLoader:
        return DataLoader(range(VIDEOS), 8, collate_fn=self.collate)

    def collate(self, indices: list[int]) -> ClipBatch:
        labels = [label(index, self.multi_label) for index in indices]
        samples = [ClipSample({"rgb": clips(i)}, y, i, str(i), 0.0) for i, y in zip(indices, labels, strict=True)]
        return ClipBatch.from_samples(samples)


def run_test(folder: Path, multi_label: bool, **options: Any) -> tuple[RecognitionModule, MeasuredResolutions, float]:
    torch.manual_seed(3)
    module = RecognitionModule(resnet10(3, width=4), "rgb", multi_label=multi_label)
    quiet: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    callback = ResolutionSweep(sizes=[8, 16, 24, 64], **options)
    trainer = Trainer(accelerator="cpu", default_root_dir=folder, callbacks=[callback], **quiet)
    (results,) = trainer.test(module, Videos(multi_label), verbose=False)
    measured = MeasuredResolutions.from_record(json.loads((folder / "resolution_sweep.json").read_text()))
    return module, measured, results["test/mAP" if multi_label else "test/top1"]


@torch.no_grad()
def expected_score(module: RecognitionModule, size: int, upsampled: bool) -> float:
    """Video by video."""
    scores = []
    for index in range(VIDEOS):
        frames = F.interpolate(clips(index).flatten(0, 1), size=(size, size * 3 // 2), mode="bilinear")
        if upsampled:
            frames = F.interpolate(frames, size=(32, 48), mode="bilinear")
        scores.append(module.network.eval()(frames.unflatten(0, (2, 2))).mean(dim=0))
    logits, labels = torch.stack(scores), torch.stack([label(index, module.multi_label) for index in range(VIDEOS)])
    if module.multi_label:
        return float(average_precision_score(labels.numpy(), logits.numpy(), average="macro"))
    return float((logits.argmax(dim=1) == labels).float().mean())


@pytest.mark.parametrize("multi_label", [False, True])
def test_both_treatments_at_every_size(tmp_path: Path, capsys: pytest.CaptureFixture, multi_label: bool) -> None:
    is_timed = not multi_label
    module, measured, score = run_test(tmp_path, multi_label, timed_batch=2 if is_timed else 0)
    assert (measured.metric, measured.num_videos) == ("mAP" if multi_label else "top1", VIDEOS)
    assert list(measured.by_series) == ["native", "upsampled"]
    for series, points in measured.by_series.items():
        assert [point.size for point in points] == [8, 16, 24, 32]  # 64 is more than there is
        assert points[-1].score == pytest.approx(score, abs=1e-6)
        for point in points:
            assert point.score == pytest.approx(expected_score(module, point.size, series == "upsampled"), abs=1e-6)
            assert point.input_size == (point.size if series == "native" else 32)
            clip = torch.zeros(1, 2, 3, point.input_size, point.input_size * 3 // 2)
            assert point.multiply_adds == 2 * cost_of(module.network, clip).total
            assert point.paper == 2 * cost_of(module.network, clip, convention="paper").total
            assert (point.throughput is not None) == is_timed
            if point.throughput is not None:
                assert (point.throughput.batch_size, point.throughput.num_views) == (2, 2)
                assert point.throughput.clip == tuple(clip.shape[1:])
    scores = [point.score for point in measured.points]
    assert len(set(scores)) > 2, "the sizes make a difference"
    with open(tmp_path / "resolution_sweep.csv", newline="") as file:
        assert [float(row["score"]) for row in csv.DictReader(file)] == scores
    assert (tmp_path / "resolution_sweep.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "upsampled" in printed
    assert ("2 videos of 2 views at a time, float32" in printed) == is_timed


def test_refusals() -> None:
    with pytest.raises(ValueError, match="`sizes`"):
        ResolutionSweep(sizes=[])
    with pytest.raises(ValueError, match="LightningModule has no network, stream, test_metrics; take it out"):
        ResolutionSweep().setup(Trainer(logger=False), LightningModule(), "test")
