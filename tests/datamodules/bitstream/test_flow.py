"""Optical flow against motion that is known because we rendered it."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from datamodules.bitstream import CompressedVideo, build_index, encode_frames
from datamodules.bitstream.decoder import PacketDecoder
from datamodules.bitstream.flow import FlowMethod, compact, import_opencv

cv2 = pytest.importorskip("cv2")

HEIGHT, WIDTH, SIDE = 128, 192, 64
# Whole pixels per frame, each other than its neighbours; (x, y) of the object's corner at frame k is their sum up to k.
STEPS = np.array([(0, 0), (1, 0), (2, 1), (4, -2), (6, 1), (3, 3), (-2, 1), (-5, -3), (-3, 2), (2, -1), (5, 2), (1, 3)])
CORNERS = np.array([50, 30]) + STEPS.cumsum(0)


def texture(height: int, width: int, seed: int) -> np.ndarray:
    """(H, W, 3) uint8 with detail of all sizes, so that flow is well defined everywhere and at every scale."""
    rng, total = np.random.default_rng(seed), np.zeros((height, width, 3))
    for blur in (2, 4, 8, 16):
        noise = gaussian_filter(rng.normal(size=total.shape), (blur, blur, 0), mode="wrap")
        total += noise / noise.std()
    return (128 + 30 * total).clip(0, 255).astype(np.uint8)


def moving_object() -> list[np.ndarray]:
    background, thing = texture(HEIGHT, WIDTH, 0), texture(SIDE, SIDE, 1)
    frames = [background.copy() for _ in CORNERS]
    for frame, (x, y) in zip(frames, CORNERS, strict=True):
        frame[y : y + SIDE, x : x + SIDE] = thing
    return frames


def inside(field: np.ndarray, position: int) -> np.ndarray:
    """The part of a field (H, W, 2) that lies well inside the object at a frame."""
    (x, y), margin = CORNERS[position], 12
    return field[y + margin : y + SIDE - margin, x + margin : x + SIDE - margin].astype(np.float64)


def error_inside(field: np.ndarray, position: int, expected: np.ndarray) -> float:
    """Pixels on average between flow and the known motion."""
    return float(np.linalg.norm(inside(field, position) - expected, axis=-1).mean())


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("flow") / "moving.mp4"
    encode_frames(moving_object(), path, gop_size=len(STEPS))
    return path


def read(path, positions, streams=("flow",), **options):
    with CompressedVideo(path) as video:
        return video.read_positions(0, positions, streams=streams, **options)


P_FRAMES = range(1, len(STEPS))


@pytest.mark.parametrize("method", [FlowMethod(), FlowMethod("tvl1")], ids=lambda method: method.name)
def test_a_known_translation_is_recovered(method):
    frame = texture(96, 128, 2)
    for x, y in ((2.0, 0.0), (-1.0, 1.5), (0.5, -2.0)):
        moved = np.stack([shift(frame[..., c].astype(float), (y, x), order=3, mode="nearest") for c in range(3)], -1)
        flow = method.between(frame, moved.clip(0, 255).astype(np.uint8))
        assert (flow.shape, flow.dtype) == ((96, 128, 2), np.float32)
        assert np.linalg.norm(flow[16:-16, 16:-16] - (x, y), axis=-1).mean() < 0.1


def test_flow_is_that_of_frame_k_minus_1_to_k(path):
    """The object accelerates: flow of any other pair of frames would be off by a pixel or more."""
    for k, at in zip(P_FRAMES, read(path, P_FRAMES, reference="previous"), strict=True):
        assert error_inside(at.flow, k, STEPS[k]) < 0.25, k
        others = [STEPS[n] for n in (k - 1, k + 1) if 0 <= n < len(STEPS)]
        assert min(error_inside(at.flow, k, other) for other in others) > 0.75, k


def test_background_rests(path):
    (at,) = read(path, [4], reference="previous")
    assert np.abs(at.flow[:, -30:]).max() < 0.25


def test_accumulated_flow_is_that_of_the_iframe_to_k(path):
    for k, at in zip(P_FRAMES, read(path, P_FRAMES, reference="iframe"), strict=True):
        assert error_inside(at.flow, k, CORNERS[k] - CORNERS[0]) < 0.25, k


@pytest.mark.parametrize("reference", ["previous", "iframe"])
def test_motion_vectors_agree(path, reference):
    for k, at in zip(P_FRAMES, read(path, P_FRAMES, ("mv", "flow"), reference=reference), strict=True):
        mv, flow = inside(at.mv, k).mean((0, 1)), inside(at.flow, k).mean((0, 1))
        known = STEPS[k] if reference == "previous" else CORNERS[k] - CORNERS[0]
        moves = np.abs(known) >= 1
        assert moves.any()
        assert (np.sign(mv) == np.sign(flow))[moves].all()
        np.testing.assert_allclose(flow, mv, atol=0.6)


def test_flow_lies_where_vectors_lie(path):
    """At the object's place in frame k, not in the frame it comes from, which is another after 11 frames."""
    (at,) = read(path, [5], reference="iframe")
    x, y = CORNERS[5]
    moved = CORNERS[5] - CORNERS[0]
    assert moved[0] >= 15
    right_edge = at.flow[y + 12 : y + SIDE - 12, x + SIDE - 10 : x + SIDE - 4]
    assert np.abs(np.median(right_edge, (0, 1)) - moved).max() < 1


