import numpy as np
import pytest
import torch

from datamodules.randomness import generator
from datamodules.transforms import (
    STREAM_FORMATS,
    Geometry,
    PixelCrop,
    RandomCrops,
    cut_view,
    fixed_crops,
    normalise,
    num_channels,
    quantise_residual,
    quantise_vectors,
)

EXTREMES = np.array([-32768, -32767, -300, -21, -20, -19, -1, 0, 1, 19, 20, 21, 300, 32767], np.int16)


def vector_level(pixels: int) -> int:
    """CoViAR: `(mv * (127.5 / 20)).astype(int32) + 128`, clipped; in exact integer arithmetic."""
    magnitude = abs(pixels) * 51 // 8
    return min(max((magnitude if pixels >= 0 else -magnitude) + 128, 0), 255)


def test_vectors_are_quantised_as_coviar_does():
    values = np.concatenate([np.arange(-300, 301), EXTREMES]).astype(np.int16)
    levels = quantise_vectors(np.stack([values, values], -1))
    assert levels.dtype == np.uint8
    assert levels[:, 0].tolist() == [vector_level(int(v)) for v in values]


def test_residuals_are_quantised_without_overflow():
    values = np.array([-32768, -255, -129, -128, -1, 0, 1, 127, 128, 255, 32767], np.int16)
    expected = [0, 0, 0, 0, 127, 128, 129, 255, 255, 255, 255]
    assert quantise_residual(values).tolist() == expected


def test_flip_negates_x_even_at_the_extremes():
    field = np.stack([EXTREMES, EXTREMES], -1)[None].repeat(len(EXTREMES), 0)
    view = cut_view("mv", [field], Geometry(flip=True), len(EXTREMES))[0]
    assert view[0, 0].flip(0).tolist() == [vector_level(-int(v)) for v in EXTREMES]
    assert view[1, 0].flip(0).tolist() == [vector_level(int(v)) for v in EXTREMES]


@pytest.mark.parametrize("stream", list(STREAM_FORMATS))
def test_flipping_the_video_is_flipping_the_view(stream):
    channels = num_channels(stream)
    field = np.random.default_rng(0).integers(-40, 40, (24, 36, channels)).astype(np.int16)
    if not STREAM_FORMATS[stream].is_motion:
        field = field.astype(np.uint8)
    if stream == "flow":
        field = (field / 64).astype(np.float16)
    mirrored = field[:, ::-1].copy()
    if STREAM_FORMATS[stream].is_vector:
        mirrored[..., 0] *= -1
    plain = Geometry(0.5, 0.75, 0.25, 0.5)
    opposite = Geometry(0.5, 0.75, 0.75, 0.5, flip=True)
    ours, theirs = cut_view(stream, [field], opposite, 16), cut_view(stream, [mirrored], plain, 16)
    assert torch.equal(ours, theirs)


