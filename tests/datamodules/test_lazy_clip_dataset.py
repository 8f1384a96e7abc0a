"""Lazy clips of which workers read one stream, against a whole read, with a real Trainer between them and a model."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from datamodules.annotations import ClassFolders
from datamodules.bitstream import build_index
from datamodules.compressed_video import CompressedVideoDataModule
from datamodules.lazy_views import LazyViews

STREAMS = ("mv", "residual", "iframe")
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class Reader(LightningModule):
    """Reads the streams of some of the videos, one after the other, and keeps what came by path and stream."""

    def __init__(self, order, skipped=()):
        super().__init__()
        self.first_stream, self.order, self.skipped = order[0], order, skipped
        self.found, self.failures, self.corrupt_frames = {}, [], {}

    def predict_step(self, batch, batch_idx):
        chosen = [number for number, path in enumerate(batch.paths) if path not in self.skipped]
        for stream in self.order:
            clips, chosen = batch.load(stream, chosen)
            views = clips.unflatten(0, (len(chosen), batch.num_views))
            self.found |= {(batch.paths[number], stream): view for number, view in zip(chosen, views, strict=True)}
        paths = batch.paths
        batch.finish()
        assert not batch.ahead
        self.failures += batch.failures
        self.corrupt_frames |= dict(zip(batch.paths, batch.corrupt_frames.tolist(), strict=True))
        assert set(batch.paths) <= set(paths)


def make_data(root, **options) -> CompressedVideoDataModule:
    options = {"size": 16, "num_segments": 3, "eval_batch_size": 3, "test_crops": 3} | options
    return CompressedVideoDataModule(ClassFolders(str(root)), STREAMS, predict_paths=[str(root / "test")], **options)


def read_lazily(root, order, skipped=(), **options) -> Reader:
    module = Reader(order, skipped)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer.predict(module, make_data(root, lazy=True, **options), return_predictions=False)
    return module


def read_whole(root, **options):
    data = make_data(root, **options)
    data.setup("predict")
    for batch in data.predict_dataloader():
        yield data.on_after_batch_transfer(batch, 0)


@pytest.fixture
def paths(video_root) -> list[str]:
    return sorted(map(str, (video_root / "test").rglob("*.mp4")))


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The streams that this process reads of a video."""
    streams = []
    original = LazyViews.read

    def read(self, stream):
        streams.append(stream)
        return original(self, stream)

    monkeypatch.setattr(LazyViews, "read", read)
    return streams


@pytest.mark.parametrize("order", [STREAMS, ("iframe", "mv", "residual"), ("residual", "iframe", "mv")])
def test_workers_read_the_stream_that_every_video_needs(video_root, paths, asked, order):
    found = read_lazily(video_root, order, skipped=paths[1:2], num_workers=1).found
    assert asked == [order[1], order[1], order[2], order[2], *order[1:]], "of two in a batch of three, and of one"
    assert {path for path, _ in found} == {*paths} - {paths[1]}
    for batch in read_whole(video_root):
        for number, path in enumerate(batch.paths):
            for stream in STREAMS if path != paths[1] else ():
                views = batch.streams[stream].unflatten(0, (len(batch), 3))[number]
                assert torch.equal(found[path, stream], views), (path, stream)


def test_without_workers_each_is_read_when_it_is_due(video_root, asked):
    read_lazily(video_root, STREAMS)
    assert sorted(asked) == sorted(STREAMS * 4)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_stream_that_a_worker_cannot_read_is_a_failure(video_root, paths, damage, num_workers):
    damage(paths[0], 0)
    damage(paths[3], build_index(paths[3]).gops[1].start + 1)
    module = read_lazily(video_root, ("iframe", "mv", "residual"), num_workers=num_workers)
    assert sorted(failure.path for failure in module.failures) == [paths[0], paths[3]]
    assert {path for path, stream in module.found if stream == "iframe"} == {*paths} - {paths[0]}
    assert {path for path, stream in module.found if stream == "mv"} == {*paths} - {paths[0], paths[3]}


@pytest.mark.parametrize("order", [STREAMS, ("iframe", "mv", "residual")])
def test_damaged_frames_count_as_in_a_whole_read(video_root, paths, damage, order):
    damage(paths[2], build_index(paths[2]).gops[1].start + 2)
    module = read_lazily(video_root, order, num_workers=1, on_corrupt="skip")
    (expected,) = (batch for batch in read_whole(video_root, on_corrupt="skip", eval_batch_size=4))
    counts = dict(zip(expected.paths, expected.corrupt_frames.tolist(), strict=True))
    assert module.corrupt_frames == counts
    assert [path for path, count in counts.items() if count] == [paths[2]]


def test_no_stream_is_read_for_a_model_that_names_one_of_others(video_root):
    data = make_data(video_root, lazy=True, num_workers=1)
    data.trainer = Trainer(logger=False)
    data.trainer.strategy._lightning_module = Reader(["flow"])
    data.setup("predict")
    assert all(not batch.ahead for batch in data.predict_dataloader())
