"""Vectors against a second reading of the exported records, and against motion that is known."""

from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.bitstream import CompressedVideo, encode_frames

# Every partition, quarter-pixel search, vectors that leave the frame, four slices a picture.
RICH_H264 = {
    "bf": "0",
    "refs": "1",
    "g": "12",
    "sc_threshold": "0",
    "slices": "4",
    "threads": "1",
    "partitions": "all",
    "subq": "9",
    "me_method": "umh",
    "qp": "12",
    "x264-params": "8x8dct=1:no-fast-pskip=1:weightp=0",
}
IP_CLIPS = ("v_SoccerJuggling_g24_c01.avi", "RATRACE_wave_f_nm_np1_fr_goo_37.gop12.mp4")
B_FRAME_CLIPS = ("R6llTwEh07w.mp4", "mma_demo.mp4")


def smooth_texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) float64 in 0..255, of structures about six pixels wide."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    for axis in (0, 1):
        for _ in range(2):
            noise = sum(np.roll(noise, shift, axis) for shift in range(-3, 4))
    return (128 + 45 * noise / noise.std()).clip(0, 255)


def turning_scene(num_frames: int, height: int, width: int) -> list[np.ndarray]:
    """A texture that turns and zooms, so that blocks split and motion is fractional, behind a small patch."""
    texture = smooth_texture(height, width)
    y, x = np.mgrid[:height, :width] - np.array([height / 2, width / 2])[:, None, None]
    frames = []
    for t in range(num_frames):
        angle, zoom = 0.035 * t, 1 + 0.012 * t
        rows = zoom * (np.cos(angle) * y - np.sin(angle) * x) + height / 2 + 1.3 * t
        columns = zoom * (np.sin(angle) * y + np.cos(angle) * x) + width / 2 - 2.7 * t
        frame = texture[rows.round().astype(int) % height, columns.round().astype(int) % width]
        frame[20:37, 5 * t : 5 * t + 13] = texture[40:57, 60:73] / 2
        frames.append(frame.astype(np.uint8))
    return frames


def encode_rich_h264(frames: list[np.ndarray], path: Path) -> Path:
    height, width, _ = frames[0].shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25), options=RICH_H264)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def decoded_with_records(path: Path) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Per frame its pixels, (H, W, 3) int16, and its records (None: an I-frame), from a plain decode."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"flags2": "+export_mvs"}
        stream.codec_context.thread_count = 1
        found = []
        for frame in container.decode(stream):
            rgb = frame.to_ndarray(format="rgb24", src_colorspace="ITU601", dst_colorspace="ITU601").astype(np.int16)
            data = frame.side_data.get("MOTION_VECTORS")
            is_iframe = frame.pict_type == av.video.frame.PictureType.I
            records = np.empty(0) if data is None else data.to_ndarray()
            found.append((rgb, None if is_iframe else records))
    return found


def carried(records: np.ndarray, before: np.ndarray) -> np.ndarray:
    """`before`, (H, W, 2) source coordinates (x, y), carried over one frame, record after record."""
    height, width, _ = before.shape
    after = before.copy()
    for record in records:
        shift_x, shift_y = (
            int(Fraction(int(record[name]), int(record["motion_scale"]))) for name in ("motion_x", "motion_y")
        )
        y, x = np.mgrid[
            record["dst_y"] - record["h"] // 2 : record["dst_y"] + record["h"] // 2,
            record["dst_x"] - record["w"] // 2 : record["dst_x"] + record["w"] // 2,
        ].reshape(2, -1)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        inside &= (x + shift_x >= 0) & (x + shift_x < width) & (y + shift_y >= 0) & (y + shift_y < height)
        x, y = x[inside], y[inside]
        after[y, x] = before[y + shift_y, x + shift_x]
    return after