@pytest.mark.parametrize("reference", ["previous", "iframe"])
@pytest.mark.parametrize("streams", [("flow",), ("iframe", "mv", "residual", "rgb", "flow")])
def test_one_decode_serves_all_streams(path, monkeypatch, streams, reference):
    decoded, original = [], PacketDecoder.decode

    def decode(self, *args):
        for frame in original(self, *args):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(PacketDecoder, "decode", decode)
    read(path, [3, 7], streams, reference=reference)
    assert decoded == list(range(8))


def test_reads_agree(path):
    with CompressedVideo(path) as video:
        whole = video.read_gop(0, streams=("flow", "rgb"), reference="previous")
        assert whole.flow.shape == (len(STEPS) - 1, HEIGHT, WIDTH, 2)
        kept = video.keep_positions(0, [7, 2], streams=("mv", "flow"), reference="previous").read("flow")
        for k, ours, theirs in zip((7, 2), read(path, [7, 2], reference="previous"), kept, strict=True):
            np.testing.assert_array_equal(ours.flow, whole.flow[k - 1])
            np.testing.assert_array_equal(theirs.flow, whole.flow[k - 1])
        small = video.read(gop=0, position=4, streams=("flow",), reference="previous", resolution=(64, 96))
    assert small.flow.dtype == np.float32
    x, y = (CORNERS[4] + SIDE // 2) // 2
    np.testing.assert_allclose(small.flow[y - 8 : y + 8, x - 8 : x + 8].mean((0, 1)), STEPS[4] / 2, atol=0.15)


def test_flow_turns_with_its_video(path):
    (at,) = read(path, [4], reference="previous")
    # A quarter counterclockwise: what moved to the right moves upwards.
    np.testing.assert_array_equal(at.turned(90).flow[..., 1], np.rot90(-at.flow[..., 0]))


def test_refusals_are_those_of_vectors(path, b_frame_video):
    with CompressedVideo(path) as video, pytest.raises(ValueError, match="flow begin at position 1"):
        video.read(gop=0, position=0, streams=("flow",))
    assert "B-frames" in build_index(b_frame_video).refusal(["flow"])
    lonely = replace(build_index(path), types="I", shown=np.array([0]), times=np.zeros(1), entries=np.array([True]))
    assert "no P-frame" in lonely.refusal(["flow"])


@pytest.mark.parametrize("size", [(8, 12), (12, 200), (24, 1000), (300, 16)])
@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
def test_frames_too_small_for_opencv(size, preset):
    frame = texture(*size, 3)
    flow = FlowMethod(preset=preset).between(frame, frame)
    assert flow.shape == (*size, 2)
    assert np.abs(flow).max() < 0.1


def test_compact_flow_is_exact_to_half_a_64th():
    flow = np.random.default_rng(0).uniform(-30, 30, (50, 60, 2)).astype(np.float32)
    kept = compact(flow)
    assert kept.dtype == np.float16
    assert np.abs(kept.astype(np.float64) - flow).max() <= 1 / 128
    assert not np.signbit(compact(np.float32([-0.001, -0.0]))).any()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"method": "farneback"}, "flow.method: expected one of dis, tvl1"), ({"preset": "slow"}, "flow.preset")],
)
def test_unknown_methods(options, said):
    with pytest.raises(ValueError, match=said):
        FlowMethod(**options)


def test_frames_that_do_not_fit():
    grey = np.zeros((40, 40), np.uint8)
    with pytest.raises(ValueError, match="two frames of one size"):
        FlowMethod().between(grey, grey[:, :39])
    with pytest.raises(ValueError, match="uint8"):
        FlowMethod().between(grey.astype(np.float32), grey)


@pytest.mark.parametrize("found", [None, SimpleNamespace(DISOpticalFlow_create=None)], ids=["none", "another build"])
def test_without_opencv_the_error_names_the_extra(monkeypatch, found):
    monkeypatch.setitem(sys.modules, "cv2", found)
    import_opencv.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'streamkd\[flow\]'.*data\.privileged"):
        FlowMethod().between(np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8))
