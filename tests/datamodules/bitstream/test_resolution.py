"""`resolution=`: against Pillow's antialiased resize of what is read at full size."""

import multiprocessing

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.bitstream import CompressedVideo, encode_frames
from datamodules.bitstream.resize import resize, resize_vectors

STREAMS = ("iframe", "mv", "residual", "rgb")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (24, 40, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    encode_frames([texture[t : t + 64, 2 * t : 2 * t + 96] for t in range(8)], path, gop_size=8)
    return path


def pillow(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, C) -> (height, width, C) float32, plane by plane."""
    planes = [Image.fromarray(frame[..., c].astype(np.float32)) for c in range(frame.shape[2])]
    return np.stack([np.asarray(p.resize((width, height), Image.Resampling.BILINEAR)) for p in planes], -1)


@pytest.mark.parametrize("size", [(32, 48), (20, 50), (64, 96), (128, 100)])
def test_resized_after_everything_was_computed_at_full_size(clip, size):
    with CompressedVideo(clip) as video:
        full = video.read(gop=0, position=5, streams=STREAMS)
        small = video.read(gop=0, position=5, streams=STREAMS, resolution=size)
        whole = video.read_gop(0, streams=STREAMS, resolution=size)
    scale = np.array([size[1] / 96, size[0] / 64], np.float32)
    np.testing.assert_allclose(small.mv, pillow(full.mv, *size) * scale, atol=1e-4)
    for stream in ("iframe", "residual", "rgb"):
        expected, found = pillow(getattr(full, stream), *size), getattr(small, stream)
        assert np.abs(found - expected).max() <= 0.5 + 1e-3, stream
    assert [small.mv.dtype, small.residual.dtype, small.iframe.dtype, small.rgb.dtype] == [
        np.float32,
        np.int16,
        np.uint8,
        np.uint8,
    ]
    np.testing.assert_array_equal(whole.mv[4], small.mv)
    np.testing.assert_array_equal(whole.residual[4], small.residual)
    np.testing.assert_array_equal(whole.rgb[5], small.rgb)
    np.testing.assert_array_equal(whole.iframe, small.iframe)


def test_a_uniform_motion_scales_with_the_frame():
    mv = np.broadcast_to(np.array([8, -6], np.int16), (1, 40, 60, 2))
    np.testing.assert_allclose(resize_vectors(mv, (20, 15)), np.broadcast_to([2.0, -3.0], (1, 20, 15, 2)), atol=1e-5)


def test_a_resolution_of_nothing_is_refused(clip):
    with CompressedVideo(clip) as video, pytest.raises(ValueError, match=r"resolution: expected .* got \(0, 8\)"):
        video.read(gop=0, streams=("iframe",), resolution=(0, 8))


def test_in_a_forked_child():
    """Where the threads do not exist that its parent resizes with."""
    frames = np.random.default_rng(0).integers(0, 256, (4, 256, 256, 3), np.uint8)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = resize(frames, (112, 112))
        with multiprocessing.get_context("fork").Pool(1) as pool:
            found = pool.apply_async(resize, (frames, (112, 112))).get(20)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(found, expected)