def assert_agrees_with_records(path: Path) -> None:
    """All vectors and residuals of a video, accumulated and of the previous frame."""
    frames = decoded_with_records(path)
    height, width, _ = frames[0][0].shape
    identity = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
    with CompressedVideo(path) as video:
        assert video.num_frames == len(frames)
        for number, gop in enumerate(video.gops):
            iframe, records = frames[gop.start]
            assert records is None
            accumulated = video.read_gop(number)
            single = video.read_gop(number, streams=("mv", "residual"), reference="previous")
            sources, previous = identity, iframe
            for position in range(1, gop.length):
                rgb, records = frames[gop.start + position]
                sources, one_step = carried(records, sources), carried(records, identity)
                for ours, source, reference in ((accumulated, sources, iframe), (single, one_step, previous)):
                    where = f"GOP {number}, position {position}"
                    np.testing.assert_array_equal(ours.mv[position - 1], identity - source, where)
                    warped = reference[source[..., 1], source[..., 0]]
                    np.testing.assert_array_equal(ours.residual[position - 1], rgb - warped, where)
                previous = rgb


def test_h264_with_partitions_fractions_slices_and_vectors_from_outside(tmp_path):
    path = encode_rich_h264(turning_scene(18, 96, 128), tmp_path / "rich.mp4")
    frames = decoded_with_records(path)
    records = np.concatenate([records for _, records in frames if records is not None])
    assert {(16, 16), (16, 8), (8, 16), (8, 8)} <= set(zip(records["w"].tolist(), records["h"].tolist(), strict=True))
    remainders = {(int(value) < 0, abs(int(value)) % 4) for name in ("motion_x", "motion_y") for value in records[name]}
    assert len(remainders) == 8, "quarter pixels of both signs, which truncation treats differently from rounding"
    assert (records["src_x"] - records["w"] // 2 < 0).any()
    assert (records["src_y"] + records["h"] // 2 > 96).any()
    assert slices_of_first_picture(path) == 4
    assert_agrees_with_records(path)


def slices_of_first_picture(path: Path) -> int:
    with av.open(str(path)) as container:
        data, count = bytes(next(container.demux(video=0))), 0
        while data:
            size = int.from_bytes(data[:4], "big")
            count += data[4] & 0x1F in (1, 5)
            data = data[4 + size :]
    return count


@pytest.mark.parametrize("name", IP_CLIPS)
def test_real_clips_agree_with_their_records(shared_clips, name):
    assert_agrees_with_records(shared_clips / name)


@pytest.mark.parametrize("name", B_FRAME_CLIPS)
def test_real_scenes_as_h264_agree_with_their_records(shared_clips, name, tmp_path):
    with av.open(str(shared_clips / name)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in islice(container.decode(video=0), 40)]
    assert_agrees_with_records(encode_rich_h264(frames, tmp_path / "rich.mp4"))


@pytest.mark.parametrize("codec", ["mpeg4", "h264"])
@pytest.mark.parametrize("motion", [(3, 0), (-2, 0), (0, 4), (0, -3), (5, -2), (-4, -1), (2, 3)])
def test_translation_is_recovered(tmp_path, codec, motion):
    """Every P-frame's vectors are the motion (dst - src), and over k frames k times as much."""
    dx, dy = motion
    texture = smooth_texture(200, 240).astype(np.uint8)
    frames = [texture[40 - t * dy :, 40 - t * dx :][:128, :160] for t in range(7)]
    encode_frames(frames, tmp_path / "shift.mp4", codec=codec, gop_size=7)
    with CompressedVideo(tmp_path / "shift.mp4") as video:
        accumulated = video.read_gop(0, streams=("mv",)).mv
        single = video.read_gop(0, streams=("mv",), reference="previous").mv
    for step in range(1, 7):
        for mv, expected in ((single[step - 1], motion), (accumulated[step - 1], (step * dx, step * dy))):
            inner = mv[40:-40, 48:-48].reshape(-1, 2)
            vectors, counts = np.unique(inner, axis=0, return_counts=True)
            assert tuple(vectors[counts.argmax()]) == expected, step
            assert tuple(np.median(inner, 0)) == expected, step
            assert counts.max() > 0.9 * counts.sum(), step
