"""Two views of the same frames, on real files: of plain frames, and of the I-frames of compressed video."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.plugins import Precision
from torch.nn import functional as F

from datamodules.annotations import ClassFolders, VideoLists
from datamodules.bitstream import CompressedVideo, encode_frames
from datamodules.clip import ClipBatch
from datamodules.compressed_video import CompressedVideoDataModule
from datamodules.low_resolution import LowResolution
from datamodules.multi_resolution import MultiResolutionDataModule
from datamodules.transforms import PixelCrop, normalise
from datamodules.video_data_module import VideoDataModule

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*log_every_n_steps")

HEIGHT, WIDTH = 48, 64  # of the videos
MADE_FROM = ("tensor", "source")


@pytest.fixture(params=["pyav", "decord"])
def backend(request) -> str:
    if request.param == "decord":
        pytest.importorskip("decord", reason="decord has wheels for x86-64 Linux and Windows alone")
    return request.param


def make_data(root, kind=MultiResolutionDataModule, **options) -> VideoDataModule:
    options = {"low_resolution": LowResolution(16), "size": 32, "num_segments": 3, "batch_size": 2} | options
    data = kind(ClassFolders(str(root)), **options)
    data.trainer = SimpleNamespace(
        global_rank=0, world_size=1, state=SimpleNamespace(stage=None), precision_plugin=Precision()
    )
    return data


def compressed(root, **options) -> VideoDataModule:
    return make_data(root, CompressedVideoDataModule, **{"streams": ["mv", "residual", "iframe"]} | options)


def arrived(data: VideoDataModule, batches) -> list[ClipBatch]:
    """As networks see them."""
    return [data.on_after_batch_transfer(batch, 0) for batch in batches]


def epoch_of(data: VideoDataModule, epoch: int = 0) -> list[ClipBatch]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def assert_same(ours: list[ClipBatch], theirs: list[ClipBatch]) -> None:
    assert [batch.paths for batch in ours] == [batch.paths for batch in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.streams.keys() == other.streams.keys()
        assert all(torch.equal(one.streams[name], other.streams[name]) for name in one.streams)


def shrunk(high: torch.Tensor, side: int, antialias: bool = False) -> torch.Tensor:
    small = F.interpolate(high.flatten(0, 1), (side, side), mode="bilinear", align_corners=False, antialias=antialias)
    return small.unflatten(0, high.shape[:2])


class Recorder(LightningModule):
    """A network on the small view that remembers what it was given."""

    def __init__(self, stream: str = "rgb") -> None:
        super().__init__()
        self.stream, self.seen = stream, []
        self.layer = torch.nn.LazyLinear(2)

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        return F.cross_entropy(self.layer(batch.streams[self.stream].flatten(1)), batch.labels)

    def validation_step(self, batch, batch_idx):
        self.seen.append(batch)

    test_step = predict_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def make_trainer(tmp_path, **options) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": "callbacks" in options, "max_epochs": 2, "limit_val_batches": 0}
    return Trainer(default_root_dir=tmp_path, accelerator="cpu", **quiet | options)


class TestViews:
    def test_workers_send_the_large_view_and_the_device_makes_the_small_one(self, video_root, backend):
        data = make_data(video_root, backend=backend)
        assert data.streams == ["rgb", "rgb_high"]
        (sent, *_) = epoch_of(data)
        assert list(sent.streams) == ["rgb_high"]
        assert sent.streams["rgb_high"].dtype == torch.uint8
        high = normalise("rgb", sent.streams["rgb_high"])
        (batch,) = arrived(data, [sent])
        assert list(batch.streams) == data.streams
        assert torch.equal(batch.streams["rgb_high"], high)
        assert torch.equal(batch.streams["rgb"], shrunk(high, 16))

    @pytest.mark.parametrize("antialias", [False, True])
    def test_from_the_source_both_are_resized_from_the_same_crop(self, video_root, antialias, backend):
        low = LowResolution(16, "source", antialias)
        data = make_data(video_root, size=32, low_resolution=low, backend=backend)
        (batch, *_) = data.val_dataloader()
        assert list(batch.streams) == ["rgb", "rgb_high"]
        with CompressedVideo(batch.paths[0]) as video:
            frame = video.read(gop=0, position=4, streams=("rgb",), colorspace="tagged").rgb
        # 26 frames, 3 segments: round(25 / 3 * 0.5) = 4; 0.875 of 48 pixels is 42, in the middle.
        crop = torch.from_numpy(frame[3:45, 11:53]).permute(2, 0, 1)[None, None].float()
        for name, side, smooth in (("rgb", 16, antialias), ("rgb_high", 32, False)):
            found = batch.streams[name][0, :1].float()
            assert (found - shrunk(crop, side, smooth)[0]).abs().max() <= 1, "uint8 kernels round their weights"

    def test_one_view_alone(self, video_root, backend):
        data = make_data(video_root, low_resolution=None, backend=backend)
        assert data.streams == ["rgb"]
        (batch,) = arrived(data, epoch_of(data)[:1])
        assert {name: stream.shape for name, stream in batch.streams.items()} == {"rgb": (2, 3, 3, 32, 32)}

    @pytest.mark.parametrize("made_from", MADE_FROM)
    def test_one_geometry_and_one_flip_serve_both(self, tmp_path, made_from):
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        still = np.stack([x * 4, y * 5, 255 - x * 4], -1).astype(np.uint8)  # a pixel tells its place
        for name in ("train/a", "val/a", "test/a"):
            (tmp_path / name).mkdir(parents=True)
            for number in range(2):
                encode_frames([still] * 6, tmp_path / name / f"{number}.mp4")
        data = make_data(tmp_path, low_resolution=LowResolution(10, made_from), size=20, flip=0.5)
        flips = set()
        for epoch in range(8):
            for batch in arrived(data, epoch_of(data, epoch)):
                low, high = batch.streams["rgb"], batch.streams["rgb_high"]
                assert (low - shrunk(high, 10)).abs().max() < 0.3, "of 4, from left to right"
                flips |= set((high[:, 0, 0, 0, 0] > high[:, 0, 0, 0, -1]).tolist())
        assert flips == {False, True}

    @pytest.mark.parametrize("made_from", MADE_FROM)
    @pytest.mark.parametrize(
        ("options", "views", "frames"),
        [
            ({}, 1, 3),
            ({"test_crops": 3}, 3, 3),
            ({"test_crops": 10, "test_segments": 5}, 10, 5),
            ({"sampling": "dense", "frame_stride": 2, "test_crops": 3, "test_clips": 2}, 6, 3),
        ],
    )
    def test_views_of_a_test(self, video_root, made_from, options, views, frames, backend):
        data = make_data(video_root, low_resolution=LowResolution(16, made_from), backend=backend, **options)
        (batch,) = arrived(data, [next(iter(data.test_dataloader()))])
        assert batch.num_views == views
        assert {name: tuple(stream.shape) for name, stream in batch.streams.items()} == {
            "rgb": (views * len(batch), frames, 3, 16, 16),
            "rgb_high": (views * len(batch), frames, 3, 32, 32),
        }

    def test_a_dense_clip_is_a_run_of_frames(self, video_root, backend):
        data = make_data(video_root, sampling="dense", frame_stride=3, num_segments=8, size=42, backend=backend)
        batch = next(iter(data.test_dataloader()))
        with CompressedVideo(batch.paths[0]) as video:
            frames = np.concatenate([video.read_gop(g, streams=("rgb",)).rgb for g in range(len(video.gops))])
        # 26 frames, 8 of them 3 apart are 22: the clip in the middle starts at 2.
        shown = batch.streams["rgb_high"][0].permute(0, 2, 3, 1).numpy()
        assert np.abs(shown.astype(int) - frames[2:24:3, 3:45, 11:53]).max() <= 1

    def test_crops_of_absolute_size(self, video_root):
        data = make_data(video_root, size=20, low_resolution=LowResolution(10), pixel_crop=PixelCrop(40, 20))
        (batch,) = arrived(data, epoch_of(data)[:1])
        assert batch.streams["rgb"].shape[2:] == (3, 20, 10)
        assert batch.streams["rgb_high"].shape[2:] == (3, 40, 20)

    def test_the_papers_crops_are_the_default(self):
        data = MultiResolutionDataModule()
        assert data.reader.random_crops.scales == (1.0, 0.875, 0.75, 0.66)
        assert data.reader.shapes == {"rgb": (8, 3, 112, 112), "rgb_high": (8, 3, 224, 224)}


class TestBackends:
    def test_they_give_the_same_batches(self, video_root, encode_theirs):
        pytest.importorskip("decord", reason="decord has wheels for x86-64 Linux and Windows alone")
        tagged = {"x264-params": "colormatrix=bt709"}
        encode_theirs(video_root / "train/run/tagged.mp4", codec="libx264", b_frames=2, options=tagged)
        theirs, ours = (
            epoch_of(make_data(video_root, backend=backend, drop_last=False)) for backend in ("decord", "pyav")
        )
        assert [batch.paths for batch in ours] == [batch.paths for batch in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert (one.streams["rgb_high"].int() - other.streams["rgb_high"].int()).abs().max() <= 1

    def test_what_decord_misreads_is_replaced_and_named(self, video_root, encode_theirs):
        pytest.importorskip("decord", reason="decord has wheels for x86-64 Linux and Windows alone")
        path = video_root / "train/run/with_b_frames.avi"
        encode_theirs(path, codec="mpeg4", b_frames=2)
        refusing, reading = (
            epoch_of(make_data(video_root, backend=backend, drop_last=False)) for backend in ("decord", "pyav")
        )
        failures = [failure for batch in refusing for failure in batch.failures]
        assert [failure.path for failure in failures] == [str(path)]
        assert "use `backend: pyav`" in failures[0].reason
        assert sum(int(batch.substituted.sum()) for batch in refusing) == 1
        assert not any(batch.failures for batch in reading)

    def test_a_missing_package_is_found_before_the_first_video(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "decord", None)
        MultiResolutionDataModule()
        with pytest.raises(ModuleNotFoundError, match="needs the package decord"):
            MultiResolutionDataModule(backend="decord")


class TestDeterminism:
    @pytest.mark.parametrize("made_from", MADE_FROM)
    def test_workers_change_nothing(self, video_root, made_from, backend):
        options = {"low_resolution": LowResolution(16, made_from), "backend": backend}
        here, there = (epoch_of(make_data(video_root, num_workers=n, **options)) for n in (0, 2))
        assert_same(here, there)

    def test_epochs_and_seeds_differ(self, video_root):
        data = make_data(video_root)
        first = epoch_of(data)
        assert_same(first, epoch_of(data))
        for other in (epoch_of(data, 1), epoch_of(make_data(video_root, seed=1))):
            assert [batch.paths for batch in other] != [batch.paths for batch in first]

    def test_the_option_draws_nothing(self, video_root):
        plain, two, source = (
            epoch_of(make_data(video_root, low_resolution=low))
            for low in (None, LowResolution(16), LowResolution(16, "source"))
        )
        for one, *others in zip(plain, two, source, strict=True):
            assert all(torch.equal(one.streams["rgb"], other.streams["rgb_high"]) for other in others)

    def test_a_resumed_run_sees_the_same_data(self, video_root, tmp_path):
        def fit(resume=None):
            model = Recorder()
            saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
            make_trainer(tmp_path, callbacks=[saver]).fit(model, make_data(video_root), ckpt_path=resume)
            return model.seen

        undisturbed = fit()
        assert {name: stream.dtype for name, stream in undisturbed[0].streams.items()} == {
            "rgb": torch.float32,
            "rgb_high": torch.float32,
        }
        assert_same(fit(tmp_path / "step=3.ckpt"), undisturbed[3:])


def test_several_labels(video_root):
    (video_root / "list.txt").write_text("train/run/0.mp4 a,c\ntrain/run/1.mp4 b\n")
    annotations = VideoLists(str(video_root), train="list.txt", multi_label=True)
    data = MultiResolutionDataModule(annotations, size=32, low_resolution=LowResolution(16), augment=False)
    (batch,) = data.train_dataloader()
    assert batch.labels.tolist() == [[1, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize("made_from", MADE_FROM)
def test_predict_lists_what_cannot_be_read(video_root, tmp_path, made_from, backend):
    (tmp_path / "junk.mp4").write_bytes(b"junk")
    data = MultiResolutionDataModule(
        size=32,
        low_resolution=LowResolution(16, made_from),
        backend=backend,
        batch_size=1,
        num_segments=2,
        predict_paths=[str(video_root / "test/run"), str(tmp_path / "junk.mp4"), "/nowhere.mp4"],
    )
    model = Recorder()
    make_trainer(tmp_path).predict(model, data, return_predictions=False)
    assert [len(batch) for batch in model.seen] == [1, 1, 0, 0]
    assert [failure.path for failure in data.failures] == ["/nowhere.mp4", str(tmp_path / "junk.mp4")]
    assert {name: tuple(stream.shape) for name, stream in model.seen[-1].streams.items()} == {
        "rgb": (0, 2, 3, 16, 16),
        "rgb_high": (0, 2, 3, 32, 32),
    }


class TestIFrames:
    @pytest.mark.parametrize("made_from", MADE_FROM)
    def test_they_have_two_views_beside_the_other_streams(self, video_root, made_from):
        sizes = {"mv": 24, "residual": 24, "iframe": 32}
        data = compressed(video_root, size=sizes, low_resolution=LowResolution(16, made_from))
        assert data.streams == ["mv", "residual", "iframe", "iframe_high"]
        plain = compressed(video_root, size=sizes, low_resolution=None)
        ours, theirs = (arrived(some, epoch_of(some)) for some in (data, plain))
        for one, other in zip(ours, theirs, strict=True):
            assert one.paths == other.paths
            assert torch.equal(one.streams["iframe_high"], other.streams["iframe"])
            assert all(torch.equal(one.streams[name], other.streams[name]) for name in ("mv", "residual"))
            small = shrunk(one.streams["iframe_high"], 16)
            assert one.streams["iframe"].shape == small.shape
            assert made_from == "source" or torch.equal(one.streams["iframe"], small)

    @pytest.mark.parametrize("made_from", MADE_FROM)
    @pytest.mark.parametrize("order", [None, ["iframe_high", "mv", "iframe", "residual"]])
    def test_lazy_ones_are_the_same(self, video_root, made_from, order):
        options = {"low_resolution": LowResolution(16, made_from), "test_crops": 3}
        whole, lazy = compressed(video_root, **options), compressed(video_root, lazy=True, **options)
        for full, batch in zip(arrived(whole, whole.test_dataloader()), lazy.test_dataloader(), strict=True):
            batch = lazy.on_after_batch_transfer(batch, 0)
            assert batch.shapes == {name: tuple(stream.shape[1:]) for name, stream in full.streams.items()}
            for name in order or full.streams:
                clips, read = batch.load(name, range(len(batch)))
                assert read == list(range(len(full)))
                assert torch.equal(clips, full.streams[name]), name
            assert batch.load("iframe", [])[0].shape == (0, 3, 3, 16, 16)
            batch.finish()

    def test_a_second_view_of_a_lazy_clip_is_not_decoded_again(self, video_root, count_calls, backend):
        data = make_data(video_root, lazy=True, backend=backend, low_resolution=LowResolution(16, "source"))
        collects = count_calls(type(data.reader.plan(str(video_root / "test/run/0.mp4"))), "collect")
        batch = next(iter(data.test_dataloader()))
        for name in ("rgb", "rgb_high"):
            batch.load(name, [0])
        assert len(collects) == 1

    def test_an_empty_batch_has_all_of_them(self, video_root):
        for path in (video_root / "val/jump").glob("*.mp4"):
            path.write_bytes(b"")
        data = compressed(video_root, low_resolution=LowResolution(16), batch_size=3)
        (batch, _) = arrived(data, data.val_dataloader())
        assert {name: tuple(stream.shape) for name, stream in batch.streams.items()} == {
            "mv": (0, 3, 2, 32, 32),
            "residual": (0, 3, 3, 32, 32),
            "iframe": (0, 3, 3, 16, 16),
            "iframe_high": (0, 3, 3, 32, 32),
        }


def test_a_reader_can_be_narrowed_to_what_a_network_needs():
    data = CompressedVideoDataModule(streams=["mv", "iframe"], size=32, low_resolution=LowResolution(16))
    narrow = data.reader.narrowed(["iframe"])
    assert list(narrow.views) == ["iframe", "iframe_high"]
    assert narrow.source.streams == ("iframe",)
    assert data.reader.narrowed(["iframe_high"]).views == narrow.views


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (MultiResolutionDataModule, {"size": 0}, "size: expected at least 1, got 0"),
        (MultiResolutionDataModule, {"backend": "opencv"}, "backend: expected one of pyav, decord, got 'opencv'"),
        (
            MultiResolutionDataModule,
            {"low_resolution": LowResolution(64)},
            r"low_resolution\.size: expected at most that of the larger view",
        ),
        (
            CompressedVideoDataModule,
            {"streams": ["mv"], "low_resolution": LowResolution(16)},
            "low_resolution: expected iframe or rgb among streams, got mv",
        ),
    ],
)
def test_wrong_options_name_their_key(kind, options, message):
    with pytest.raises(ValueError, match=message):
        make_data("/nowhere", kind, **options)


def test_decord_cannot_skip_damaged_frames():
    pytest.importorskip("decord", reason="decord has wheels for x86-64 Linux and Windows alone")
    with pytest.raises(ValueError, match=r"on_corrupt .with backend 'decord'.: expected one of raise, got 'skip'"):
        make_data("/nowhere", backend="decord", on_corrupt="skip")


class TestConfigs:
    @staticmethod
    def parser() -> LightningArgumentParser:
        parser = LightningArgumentParser(parser_mode="omegaconf", exit_on_error=False)
        parser.add_subclass_arguments(LightningDataModule, "data")
        return parser

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ([], LowResolution()),
            (["--data.low_resolution.size=56"], LowResolution(56)),
            (["--data.low_resolution={made_from: source, antialias: true}"], LowResolution(112, "source", True)),
            (["--data.low_resolution=null"], None),
        ],
    )
    def test_the_option_is_reached_from_the_command_line(self, options, expected):
        parser = self.parser()
        name = "datamodules.multi_resolution.MultiResolutionDataModule"
        parsed = parser.parse_args([f"--data={name}", "--data.batch_size=3", *options])
        data = parser.instantiate(parsed).data
        assert data.reader.low == expected
        assert data.batch_size == 3

    @pytest.mark.parametrize("kind", [CompressedVideoDataModule, MultiResolutionDataModule])
    def test_every_key_is_documented(self, kind):
        keys = self.parser().add_class_arguments(kind, "nested")
        assert {"nested.low_resolution", "nested.max_bad_videos", "nested.test_crops"} <= set(keys)
        documented = kind.__doc__ + VideoDataModule.__doc__
        missing = [key for key in keys if f"\n        {key.removeprefix('nested.')}: " not in documented]
        assert not missing
        assert not {"nested.sizes", "nested.make_reader"} & set(keys), "what data modules settle themselves"
