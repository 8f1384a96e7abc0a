"""Files with a rotation flag: what the flag means by ISO/IEC 14496-12, 6.2.2, and vectors that turn along."""

from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.bitstream import CompressedVideo, build_index, encode_frames, reencode

HEIGHT, WIDTH = 48, 64
# (a, b, c, d): a stored pixel (p, q) is shown at (a p + c q, b p + d q), moved into the picture.
MATRICES = {0: (1, 0, 0, 1), 90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}
UNITY = b"".join(number.to_bytes(4, "big") for number in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
UNKNOWN_BOXES = ((b"free", b"mvhd, tkhd"), (b"abcd", UNITY))


@pytest.fixture(params=MATRICES, scope="module")
def rotated(request, tmp_path_factory) -> tuple[Path, tuple[int, ...]]:
    """A clip that moves by (2, 1) pixels a frame, and its display matrix."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (24, 40, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    encode_frames([texture[10 - t : 10 - t + HEIGHT, 20 - 2 * t : 20 - 2 * t + WIDTH] for t in range(6)], path)
    matrix = MATRICES[request.param]
    path.write_bytes(with_display_matrix(path.read_bytes(), matrix))
    return path, matrix


def with_display_matrix(data: bytes, matrix: tuple[int, ...], header: bytes = b"tkhd") -> bytes:
    a, b, c, d = (value << 16 for value in matrix)
    numbers = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    start = data.index(header) + {b"tkhd": 44, b"mvhd": 40}[header]
    return data[:start] + b"".join(n.to_bytes(4, "big", signed=True) for n in numbers) + data[start + 36 :]


def shown(stored: np.ndarray, matrix: tuple[int, ...]) -> np.ndarray:
    """A stored frame (H, W, C) as the matrix says that it is shown, pixel by pixel."""
    a, b, c, d = matrix
    pixels = {(a * p + c * q, b * p + d * q): stored[q, p] for q in range(len(stored)) for p in range(stored.shape[1])}
    xs, ys = {x for x, _ in pixels}, {y for _, y in pixels}
    return np.array([[pixels[x, y] for x in sorted(xs)] for y in sorted(ys)])


def test_frames_are_turned_as_the_display_matrix_says(rotated):
    path, matrix = rotated
    with CompressedVideo(path) as video:
        stored = video.read(gop=0, position=3, streams=("rgb", "iframe"))
        turned = stored.turned(video.index.rotation)
    np.testing.assert_array_equal(turned.rgb, shown(stored.rgb, matrix))
    np.testing.assert_array_equal(turned.iframe, shown(stored.iframe, matrix))


def test_vectors_turn_with_their_frame(rotated):
    """Whatever the turn: residual = frame - previous frame at the place that the vector points to."""
    path, _ = rotated
    with CompressedVideo(path) as video:
        degrees = video.index.rotation
        before, frame = (
            video.read(gop=0, position=p, streams=("rgb", "mv", "residual"), reference="previous").turned(degrees)
            for p in (2, 3)
        )
    assert np.abs(frame.mv).max() > 0
    y, x = np.mgrid[: frame.mv.shape[0], : frame.mv.shape[1]]
    warped = before.rgb[y - frame.mv[..., 1], x - frame.mv[..., 0]]
    np.testing.assert_array_equal(frame.residual, frame.rgb.astype(np.int16) - warped)


@pytest.mark.parametrize("header", [b"mvhd", b"tkhd"])
def test_the_movie_turns_frames_as_well_as_the_track(rotated, tmp_path, header):
    """Whatever else looks like a header or a matrix: FFmpeg's own decode is right."""
    path, matrix = rotated
    data = with_display_matrix(with_display_matrix(path.read_bytes(), MATRICES[0]), matrix, header)
    box = data.index(b"moov") - 4
    more = b"".join((4 + len(name + text)).to_bytes(4, "big") + name + text for name, text in UNKNOWN_BOXES)
    size = int.from_bytes(data[box : box + 4], "big") + len(more)
    changed = tmp_path / "changed.mp4"
    changed.write_bytes(data[:box] + size.to_bytes(4, "big") + data[box + 4 :] + more)
    with av.open(str(changed)) as container:
        assert build_index(changed).rotation == next(container.decode(video=0)).rotation % 360


def test_a_reencoding_stands_upright(rotated, tmp_path):
    path, matrix = rotated
    reencode(path, tmp_path / "upright.mp4")
    assert build_index(tmp_path / "upright.mp4").rotation == 0
    with CompressedVideo(tmp_path / "upright.mp4") as upright, av.open(str(path)) as container:
        found = upright.read_gop(0, streams=("rgb",)).rgb
        for pixels, frame in zip(found, container.decode(video=0), strict=True):
            expected = shown(frame.to_ndarray(format="rgb24", src_colorspace="ITU601", dst_colorspace="ITU601"), matrix)
            assert np.abs(pixels.astype(int) - expected).mean() < 2


def test_files_that_turn_nothing_are_indexed_without_a_decode(tmp_path, monkeypatch):
    encode_frames([np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 2, tmp_path / "clip.mp4")
    monkeypatch.setattr("datamodules.bitstream.orientation.limit_decoder", None)
    assert build_index(tmp_path / "clip.mp4").rotation == 0