class TestGeometryIsShared:
    """A video whose pixel (x, y) holds its own place, in every stream's own scale."""

    HEIGHT, WIDTH = 64, 100

    def place_field(self, stream: str) -> np.ndarray:
        y, x = np.mgrid[: self.HEIGHT, : self.WIDTH]
        if STREAM_FORMATS[stream].is_vector:
            # Levels 128 + trunc(6.375 v): v = 1 .. 19 tells x // 6 apart; y likewise.
            return np.stack([x // 6 + 1, y // 6 + 1], -1).astype(np.int16)
        if stream == "residual":
            return np.stack([x - 128, y - 128, x], -1).astype(np.int16)
        return np.stack([x, y, x], -1).astype(np.uint8)

    @pytest.mark.parametrize("seed", range(20))
    def test_every_stream_shows_the_same_places(self, seed):
        offsets = "random" if seed % 2 else "fixed"
        geometry = RandomCrops(scales=(1 - seed / 40,), offsets=offsets).draw(generator(seed))
        side = geometry.box(self.HEIGHT, self.WIDTH)[2]  # compared without a resize
        views = {s: cut_view(s, [self.place_field(s)], geometry, side)[0] for s in STREAM_FORMATS}
        assert torch.equal(views["iframe"][:2], views["residual"][:2])
        assert torch.equal(views["iframe"], views["rgb"])
        vectors = views["mv"].int() - 128
        sign = -1 if geometry.flip else 1
        cells = torch.trunc((views["iframe"][:2].int() // 6 + 1) * 6.375).int()
        cells[0] = torch.trunc(sign * (views["iframe"][0].int() // 6 + 1) * 6.375).int()
        assert torch.equal(vectors, cells)
        assert torch.equal(views["flow"], views["mv"])

    def test_resized_streams_show_the_same_places(self):
        geometry = Geometry(0.75, 0.875, 0.25, 1.0)
        small, large = (cut_view("iframe", [self.place_field("iframe")], geometry, s).float() for s in (28, 56))
        assert (torch.nn.functional.avg_pool2d(large, 2) - small).abs().max() <= 1


def test_random_crops_are_tsns():
    """Sides at most one step apart, and the 13 fixed places."""
    scales = (1.0, 0.875, 0.75, 0.66)
    drawn = [RandomCrops(scales).draw(generator(i)) for i in range(2000)]
    steps = {(scales.index(g.height), scales.index(g.width)) for g in drawn}
    assert steps == {(i, j) for i in range(4) for j in range(4) if abs(i - j) <= 1}
    quarters = {(int(4 * g.x), int(4 * g.y)) for g in drawn}
    corners = {(0, 0), (4, 0), (0, 4), (4, 4), (2, 2)}
    assert quarters == corners | {(0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3)}
    assert 0.45 < np.mean([g.flip for g in drawn]) < 0.55
    assert not any(RandomCrops(flip=0).draw(generator(i)).flip for i in range(50))


def test_boxes_in_pixels():
    assert Geometry(0.875, 0.875).box(256, 340) == (16, 58, 224, 224)  # CoViAR: 224 of 256 x 340
    assert Geometry(1.0, 0.75, 1.0, 0.0).box(256, 340) == (0, 148, 256, 192)
    assert Geometry(0.75, 0.75, 0.0, 1.0).box(340, 256) == (148, 0, 192, 192)
    assert Geometry(0.1, 0.1).box(3, 3) == (1, 1, 1, 1)


class TestPixelCrops:
    CROP = PixelCrop(212, 128)

    @pytest.mark.parametrize("frame", [(216, 136), (332, 488), (288, 612)])
    def test_the_frame_s_size_does_not_change_the_scale(self, frame):
        """A pixel tells its distance from the frame's centre: all frames of whatever size give one view."""
        y, x = (np.arange(side) - side / 2 for side in frame)
        place = np.stack(np.broadcast_arrays(y[:, None] + 106, x[None] + 64, 7), -1).astype(np.int16).astype(np.uint8)
        view = cut_view("iframe", [place], Geometry(0.5, 0.25, pixels=self.CROP), 128)
        assert view.shape == (1, 3, 212, 128)
        assert view[0, 0, :, 0].tolist() == list(range(212))
        assert view[0, 1, 0].tolist() == list(range(128))

    def test_boxes(self):
        box = {place: self.CROP.box(312, 428, x=place, y=place) for place in (0.0, 0.5, 1.0)}
        assert box == {0.0: (0, 0, 212, 128), 0.5: (50, 150, 212, 128), 1.0: (100, 300, 212, 128)}

    @pytest.mark.parametrize(("frame", "lefts"), [((216, 136), range(9)), ((216, 428), range(140, 161))])
    def test_reach_bounds_the_distance_from_the_centre(self, frame, lefts):
        crop = PixelCrop(212, 128, reach=10)
        drawn = [RandomCrops(offsets="random").draw(generator(i)) for i in range(500)]
        seen = {crop.box(*frame, x=g.x, y=g.y)[1] for g in drawn}
        assert seen == set(lefts)
        assert {crop.box(*frame, x=g.x, y=g.y)[0] for g in drawn} == set(range(5))

    def test_views_are_never_squashed(self):
        assert Geometry(pixels=self.CROP).view_size(64) == (106, 64)
        assert Geometry(pixels=PixelCrop(128, 212)).view_size(64) == (64, 106)
        assert Geometry(0.5, 1.0).view_size(64) == (64, 64)

    @pytest.mark.parametrize("wrong", [(0, 5), (5, -1), (5, 5, -1)])
    def test_sizes_that_make_no_sense(self, wrong):
        with pytest.raises(ValueError, match="pixel_crop: expected height and width from 1"):
            PixelCrop(*wrong)


def test_evaluation_crops():
    assert fixed_crops(1, 0.875) == [Geometry(0.875, 0.875)]
    assert [g.x for g in fixed_crops(3, 1.0)] == [0, 0.5, 1]
    assert [g.y for g in fixed_crops(3, 1.0, landscape=False)] == [0, 0.5, 1]
    ten = fixed_crops(10, 0.875)
    assert len(set(ten)) == 10
    assert sum(g.flip for g in ten) == 5
    with pytest.raises(ValueError, match="test_crops: expected one of 1, 3, 10, got 5"):
        fixed_crops(5, 1.0)


def test_resize_is_bilinear_on_integers():
    frames = [np.random.default_rng(i).integers(0, 256, (40, 48, 3), dtype=np.uint8) for i in range(2)]
    view = cut_view("iframe", frames, Geometry(), 24)
    crop = torch.from_numpy(np.stack(frames)[:, :, 4:44]).permute(0, 3, 1, 2).float()
    exact = torch.nn.functional.interpolate(crop, size=(24, 24), mode="bilinear", antialias=False)
    assert view.dtype == torch.uint8
    assert view.is_contiguous()
    assert (view - exact).abs().max() <= 1


def test_rescaled_vectors_follow_the_resize():
    field = np.full((32, 64, 2), 10, np.int16)
    geometry = Geometry(1.0, 0.5)
    kept = cut_view("mv", [field], geometry, 16)
    scaled = cut_view("mv", [field], geometry, 16, rescale_vectors=True)
    assert kept[0, :, 0, 0].tolist() == [vector_level(10)] * 2
    assert scaled[0, :, 0, 0].tolist() == [vector_level(10), vector_level(5)]


def test_normalisation_in_closed_form():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    unit = torch.arange(256, dtype=torch.float64).view(1, 16, 16) / 255
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1)
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1)
    expected = {"mv": unit - 0.5, "residual": (unit - 0.5) / std, "iframe": (unit - mean) / std}
    for stream, values in expected.items():
        channels = num_channels(stream)
        frames = levels.expand(1, channels, 16, 16)
        result = normalise(stream, frames)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result[0].double(), values.expand(channels, 16, 16), atol=1e-6, rtol=0)
        assert frames.dtype == torch.uint8
