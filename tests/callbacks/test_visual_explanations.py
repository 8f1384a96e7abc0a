"""What a test leaves against the pure functions on the videos it should have chosen; and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from callbacks.visual_explanations import VisualExplanations
from datamodules.clip import ClipBatch, ClipSample
from lightning_modules.analysis.attention import attention_of
from lightning_modules.analysis.receptive_field import FieldArea, area_above, effective_receptive_field
from lightning_modules.analysis.target import AnalysisTarget
from lightning_modules.networks import resnet10
from lightning_modules.recognition import RecognitionModule

VIDEOS = {"val": range(100, 106), "test": range(9)}
CHANNELS = {"iframe": 3, "mv": 2, "mv+residual": 5}


def clip(index: int, stream: str) -> torch.Tensor:
    """(2 views, T, C, H, W) before normalisation."""
    generator = torch.Generator().manual_seed(index)
    return torch.randint(0, 255, (2, 4, CHANNELS[stream], 32, 40), generator=generator, dtype=torch.uint8)


def collate(indices: list[int]) -> ClipBatch:
    samples = [
        ClipSample(
            {stream: clip(index, stream) for stream in CHANNELS}, torch.tensor(index % 3), index, f"{index}.mp4", 0
        )
        for index in indices
    ]
    return ClipBatch.from_samples(samples)


class Videos(LightningDataModule):
    classes = ("a", "b", "c")

    def val_dataloader(self) -> DataLoader:
        return DataLoader(VIDEOS["val"], 4, collate_fn=collate)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(VIDEOS["test"], 4, collate_fn=collate)

    def on_after_batch_transfer(self, batch: ClipBatch, dataloader_idx: int) -> ClipBatch:
        batch.streams = {name: clips.float() / 255 - 0.5 for name, clips in batch.streams.items()}
        return batch


class ThreeNetworks(RecognitionModule):
    """Two more networks beside, and one without depths."""

    def __init__(self) -> None:
        super().__init__(resnet10(3, width=2), "iframe")
        self.other = resnet10(3, 2, width=2)
        self.joint = resnet10(3, 5, width=2)
        self.plain = nn.Linear(2, 3)

    def analysis_targets(self) -> dict[str, AnalysisTarget]:
        return super().analysis_targets() | {
            "motion/teacher": AnalysisTarget(self.other, "mv"),
            "joint": AnalysisTarget(self.joint, "mv+residual"),
            "plain": AnalysisTarget(self.plain, "mv"),
        }


def run_test(folder: Path, module: LightningModule, callback: VisualExplanations) -> None:
    quiet: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", default_root_dir=folder, callbacks=[callback], **quiet)
    trainer.test(module, Videos(), verbose=False)


@pytest.mark.parametrize(
    ("split", "chosen", "shown"), [("test", [1, 4, 7], [1, 7]), ("val", [101, 103, 105], [101, 105])]
)
def test_both_pictures_with_their_data(
    tmp_path: Path, capsys: pytest.CaptureFixture, split: Any, chosen: list[int], shown: list[int]
) -> None:
    torch.manual_seed(0)
    module = ThreeNetworks()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    callback = VisualExplanations(
        split=split, num_videos=3, shown_videos=2, shown_frames=2, depth="layer2", threshold=0.3, power=1.0
    )
    run_test(tmp_path, module, callback)
    networks = {
        "iframe": ("iframe", module.network),
        "motion/teacher": ("mv", module.other),
        "joint": ("mv+residual", module.joint),
    }
    areas = json.loads((tmp_path / "receptive_field.json").read_text())
    fields = np.load(tmp_path / "receptive_field.npz")
    record = json.loads((tmp_path / "attention.json").read_text())
    maps = np.load(tmp_path / "attention.npz")
    assert list(areas) == list(networks) == list(fields.files) == list(record["targets"])
    assert [video["path"] for video in record["videos"]] == [f"{index}.mp4" for index in shown]
    assert [video["class"] for video in record["videos"]] == ["abc"[index % 3] for index in shown]
    for name, (stream, network) in networks.items():
        clips = torch.stack([clip(index, stream)[0] for index in chosen]) / 255 - 0.5
        field = effective_receptive_field(network, clips, depth="layer2")
        np.testing.assert_allclose(fields[name], field.numpy(), rtol=1e-4, atol=1e-6)
        area = FieldArea(stream, "layer2", (32, 40), 0.3, *area_above(field, 0.3), num_videos=3, num_frames=4)
        assert FieldArea.from_record(areas[name]) == area
        attention = attention_of(network, clips[[0, 2]], depth="layer2", power=1.0)[:, [1, 3]]
        np.testing.assert_allclose(maps[f"{name}/attention"], attention.numpy(), rtol=1e-4, atol=1e-6)
        assert maps[f"{name}/frames"].shape == (2, 2, 32, 40, 3)
        assert f"{area.pixels:,}" in capsys.readouterr().out or name != "iframe"
    for name, (stream, _) in networks.items():  # frames as they are, and of joined streams the residual
        seen = np.stack([clip(index, stream)[0, [1, 3], -3:].movedim(1, -1).numpy() for index in shown]).astype(int)
        assert stream == "mv" or np.abs(maps[f"{name}/frames"] - seen).max() <= 2  # 0 and 254 became 0 and 255
    for name in ("receptive_field", "attention"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`shown_videos`"):
        VisualExplanations(num_videos=3, shown_videos=4)
    with pytest.raises(ValueError, match="`threshold`"):
        VisualExplanations(threshold=1.0)
    with pytest.raises(ValueError, match=r"`analysis_targets`, LightningModule has none.*`trainer.callbacks`"):
        VisualExplanations().setup(Trainer(logger=False), LightningModule(), "test")
    module = ThreeNetworks()
    module.analysis_targets = lambda: {"plain": AnalysisTarget(module.plain, "mv")}  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"`Backbone`\), came {'plain': 'Linear'}"):
        run_test(tmp_path, module, VisualExplanations())
    assert not list(tmp_path.iterdir())
