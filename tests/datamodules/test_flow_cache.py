"""The flow stream of a data module: what it shows, what a cache on disk does, and who never asks for it."""

import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import Precision

from datamodules.annotations import ClassFolders
from datamodules.bitstream import CompressedVideo, UnreadableVideoError
from datamodules.bitstream.decoder import PacketDecoder
from datamodules.bitstream.flow import FlowMethod
from datamodules.clip_reader import ClipReader
from datamodules.compressed_video import CompressedVideoDataModule
from datamodules.flow_cache import FlowCache, FlowSettings, UnusableFlowError
from datamodules.index_cache import IndexCache
from datamodules.lazy_views import LazyViews
from datamodules.randomness import generator
from datamodules.sampling import FrameSampler
from datamodules.transforms import RandomCrops, quantise_vectors
from datamodules.video_source import ReencodeCache, VideoSource

pytest.importorskip("cv2")


def make_reader(streams=("flow",), *, stand_ins=None, on_corrupt="raise", size=42, **options):
    source = VideoSource(tuple(streams), IndexCache(), stand_ins, on_corrupt)
    return ClipReader(source, dict.fromkeys(streams, size), FrameSampler(3), RandomCrops(), **options)


def make_data(root, streams=("mv", "flow"), **options) -> CompressedVideoDataModule:
    options = {"size": 16, "batch_size": 2} | options
    data = CompressedVideoDataModule(ClassFolders(str(root)), streams, **options)
    data.trainer = SimpleNamespace(
        global_rank=0, world_size=1, state=SimpleNamespace(stage=None), precision_plugin=Precision()
    )
    return data


@pytest.fixture
def path(video_root):
    return str(video_root / "train/run/0.mp4")


@pytest.fixture
def computed(count_calls):
    """One entry for each time that flow is computed."""
    return count_calls(FlowMethod, "between")


def cached(tmp_path, **options):
    return FlowSettings(cache=str(tmp_path / "flow"), **options)


def file_of(path, settings, reference="iframe"):
    return FlowCache(settings.cache, settings, reference).file_of(path)


