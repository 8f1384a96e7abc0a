"""The callback against the pure functions on the samples it should have chosen; and what it leaves alone."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader

from callbacks.flatness import Flatness
from datamodules.clip import ClipBatch, ClipSample
from lightning_modules.analysis.flatness import FlatnessMeasurement, MeasuredFlatness
from lightning_modules.analysis.loss_surface import LossSurface
from lightning_modules.networks import resnet10
from lightning_modules.recognition import RecognitionModule

CHEAP = FlatnessMeasurement(num_probes=2, max_products=2, num_directions=1, line_points=3, plane_points=3)
VIDEOS = 9


def clip(index: int) -> torch.Tensor:
    """(2 views, T, C, H, W) of a validation video, before normalisation."""
    return torch.randint(0, 255, (2, 2, 2, 16, 16), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)


def collate(indices: list[int]) -> ClipBatch:
    return ClipBatch.from_samples(
        [ClipSample({"mv": clip(index)}, torch.tensor(index // 3), index, str(index), 0.0) for index in indices]
    )


class Videos(LightningDataModule):
    """Three classes one after the other."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(range(100, 102), 2, collate_fn=lambda _: collate([0, 4]))

    def val_dataloader(self) -> DataLoader:
        return DataLoader(range(VIDEOS), 4, collate_fn=collate)

    test_dataloader = val_dataloader

    def on_after_batch_transfer(self, batch: ClipBatch, dataloader_idx: int) -> ClipBatch:
        batch.streams = {"mv": batch.streams["mv"].float() / 255 - 0.5}
        return batch


def module() -> RecognitionModule:
    torch.manual_seed(0)
    return RecognitionModule(resnet10(3, 2, width=2, dropout=0.5), "mv")


def trainer(folder: Path, callback: Flatness, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", max_epochs=1, default_root_dir=folder, callbacks=[callback], **(quiet | options))


def expected_of(network: torch.nn.Module, videos: list[int], **options: Any) -> MeasuredFlatness:
    batch = collate(videos)
    clips = batch.streams["mv"].float() / 255 - 0.5
    return CHEAP(LossSurface(network, [(clips, batch.labels.repeat_interleave(2))], **options))


def read(folder: Path) -> dict[str, MeasuredFlatness]:
    record = json.loads((folder / "flatness.json").read_text())
    assert "equal architecture" in record["note"]
    return {name: MeasuredFlatness.from_record(entry) for name, entry in record["targets"].items()}


def assert_close(found: MeasuredFlatness, expected: MeasuredFlatness) -> None:
    """Equal up to the rounding of other batches."""
    assert found.shapes == expected.shapes
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert found.trace.value == pytest.approx(expected.trace.value, rel=1e-3)
    assert found.top_eigenvalue.value == pytest.approx(expected.top_eigenvalue.value, rel=1e-3)
    assert found.lines.losses[0] == pytest.approx(expected.lines.losses[0], rel=1e-4)


def test_after_test_on_videos_of_all_classes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = module()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    callback = Flatness(num_samples=3, batch_size=2, measurement=CHEAP)
    trainer(tmp_path, callback, enable_progress_bar=True).test(model, Videos(), verbose=False)
    found = read(tmp_path)["mv"]
    assert_close(found, expected_of(model.network, [1, 4, 7]))
    assert found.trace.num_samples == 6  # two views each
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    with open(tmp_path / "flatness_lines.csv") as file:
        rows = [*csv.DictReader(file)]
    assert [float(row["loss"]) for row in rows] == found.lines.losses[0]
    with open(tmp_path / "flatness_planes.csv") as file:
        rows = [*csv.DictReader(file)]
    assert [float(row["loss"]) for row in rows] == [loss for row in found.plane.losses for loss in row]
    assert [float(row["x"]) for row in rows[:3]] == found.plane.steps
    assert (tmp_path / "flatness.png").read_bytes().startswith(b"\x89PNG")
    assert "flatness of mv: Hessian trace" in capsys.readouterr().out


def test_after_fit_of_the_trained_network(tmp_path: Path) -> None:
    model, undisturbed = module(), module()
    callback = Flatness(when="fit", num_samples=100, hold=["conv1", "bn1"], measurement=CHEAP)
    for network, folder, measure in ((model, tmp_path, callback), (undisturbed, tmp_path / "other", Flatness())):
        torch.manual_seed(1)
        trainer(folder, measure).fit(network, Videos())
    names = [name for name, _ in model.network.named_parameters() if not name.startswith(("conv1", "bn1"))]
    assert_close(read(tmp_path)["mv"], expected_of(undisturbed.network, [*range(VIDEOS)], parameters=names))
    assert not (tmp_path / "other" / "flatness.json").exists()


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`num_samples`"):
        Flatness(num_samples=0)
    with pytest.raises(ValueError, match=r"`analysis_targets`, LightningModule has none.*`trainer.callbacks`"):
        Flatness().setup(Trainer(logger=False), LightningModule(), "test")
