import pickle

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.plugins import MixedPrecision

from datamodules.clip import ClipBatch, ClipSample
from datamodules.failure import Failure


def make_batch(num_videos: int = 2, num_views: int = 3) -> ClipBatch:
    samples = [
        ClipSample(
            streams={"mv": torch.full((num_views, 4, 2, 8, 9), i, dtype=torch.uint8)},
            label=torch.tensor(i),
            index=10 + i,
            path=f"{i}.mp4",
            seconds=0.5,
            substituted=i == 1,
            failures=(Failure("bad.mp4", "torn"),) if i == 1 else (),
        )
        for i in range(num_videos)
    ]
    return ClipBatch.from_samples(samples)


def test_samples_stack_views_of_one_video_adjacent():
    batch = make_batch()
    assert len(batch) == 2
    assert batch.num_views == 3
    assert batch.streams["mv"].shape == (6, 4, 2, 8, 9)
    assert batch.streams["mv"][:, 0, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.indices.tolist() == [10, 11]
    assert batch.substituted.tolist() == [False, True]
    assert [str(f) for f in batch.failures] == ["bad.mp4: torn"]
    assert batch.seconds.dtype == torch.float64


def test_repr_shows_shapes_and_not_data():
    text = repr(make_batch())
    assert "mv: (6, 4, 2, 8, 9) uint8" in text
    assert "labels: (2,) int64" in text
    assert "tensor" not in text
    assert len(text) < 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"streams": {"mv": torch.zeros(5, 4, 2, 8, 9)}},
            r"\['mv'\]: expected \(B \* V, T, C, H, W\)",
        ),
        ({"streams": {"mv": torch.zeros(6, 2, 8, 9)}}, "got \\(6, 2, 8, 9\\)"),
        ({"streams": {}}, "at least one stream"),
        ({"indices": torch.zeros(3, dtype=torch.int64)}, r"indices: expected \(2,\)"),
        ({"paths": ["a"]}, "paths: expected 2"),
        ({"labels": torch.zeros(2, 3, 4)}, "labels: expected"),
        ({"num_views": 0}, "num_views"),
    ],
)
def test_shapes_are_checked(change, message):
    fields = {**make_batch().__dict__, **change}
    with pytest.raises(ValueError, match=message):
        ClipBatch(**fields)


def test_lightning_moves_every_tensor():
    moved = move_data_to_device(make_batch(), torch.device("meta"))
    assert isinstance(moved, ClipBatch)
    tensors = [*moved.streams.values(), moved.labels, moved.indices, moved.seconds, moved.substituted]
    assert {t.device.type for t in tensors} == {"meta"}
    assert moved.paths == ["0.mp4", "1.mp4"]


def test_mixed_precision_keeps_integers():
    batch = MixedPrecision("bf16-mixed", "cpu").convert_input(make_batch())
    assert batch.streams["mv"].dtype == torch.uint8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinning needs an accelerator")
def test_pin_memory_pins_every_tensor():
    pinned = make_batch().pin_memory()
    assert pinned.streams["mv"].is_pinned()
    assert pinned.labels.is_pinned()


def test_pin_memory_maps_every_tensor(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
    batch = make_batch()
    pinned = batch.pin_memory()
    assert pinned.streams["mv"] is not batch.streams["mv"]
    assert torch.equal(pinned.streams["mv"], batch.streams["mv"])


def test_pickles():
    batch = pickle.loads(pickle.dumps(make_batch()))
    assert torch.equal(batch.streams["mv"], make_batch().streams["mv"])


def test_empty_batch_keeps_shapes_and_failures():
    batch = ClipBatch.empty({"mv": (4, 2, 8, 9)}, [Failure("a", "b")], num_views=3)
    assert len(batch) == 0
    assert batch.streams["mv"].shape == (0, 4, 2, 8, 9)
    assert batch.failures == [Failure("a", "b")]
