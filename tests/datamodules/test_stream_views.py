import pickle
from functools import partial

import numpy as np
import pytest
import torch

from datamodules.clip import ClipBatch
from datamodules.low_resolution import LowResolution
from datamodules.stream_views import StreamView, normalise_batch, normalise_view, views_of
from datamodules.transforms import PixelCrop, normalise

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def weights(size: int, small: int, antialias: bool) -> np.ndarray:
    """(small, size) float64: what each pixel of a line weighs; centres are aligned, not corners."""
    scale = size / small
    centres = (np.arange(small) + 0.5) * scale - 0.5
    reach = max(scale, 1) if antialias else 1
    inside = centres if antialias else np.clip(centres, 0, size - 1)
    triangle = np.maximum(1 - np.abs(inside[:, None] - np.arange(size)) / reach, 0)
    return triangle / triangle.sum(1, keepdims=True)


def test_one_view_each_without_the_option():
    assert views_of({"mv": 8, "iframe": 16}) == {"mv": StreamView("mv", 8), "iframe": StreamView("iframe", 16)}


@pytest.mark.parametrize("made_from", ["tensor", "source"])
def test_streams_of_frames_have_two_views_and_others_one(made_from):
    views = views_of({"mv": 24, "iframe": 24, "rgb": 32}, LowResolution(16, made_from, antialias=True))
    assert {name: view.shape for name, view in views.items()} == {
        "mv": (2, 24, 24),
        "iframe": (3, 16, 16),
        "iframe_high": (3, 24, 24),
        "rgb": (3, 16, 16),
        "rgb_high": (3, 32, 32),
    }
    assert {name: view.made_from for name, view in views.items() if view.made_from} == (
        {"iframe": "iframe_high", "rgb": "rgb_high"} if made_from == "tensor" else {}
    )
    assert [name for name, view in views.items() if view.antialias] == ["iframe", "rgb"]


def test_a_pixel_crop_keeps_its_shape():
    views = views_of({"rgb": 20}, LowResolution(10), PixelCrop(height=40, width=20))
    assert {name: view.shape for name, view in views.items()} == {"rgb": (3, 20, 10), "rgb_high": (3, 40, 20)}


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("size", "small"), [(24, 12), (24, 7), (16, 16)])
def test_the_small_view_is_the_bilinear_formula_of_the_normalised_large_one(size, small, antialias):
    views = views_of({"rgb": size}, LowResolution(small, antialias=antialias))
    frames = torch.randint(256, (4, 3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = normalise_view(views, "rgb", frames)
    high = (frames.numpy() / 255 - MEAN[:, None, None]) / STD[:, None, None]
    line = weights(size, small, antialias)
    expected = np.einsum("yh,ntchw,xw->ntcyx", line, high, line)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(normalise_view(views, "rgb_high", frames), high, atol=2e-6)


def batch_of(streams: dict[str, torch.Tensor]) -> ClipBatch:
    size = len(next(iter(streams.values())))
    return ClipBatch(
        streams=streams,
        labels=torch.zeros(size, dtype=torch.int64),
        indices=torch.arange(size),
        paths=["clip.mp4"] * size,
        seconds=torch.zeros(size, dtype=torch.float64),
        corrupt_frames=torch.zeros(size, dtype=torch.int64),
        substituted=torch.zeros(size, dtype=torch.bool),
    )


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [2, 0])
def test_batches_get_the_view_that_workers_did_not_send(size, antialias):
    views = views_of({"mv": 8, "iframe": 16}, LowResolution(8, antialias=antialias))
    sent = {"mv": torch.full((size, 5, 2, 8, 8), 7), "iframe_high": torch.full((size, 5, 3, 16, 16), 90)}
    sent = {name: stream.to(torch.uint8) for name, stream in sent.items()}
    batch = normalise_batch(views, batch_of(dict(sent)))
    assert {name: tuple(stream.shape) for name, stream in batch.streams.items()} == {
        "mv": (size, 5, 2, 8, 8),
        "iframe": (size, 5, 3, 8, 8),
        "iframe_high": (size, 5, 3, 16, 16),
    }
    assert {stream.dtype for stream in batch.streams.values()} == {torch.float32}
    assert torch.equal(batch.streams["mv"], normalise("mv", sent["mv"]))
    torch.testing.assert_close(batch.streams["iframe"], batch.streams["iframe_high"][..., ::2, ::2])


def test_views_from_the_source_are_normalised_each():
    views = views_of({"rgb": 16}, LowResolution(8, "source"))
    sent = {"rgb": torch.full((1, 2, 3, 8, 8), 20), "rgb_high": torch.full((1, 2, 3, 16, 16), 90)}
    sent = {name: stream.to(torch.uint8) for name, stream in sent.items()}
    batch = normalise_batch(views, batch_of(dict(sent)))
    assert all(torch.equal(batch.streams[name], normalise("rgb", sent[name])) for name in sent)


def test_what_lazy_batches_normalise_with_is_small():
    function = partial(normalise_view, views_of({"rgb": 16}, LowResolution(8)))
    assert len(pickle.dumps(function)) < 1_000