class TestStream:
    @pytest.mark.parametrize("reference", ["iframe", "previous"])
    def test_views_are_centre_crops_of_what_the_reader_gives(self, path, reference):
        view = make_reader(("iframe", "mv", "flow"), reference=reference).read(path).streams["flow"]
        with CompressedVideo(path) as video:
            options = {"streams": ("flow",), "reference": reference}
            flow = [video.read(gop=f // 12, position=f % 12, **options).flow for f in (5, 13, 21)]
        for t, expected in enumerate(flow):
            scaled = np.trunc(expected[3:45, 11:53].astype(np.float64) * (127.5 / 20)) + 128
            np.testing.assert_array_equal(view[0, t].permute(1, 2, 0).numpy(), np.clip(scaled, 0, 255))
        assert view.float().sub(128).abs().max() > 0, "the video moves"

    def test_streams_have_sizes_of_their_own(self, video_root):
        data = make_data(video_root, size={"mv": 8, "flow": 24})
        batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
        assert {name: tuple(clips.shape) for name, clips in batch.streams.items()} == {
            "mv": (2, 3, 2, 8, 8),
            "flow": (2, 3, 2, 24, 24),
        }
        assert batch.streams["flow"].dtype == torch.float32
        assert batch.streams["flow"].abs().max() <= 0.503

    def test_quantised_as_vectors(self):
        flow = np.float16([-30, -20, -1, -1 / 64, 0, 0.15625, 1, 19.9, 25])
        assert quantise_vectors(flow).tolist() == [0, 1, 122, 128, 128, 128, 134, 254, 255]

    @pytest.mark.parametrize("seed", range(4))
    def test_one_geometry_for_vectors_and_flow(self, path, seed, monkeypatch):
        """Flow that is equal to the vectors of its place gives an equal view, flipped or not."""

        def vectors_as_flow(reader, plan):
            frames = collect(reader, plan)
            return {place: replace(at, flow=at.mv.astype(np.float16)) for place, at in frames.items()}

        collect = ClipReader.collect
        monkeypatch.setattr(ClipReader, "collect", vectors_as_flow)
        views = make_reader(("mv", "flow"), size=24).read(path, generator(seed)).streams
        assert torch.equal(views["flow"], views["mv"])

    def test_a_flip_negates_x(self, path):
        reader = make_reader(num_crops=1)
        plain = reader.plan(path)
        frames = reader.collect(plain)
        flipped = reader.plan(path)
        flipped.geometries[:] = [type(g)(g.height, g.width, g.x, g.y, flip=True) for g in plain.geometries]
        ours, theirs = (reader.cut("flow", frames, plan)[0].int() - 128 for plan in (plain, flipped))
        assert ours[:, 0].abs().max() > 6
        assert torch.equal(theirs[:, 0].flip(-1), -ours[:, 0])
        assert torch.equal(theirs[:, 1].flip(-1), ours[:, 1])

    def test_vectors_may_scale_with_a_resize(self, path):
        kept, scaled = (
            make_reader(size=21, rescale_vectors=rescale).read(path).streams["flow"].float() - 128
            for rescale in (False, True)
        )
        torch.testing.assert_close(scaled, kept / 2, atol=1, rtol=0)
        assert kept.abs().max() > 10

    def test_lazy_streams_are_the_same(self, path, tmp_path):
        for flow in (FlowSettings(), cached(tmp_path)):
            reader = make_reader(("mv", "residual", "flow"), flow=flow)
            whole = reader.read(path).streams
            for order in (("flow", "mv", "residual"), ("mv", "residual", "flow")):
                lazy = LazyViews(reader, reader.plan(path), path)
                assert all(torch.equal(lazy.read(stream), whole[stream]) for stream in order)

    def test_workers_and_a_resume_change_nothing(self, video_root):
        here, there = (list(make_data(video_root, num_workers=n).train_dataloader()) for n in (0, 2))
        loader = make_data(video_root).train_dataloader()
        loader.load_state_dict({"epoch": 0, "batches": 2})
        for ours, theirs in [*zip(here, there, strict=True), *zip(here[2:], loader, strict=True)]:
            assert ours.paths == theirs.paths
            assert torch.equal(ours.streams["flow"], theirs.streams["flow"])
        assert here[0].streams["flow"].dtype == torch.uint8


class TestPrivileged:
    def test_only_training_reads_them(self, video_root, computed):
        data = make_data(video_root, privileged=["flow"], predict_paths=[str(video_root / "test")])
        for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
            assert all(set(data.on_after_batch_transfer(batch, 0).streams) == {"mv"} for batch in loader)
        assert not computed
        loader = iter(data.train_dataloader())
        num_measured = len(computed)
        batch = next(loader)
        assert len(computed) - num_measured == 2 * 3
        assert set(data.on_after_batch_transfer(batch, 0).streams) == {"mv", "flow"}

    def test_what_training_sees_of_other_streams_stays(self, video_root):
        batches = [
            next(iter(make_data(video_root, streams, **options).train_dataloader()))
            for streams, options in ((("mv", "flow"), {"privileged": ["flow"]}), (("mv",), {}))
        ]
        assert torch.equal(batches[0].streams["mv"], batches[1].streams["mv"])

    def test_lazy_batches_lack_them(self, video_root):
        data = make_data(video_root, privileged=["flow"], lazy=True)
        assert set(next(iter(data.test_dataloader())).shapes) == {"mv"}

    @pytest.mark.parametrize("privileged", [["mv", "flow"], ["residual"], "mv,flow"])
    def test_wrong_ones(self, video_root, privileged):
        with pytest.raises(ValueError, match="privileged: expected some of streams mv, flow, not all"):
            make_data(video_root, privileged=privileged)


class TestCache:
    @pytest.fixture
    def settings(self, tmp_path):
        return cached(tmp_path)

    @pytest.fixture
    def filled(self, path, settings):
        """The file of a video's flow."""
        make_reader(flow=settings).read(path)
        return file_of(path, settings)

    def refused(self, path, settings, **options):
        refusing = FlowSettings(cache=settings.cache, missing="refuse")
        with pytest.raises(UnreadableVideoError) as refused:
            make_reader(flow=refusing, **options).read(path)
        assert "streamkd flow" in refused.value.remedy
        return refused.value.reason

    def assert_rebuilt(self, path, settings, computed):
        num_before = len(computed)
        expected = make_reader().read(path, generator(1)).streams["flow"]
        assert len(computed) == num_before + 3
        assert torch.equal(make_reader(flow=settings).read(path, generator(1)).streams["flow"], expected)
        assert len(computed) == num_before + 3 + 23, "26 frames in 3 GOPs"
        assert torch.equal(make_reader(flow=settings).read(path, generator(1)).streams["flow"], expected)
        assert len(computed) == num_before + 3 + 23

    def test_missing(self, path, settings, computed):
        assert "is not in" in self.refused(path, settings)
        assert not computed
        self.assert_rebuilt(path, settings, computed)

    def test_flow_alone_is_not_even_decoded(self, path, settings, filled, monkeypatch):
        monkeypatch.setattr(PacketDecoder, "decode", lambda *_: pytest.fail("decoded"))
        assert make_reader(flow=settings).read(path).streams["flow"].shape == (1, 3, 2, 42, 42)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", "cut", "flipped"])
    def test_torn(self, path, settings, filled, computed, content):
        whole = filled.read_bytes()
        if content == "flipped":  # in the deflated flow of every frame
            places = range(97, len(whole) * 9 // 10, 97)
            content = bytes(byte ^ (index in places) for index, byte in enumerate(whole))
        filled.write_bytes(whole[:-100] if content == "cut" else content)
        assert "cannot be used" in self.refused(path, settings)
        self.assert_rebuilt(path, settings, computed)

    def test_random_damage_is_never_taken_for_flow(self, path, settings, filled):
        whole, cache = filled.read_bytes(), FlowCache(settings.cache, settings, "iframe")
        video, places = CompressedVideo(path), [(0, 1), (1, 5), (2, 1)]
        right, rng = cache.load(path, video, places), np.random.default_rng(0)
        for _ in range(300):
            damaged = bytearray(whole)
            for index in rng.integers(len(whole), size=rng.integers(1, 20)):
                damaged[index] ^= int(rng.integers(1, 256))
            filled.write_bytes(damaged)
            try:
                found = cache.load(path, video, places)
            except UnusableFlowError:
                continue
            assert all(np.array_equal(found[place], right[place]) for place in places)

    def test_another_state_of_the_video(self, path, video_root, settings, filled, computed):
        shutil.copy(video_root / "train/run/1.mp4", path)
        assert "another stamp" in self.refused(path, settings)
        self.assert_rebuilt(path, settings, computed)

    def test_another_video(self, path, video_root, settings, filled, computed):
        other = str(video_root / "train/run/1.mp4")
        shutil.copy(filled, self.made(file_of(other, settings)))
        assert "another video" in self.refused(other, settings)
        self.assert_rebuilt(other, settings, computed)

    @pytest.mark.parametrize(
        ("options", "reference"), [({"preset": "fast"}, "iframe"), ({"method": "tvl1"}, "iframe"), ({}, "previous")]
    )
    def test_another_recipe_has_files_of_its_own(self, path, settings, filled, options, reference):
        other = FlowSettings(cache=settings.cache, missing="refuse", **options)
        with pytest.raises(UnreadableVideoError, match="is not in"):
            make_reader(flow=other, reference=reference).read(path)
        shutil.copy(filled, self.made(file_of(path, other, reference)))
        with pytest.raises(UnreadableVideoError, match="another recipe"):
            make_reader(flow=other, reference=reference).read(path)

    def test_another_version(self, path, settings, filled, monkeypatch):
        monkeypatch.setattr("datamodules.flow_cache._VERSION", 2)
        assert "another version" in self.refused(path, settings)

    def test_another_coding_of_a_stand_in(self, b_frame_video, tmp_path, settings, monkeypatch):
        """Files belong to the listed video, whichever stand-in is read; not to one whose GOPs are others."""
        stand_ins = ReencodeCache(str(tmp_path / "re"))
        make_reader(flow=settings, stand_ins=stand_ins).read(str(b_frame_video))
        assert file_of(str(b_frame_video), settings).is_file()
        monkeypatch.setattr("datamodules.video_source._GOP_SIZE", 6)
        monkeypatch.setattr("datamodules.video_source._RECIPE", "mpeg4 gop 6")
        assert "another gops" in self.refused(str(b_frame_video), settings, stand_ins=stand_ins)

    def test_damaged_frames_passed_over_are_no_flow_of_a_strict_run(self, path, damage, settings):
        damage(path, 15)
        lenient = make_reader(flow=settings, on_corrupt="skip").read(path).streams["flow"]
        assert torch.equal(lenient, make_reader(on_corrupt="skip").read(path).streams["flow"])
        assert "damaged frames were passed over" in self.refused(path, settings)
        with pytest.raises(UnreadableVideoError, match="damaged at GOP 1, position 3"):
            make_reader(flow=settings).read(path)

    def test_a_killed_writer_leaves_nothing_that_is_read(self, path, settings, monkeypatch):
        monkeypatch.setattr(FlowMethod, "between", lambda *_: os._exit(9))
        pid = os.fork()
        if pid == 0:
            make_reader(flow=settings).read(path)
        os.waitpid(pid, 0)
        assert not file_of(path, settings).exists()
        monkeypatch.undo()
        make_reader(flow=settings).read(path)
        assert file_of(path, settings).is_file()

    def test_a_cache_that_cannot_be_written_is_an_error_of_the_file_system(self, path, tmp_path):
        (tmp_path / "flow").touch()
        with pytest.raises(OSError, match="flow"):
            make_reader(flow=cached(tmp_path)).read(path)

    def test_opencv_is_not_needed_to_read(self, path, settings, filled, monkeypatch):
        monkeypatch.setattr("datamodules.bitstream.flow.import_opencv", lambda: pytest.fail("imported"))
        refusing = FlowSettings(cache=settings.cache, missing="refuse")
        make_reader(flow=refusing).read(path)

    def test_unknown_policies(self):
        with pytest.raises(ValueError, match=r"flow\.missing: expected one of rebuild, refuse"):
            FlowSettings(missing="compute")
        with pytest.raises(ValueError, match=r"flow\.cache: expected a folder, got None; .* '\{cache: null\}'"):
            FlowSettings(cache="None")

    @staticmethod
    def made(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        return file


class TestCost:
    def messages(self, caplog):
        found = [r.getMessage() for r in caplog.records if "optical flow is computed" in r.getMessage()]
        caplog.clear()
        return found

    def test_an_uncached_run_says_it_once(self, video_root, caplog, monkeypatch):
        seconds = iter(np.arange(0, 100, 0.25))
        monkeypatch.setattr("datamodules.flow_cost.time", SimpleNamespace(perf_counter=lambda: next(seconds)))
        data = make_data(video_root)
        data.train_dataloader()
        data.val_dataloader()
        (said,) = self.messages(caplog)
        assert "250.0 ms a frame (dis-medium, the first 3 videos)" in said
        assert "streamkd flow --config" in said
        assert "\n" not in said

    def test_a_cache_says_what_it_lacks(self, video_root, tmp_path, caplog):
        settings = cached(tmp_path)
        paths = [record.path for record in make_data(video_root).records("train")]
        for path in paths[:4]:
            make_reader(flow=settings).read(path)
        make_data(video_root, privileged=["flow"], flow=settings).train_dataloader()
        (said,) = self.messages(caplog)
        assert "6 of 10 videos that" in said
        for path in paths[4:]:
            make_reader(flow=settings).read(path)
        make_data(video_root, privileged=["flow"], flow=settings).train_dataloader()
        assert not self.messages(caplog)

    def test_other_ranks_and_runs_without_flow_are_silent(self, video_root, caplog):
        data = make_data(video_root)
        data.trainer.global_rank, data.trainer.world_size = 1, 2
        data.train_dataloader()
        make_data(video_root, ["mv"]).train_dataloader()
        make_data(video_root, privileged=["flow"]).test_dataloader()
        assert not self.messages(caplog)

    def test_videos_that_cannot_be_read(self, video_root, caplog):
        for path in (video_root / "train").rglob("*.mp4"):
            path.write_bytes(b"")
        make_data(video_root).train_dataloader()
        assert "speed unknown" in self.messages(caplog)[0]


def test_missing_opencv_is_found_before_anything_is_read(video_root, monkeypatch):
    def missing():
        raise ModuleNotFoundError("streamkd[flow]")

    monkeypatch.setattr("datamodules.compressed_video.import_opencv", missing)
    with pytest.raises(ModuleNotFoundError, match="flow"):
        make_data(video_root, privileged=["flow"]).train_dataloader()
    make_data(video_root, privileged=["flow"]).val_dataloader()
