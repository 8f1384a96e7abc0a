"""Features come back bit for bit and in the memory order they had; what is not whole is not there."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins import Precision
from torch import Tensor

from datamodules.annotations import ClassFolders
from datamodules.clip import ClipBatch
from datamodules.compressed_video import CompressedVideoDataModule
from datamodules.feature_store import FeatureFile, FeatureLayout, FeatureStore, UnreadVideos

SHAPES = {"mv/layer1": (2, 6, 5, 4), "mv/final": (1, 3, 1, 1)}


def make_features(count: int, dtype: torch.dtype = torch.float32, *, channels_last: bool = False) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    features = {name: torch.randn(count, *shape, generator=random).to(dtype) for name, shape in SHAPES.items()}
    if channels_last:
        frames = features["mv/layer1"].flatten(0, 1).contiguous(memory_format=torch.channels_last)
        features["mv/layer1"] = frames.unflatten(0, (count, 2))
    return features


def keep(path: Path, features: dict[str, Tensor], unread: UnreadVideos | None = None) -> FeatureFile:
    """Stores features in batches of 3, the last ones first."""
    count = len(features["mv/final"])
    layouts = {name: FeatureLayout.of(maps) for name, maps in features.items()}
    file = FeatureFile(path, count, layouts)
    with file.made_whole() as part, open(part, "r+b") as rows:
        for start in reversed(range(0, count, 3)):
            some = {name: maps[start : start + 3] for name, maps in features.items()}
            file.write(rows, range(start, min(start + 3, count)), some)
    file.finish(unread or UnreadVideos())
    return file


def opened(file: FeatureFile) -> FeatureStore:
    store = file.open()
    assert store is not None
    return store


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_come_back_as_they_were(tmp_path, dtype, channels_last):
    features = make_features(7, dtype, channels_last=channels_last)
    file = keep(tmp_path / "x.bin", features)
    assert file.num_bytes == file.path.stat().st_size == 7 * (2 * 6 * 5 * 4 + 3) * dtype.itemsize
    chosen = [4, 0, 6, 4]
    for name, found in opened(file).read(chosen).items():
        assert torch.equal(found, features[name][chosen])
        assert found.dtype == dtype
        assert found[0].stride() == features[name][0].stride()


def test_what_is_not_whole_or_something_else_is_not_there(tmp_path):
    file = keep(tmp_path / "x.bin", make_features(4))
    assert file.open() is not None
    assert FeatureFile(file.path, 5, file.layouts).open() is None
    assert FeatureFile(file.path, 4, {"mv/final": file.layouts["mv/final"]}).open() is None
    assert FeatureFile(tmp_path / "y.bin", 4, file.layouts).open() is None
    for torn in ("", "{", "[]", '{"failures": 1}'):
        file.path.with_suffix(".json").write_text(torn)
        assert file.open() is None, torn
    file.finish(UnreadVideos())
    file.path.write_bytes(file.path.read_bytes()[:-1])
    assert file.open() is None


def test_an_error_while_it_is_made_leaves_nothing(tmp_path):
    layouts = {name: FeatureLayout.of(maps) for name, maps in make_features(4).items()}
    with pytest.raises(KeyboardInterrupt), FeatureFile(tmp_path / "x.bin", 4, layouts).made_whole():
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


class TestBatches:
    @pytest.fixture
    def data(self, video_root, tmp_path) -> CompressedVideoDataModule:
        """Of 10 training videos, of which the second cannot be read and the third is damaged."""
        options = {"batch_size": 4, "augment": False, "shuffle": True, "num_workers": 1}
        data = CompressedVideoDataModule(ClassFolders(str(video_root)), ["mv"], size=16, **options)
        data.trainer = SimpleNamespace(
            global_rank=0, world_size=1, state=SimpleNamespace(stage=None), precision_plugin=Precision()
        )
        unread = UnreadVideos(failures={1: "torn"}, corrupt_frames={2: 5})
        data.serve_features({"train": opened(keep(tmp_path / "x.bin", make_features(10), unread))})
        return data

    @staticmethod
    def epoch(data: CompressedVideoDataModule, number: int) -> list[ClipBatch]:
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)
        return [data.on_after_batch_transfer(batch, 0) for batch in loader]

    def test_are_those_of_the_clips_without_the_clips(self, data):
        features = make_features(10)
        batches = self.epoch(data, 3)
        assert [len(batch) + len(batch.failures) for batch in batches] == [4, 4]
        data.setup("fit")  # from here on, clips
        for ours, clips in zip(batches, self.epoch(data, 3), strict=True):
            there = clips.indices != 1
            assert torch.equal(ours.indices, clips.indices[there])
            assert torch.equal(ours.labels, clips.labels[there])
            assert ours.paths == [path for path, kept in zip(clips.paths, there, strict=True) if kept]
            assert {name: len(maps) for name, maps in ours.streams.items()} == dict.fromkeys(SHAPES, int(there.sum()))
            for name, maps in ours.streams.items():
                assert torch.equal(maps, features[name][ours.indices])
            assert torch.equal(ours.corrupt_frames, 5 * (ours.indices == 2))

    def test_say_what_could_not_be_read(self, data):
        failures = [failure for number in range(4) for batch in self.epoch(data, number) for failure in batch.failures]
        assert {(failure.path, failure.reason) for failure in failures} == {(data.records("train")[1].path, "torn")}

    def test_of_nothing_are_empty(self, data):
        dataset = data.train_dataloader().dataset
        for batch in (dataset.collate([]), dataset.collate([1])):
            assert len(batch) == 0
            assert batch.streams["mv/layer1"].shape == (0, 2, 6, 5, 4)
