from dataclasses import replace

import numpy as np
import pytest
import torch

from datamodules.bitstream import CompressedVideo, UnreadableVideoError, build_index
from datamodules.bitstream.encode import encode_frames
from datamodules.clip import parts_of
from datamodules.clip_reader import ClipReader
from datamodules.index_cache import IndexCache
from datamodules.randomness import generator
from datamodules.sampling import FrameSampler
from datamodules.transforms import PixelCrop, RandomCrops, normalise
from datamodules.video_source import VideoSource


def make_reader(sizes, sampler=None, **options):
    source = VideoSource(parts_of(*sizes), IndexCache())
    return ClipReader(source, sizes, sampler or FrameSampler(3), RandomCrops(), **options)


HEIGHT, WIDTH = 48, 64  # of the videos


@pytest.fixture
def path(video_root):
    return str(video_root / "train/run/0.mp4")


def test_evaluation_views_are_centre_crops_of_what_the_video_holds(path):
    sizes = {"mv": 42, "residual": 42, "iframe": 42, "rgb": 42}  # 0.875 of 48: nothing is resized
    views = make_reader(sizes, reference="previous").read(path).streams
    # CoViAR: 26 frames, 3 segments, motion: round(24 / 3 * (s + 0.5)) + 1 = 5, 13, 21; GOPs of 12.
    with CompressedVideo(path) as video:
        frames = [
            video.read(gop=f // 12, position=f % 12, streams=tuple(sizes), reference="previous") for f in (5, 13, 21)
        ]
    cut = (slice(3, 45), slice(11, 53))
    for t, expected in enumerate(frames):
        shown = {name: view[0, t].permute(1, 2, 0).numpy() for name, view in views.items()}
        np.testing.assert_array_equal(shown["iframe"], expected.iframe[cut])
        np.testing.assert_array_equal(shown["rgb"], expected.rgb[cut])
        np.testing.assert_array_equal(shown["residual"], np.clip(expected.residual[cut] + 128, 0, 255))
        scaled = (expected.mv[cut] * (127.5 / 20)).astype(np.int32) + 128
        np.testing.assert_array_equal(shown["mv"], np.clip(scaled, 0, 255))
    assert views["mv"].float().sub(128).abs().max() > 0, "the video moves"


def test_streams_have_their_own_sizes_and_shapes(path):
    reader = make_reader({"mv": 16, "iframe": 24}, FrameSampler(4, num_clips=2), num_crops=3)
    views = reader.read(path).streams
    assert {name: tuple(view.shape) for name, view in views.items()} == {
        name: (6, *shape) for name, shape in reader.shapes.items()
    }
    assert reader.num_views == 6
    assert reader.shapes == {"mv": (4, 2, 16, 16), "iframe": (4, 3, 24, 24)}
    assert reader.read(path, generator(0)).streams["mv"].shape == (1, 4, 2, 16, 16)


def test_pixel_crops_serve_training_and_evaluation(path):
    reader = make_reader({"mv": 20, "iframe": 10}, pixel_crop=PixelCrop(40, 20, reach=0))
    assert reader.shapes == {"mv": (3, 2, 40, 20), "iframe": (3, 3, 20, 10)}
    with CompressedVideo(path) as video:
        vectors = video.read(gop=1, position=1, streams=("mv",)).mv[4:44, 22:42]
    expected = np.clip((vectors * (127.5 / 20)).astype(np.int32) + 128, 0, 255)
    np.testing.assert_array_equal(reader.read(path).streams["mv"][0, 1].permute(1, 2, 0).numpy(), expected)
    drawn = reader.read(path, generator(0)).streams
    assert {name: tuple(view.shape) for name, view in drawn.items()} == {
        name: (1, *shape) for name, shape in reader.shapes.items()
    }


def test_a_video_smaller_than_its_pixel_crop_is_refused(path):
    make_reader({"iframe": 20}, pixel_crop=PixelCrop(48, 64)).read(path)
    for rng in (None, generator(0)):
        with pytest.raises(UnreadableVideoError, match=r"expected at least 66x48 pixels, got 64x48; lower pixel_crop"):
            make_reader({"iframe": 20}, pixel_crop=PixelCrop(48, 66)).read(path, rng)


def test_one_decode_serves_all_streams_and_views(path, count_calls):
    reads = count_calls(CompressedVideo, "read_positions")
    make_reader({"mv": 16, "residual": 16, "iframe": 16}, FrameSampler(25), num_crops=10).read(path)
    assert [call["gop"] for call in reads] == [0, 1, 2], "each GOP once, whatever the number of segments"
    assert all(set(call["streams"]) == {"mv", "residual", "iframe"} for call in reads)


def test_one_geometry_serves_all_streams(tmp_path):
    y, x = np.mgrid[:48, :64]
    still = np.stack([x * 4, y * 5, x * 4], -1).astype(np.uint8)  # a pixel tells its place
    encode_frames([still] * 12, tmp_path / "still.mp4")
    reader = make_reader({"iframe": 20, "rgb": 20, "mv": 20}, FrameSampler(1))
    for seed in range(12):
        views = reader.read(str(tmp_path / "still.mp4"), generator(seed)).streams
        assert (views["iframe"].int() - views["rgb"].int()).abs().max() <= 3
        assert (views["mv"] == 128).all()


@pytest.mark.parametrize("seed", [None, *range(4)])
def test_a_joint_stream_has_the_channels_of_its_parts_and_one_geometry(path, seed):
    def views(*streams):
        rng = None if seed is None else np.random.default_rng(seed)
        return make_reader(dict.fromkeys(streams, 24)).read(path, rng).streams

    apart = views("mv", "residual", "iframe")
    joint = views("residual+mv", "iframe+mv+residual", "mv")
    assert torch.equal(joint["mv"], apart["mv"])
    assert torch.equal(joint["residual+mv"], torch.cat([apart["residual"], apart["mv"]], dim=2))
    whole = torch.cat([apart[stream] for stream in ("iframe", "mv", "residual")], dim=2)
    assert torch.equal(joint["iframe+mv+residual"], whole)
    expected = [normalise(stream, apart[stream]) for stream in ("iframe", "mv", "residual")]
    assert torch.equal(normalise("iframe+mv+residual", whole), torch.cat(expected, dim=2))


def test_iframes_alone_decode_keyframes_alone(path, count_calls):
    reads = count_calls(CompressedVideo, "read_iframes")
    views = make_reader({"iframe": 16}, FrameSampler(15)).read(path).streams
    assert views["iframe"].shape == (1, 15, 3, 16, 16)
    assert [call["gops"] for call in reads] == [[0, 1, 2]]


def test_the_key_decides_what_is_drawn(path):
    reader = make_reader({"mv": 32, "iframe": 32})
    first, again = (reader.read(path, generator(1, 2)).streams for _ in range(2))
    other = reader.read(path, generator(1, 3)).streams
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["iframe"], other["iframe"])


def test_views_of_a_rotated_file_stand_upright(path, monkeypatch):
    upright = make_reader({"rgb": 42}).read(path).streams["rgb"]
    index = replace(build_index(path), rotation=90)
    monkeypatch.setattr(IndexCache, "get", lambda *_: index)
    turned = make_reader({"rgb": 42}).read(path).streams["rgb"]
    torch.testing.assert_close(turned, upright.rot90(1, (3, 4)))
    make_reader({"rgb": 42}, pixel_crop=PixelCrop(WIDTH, HEIGHT)).read(path)  # a portrait now
    with pytest.raises(UnreadableVideoError, match=f"got {HEIGHT}x{WIDTH}"):
        make_reader({"rgb": 42}, pixel_crop=PixelCrop(HEIGHT, WIDTH)).read(path)
