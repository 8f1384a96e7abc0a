"""Two ranks see what one sees: the same weights after training, the same metrics over unevenly cut splits."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

# Lightning runs it once a rank. One rank validates on all videos, the other on a batch whose videos were unreadable.
SCRIPT = """
import sys
from functools import partial

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from datamodules.clip import ClipBatch
from lightning_modules.networks import resnet10
from lightning_modules.recognition import RecognitionModule

torch.set_num_threads(1)


def batch(first, last, multi_label):
    videos = torch.arange(first, last)
    hot = (videos[:, None] % torch.tensor([2, 3, 5]) == 0).float()
    clips = [torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(first, last)]
    return ClipBatch(
        streams={"mv": torch.stack(clips) if clips else torch.empty(0, 1, 2, 32, 32)},
        labels=hot if multi_label else videos % 3,
        indices=videos,
        paths=[str(i) for i in videos.tolist()],
        seconds=torch.zeros(len(videos), dtype=torch.float64),
        corrupt_frames=torch.zeros(len(videos), dtype=torch.int64),
        substituted=torch.zeros(len(videos), dtype=torch.bool),
    )


class Data(LightningDataModule):
    def __init__(self, multi_label):
        super().__init__()
        self.multi_label = multi_label

    def loader(self, cuts):
        return DataLoader([batch(a, b, self.multi_label) for a, b in cuts], batch_size=None)

    def train_dataloader(self):
        rank, size = self.trainer.global_rank, 8 // self.trainer.world_size
        return self.loader([(8 * i + size * rank, 8 * i + size * (rank + 1)) for i in range(10)])

    def val_dataloader(self):
        if self.trainer.world_size == 1:
            return self.loader([(100, 107)])
        return self.loader([[(100, 100)], [(100, 102), (102, 107)]][self.trainer.global_rank])


def run(devices, multi_label):
    torch.manual_seed(0)
    network = resnet10(3, 2, width=4, input_norm=True)
    optimizer = partial(torch.optim.SGD, lr=0.01)
    module = RecognitionModule(
        network, "mv", optimizer=optimizer, multi_label=multi_label, freeze_batch_norm=True
    )
    options = {"strategy": "ddp", "use_distributed_sampler": False} if devices > 1 else {}
    trainer = Trainer(
        accelerator="cpu", devices=devices, max_epochs=1, logger=False, enable_checkpointing=False, **options
    )
    trainer.fit(module, Data(multi_label))
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if name != "loss"}
    return {"metrics": metrics, "weights": module.network.state_dict()}


if __name__ == "__main__":
    devices, path = int(sys.argv[1]), sys.argv[2]
    results = {multi_label: run(devices, multi_label) for multi_label in (False, True)}
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        torch.save(results, path)
"""


def run(tmp_path: Path, devices: int) -> dict[bool, dict[str, Any]]:
    """Metrics and weights after a fit on 1 or 2 devices, by whether videos have several labels."""
    script, result = tmp_path / "run.py", tmp_path / f"{devices}.pt"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, str(script), str(devices), str(result)],
        env=os.environ | {"PYTHONPATH": str(root)},
        check=True,
        timeout=120,
        capture_output=True,
    )
    return torch.load(result)


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    one, two = run(tmp_path, 1), run(tmp_path, 2)
    for multi_label in (False, True):
        expected, came = one[multi_label], two[multi_label]
        assert expected["metrics"]["val/num_videos"] == 7
        assert came["metrics"] == pytest.approx(expected["metrics"], rel=1e-5, abs=1e-6)
        for name, value in expected["weights"].items():
            torch.testing.assert_close(came["weights"][name], value, rtol=1e-5, atol=1e-5)
