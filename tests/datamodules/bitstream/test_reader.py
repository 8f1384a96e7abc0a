"""The reader against the reference loader's arrays, against a plain oracle of the definition, and under abuse."""

import gc
import multiprocessing
import os
import pickle
import re
import resource
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.bitstream import CompressedVideo, UnreadableVideoError, build_index
from datamodules.bitstream.encode import encode_frames
from datamodules.bitstream.picture_source import FilePictures

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.npz"))
REAL_GOLDEN = {
    "v_SoccerJuggling_g24_c01.npz": "v_SoccerJuggling_g24_c01.avi",
    "RATRACE_wave_f_nm_np1_fr_goo_37.gop12.npz": "RATRACE_wave_f_nm_np1_fr_goo_37.gop12.mp4",
}
REFERENCES = {"accumulated": "iframe", "previous": "previous"}


def assert_equals_golden(arrays: Path, clip: Path) -> None:
    """Bit equality, for all ways of reading, for every array of the file."""
    golden = np.load(arrays)
    with CompressedVideo(clip) as video:
        for key in golden.files:
            gop, position, stream, kind = re.fullmatch(r"gop(\d+)_pos(\d+)_([a-z]+)_?(\w*)", key).groups()
            reference = REFERENCES.get(kind, "iframe")
            one = video.read(gop=int(gop), position=int(position), streams=(stream,), reference=reference)
            kept = video.keep_positions(int(gop), [int(position)], streams=(stream,), reference=reference)
            whole = video.read_gop(int(gop), streams=("iframe", "mv", "residual"), reference=reference)
            from_whole = whole.iframe if stream == "iframe" else getattr(whole, stream)[int(position) - 1]
            several = video.read_iframes([0, int(gop)])[1:] if stream == "iframe" else []
            for array in (getattr(one, stream), getattr(kept.read(stream)[0], stream), from_whole, *several):
                assert array.dtype == golden[key].dtype, key
                np.testing.assert_array_equal(array, golden[key], err_msg=key)


@pytest.mark.parametrize("arrays", GOLDEN, ids=lambda path: path.stem)
def test_golden_synthetic(arrays):
    assert_equals_golden(arrays, arrays.with_suffix(".mp4"))


@pytest.mark.parametrize("name", REAL_GOLDEN)
def test_golden_real_clips(name):
    shared = os.environ.get("STREAMKD_SHARED_DATA")
    if not shared:
        pytest.skip("STREAMKD_SHARED_DATA names no folder of real clips and their reference arrays")
    assert_equals_golden(Path(shared, "golden", name), Path(shared, "clips", REAL_GOLDEN[name]))


def test_what_was_not_kept_is_refused():
    with CompressedVideo(GOLDEN[0].with_suffix(".mp4")) as video:
        kept = video.keep_positions(0, [2, 1], streams=("mv",))
        with pytest.raises(ValueError, match=r"stream 'residual': expected one of those kept, \['mv'\]"):
            kept.read("residual")


def moving_texture(num_frames: int, height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    """A smooth texture that moves by (3, 1) px a frame, with a patch on it that moves the other way."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height + 64, width + 4 * num_frames, 3)).astype(np.float64)
    smooth = sum(np.roll(noise, (y, x), (0, 1)) for y in range(3) for x in range(3)) / 9
    frames = []
    for t in range(num_frames):
        frame = smooth[t % 64 : t % 64 + height, 3 * t : 3 * t + width].copy()
        left = max(0, width // 2 - 2 * t)
        frame[8 : 8 + height // 3, left : left + width // 3] = smooth[: height // 3, : width // 3] / 2
        frames.append(frame.astype(np.uint8))
    return frames


@pytest.fixture(scope="module", params=["mpeg4", "h264"])
def clip(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / f"{request.param}.mp4"
    encode_frames(moving_texture(30, 64, 96), path, codec=request.param, gop_size=12)
    return path


def oracle(path: Path, gop_size: int = 12) -> dict[str, list[np.ndarray]]:
    """CoViAR's definition, pixel by pixel, over a plain decode of the whole file."""
    out = {f"{stream}_{kind}": [] for stream in ("mv", "residual") for kind in ("iframe", "previous")} | {"rgb": []}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"flags2": "+export_mvs"}
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            rgb = frame.to_ndarray(format="rgb24", src_colorspace="ITU601", dst_colorspace="ITU601").astype(np.int16)
            height, width, _ = rgb.shape
            identity = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
            if number % gop_size == 0:
                iframe, accumulated = rgb, identity
            one_step, carried = identity.copy(), accumulated.copy()
            vectors = frame.side_data.get("MOTION_VECTORS")
            for vector in [] if vectors is None else vectors.to_ndarray():
                assert vector["source"] == -1
                shift_x = int(vector["motion_x"] / vector["motion_scale"])  # toward zero
                shift_y = int(vector["motion_y"] / vector["motion_scale"])
                for y in range(vector["dst_y"] - vector["h"] // 2, vector["dst_y"] + vector["h"] // 2):
                    for x in range(vector["dst_x"] - vector["w"] // 2, vector["dst_x"] + vector["w"] // 2):
                        from_x, from_y = x + shift_x, y + shift_y
                        if 0 <= x < width and 0 <= y < height and 0 <= from_x < width and 0 <= from_y < height:
                            one_step[y, x] = from_x, from_y
                            carried[y, x] = accumulated[from_y, from_x]
            accumulated = carried
            out["rgb"].append(rgb)
            for kind, source, before in (("iframe", carried, iframe), ("previous", one_step, out["rgb"][number - 1])):
                out[f"mv_{kind}"].append((identity - source).astype(np.int16))
                out[f"residual_{kind}"].append(rgb - before[source[..., 1], source[..., 0]])
    return out


def test_equals_plain_oracle(clip):
    truth = oracle(clip)
    with CompressedVideo(clip) as video:
        assert [gop.frame_types for gop in video.gops] == ["I" + 11 * "P", "I" + 11 * "P", "I" + 5 * "P"]
        for number, gop in enumerate(video.gops):
            rows = slice(gop.start + 1, gop.start + gop.length)
            for kind in ("iframe", "previous"):
                frames = video.read_gop(number, streams=("iframe", "mv", "residual", "rgb"), reference=kind)
                np.testing.assert_array_equal(frames.mv, truth[f"mv_{kind}"][rows])
                np.testing.assert_array_equal(frames.residual, truth[f"residual_{kind}"][rows])
                np.testing.assert_array_equal(frames.rgb, truth["rgb"][gop.start : gop.start + gop.length])
                np.testing.assert_array_equal(frames.iframe, truth["rgb"][gop.start])
        assert np.abs(truth["mv_iframe"][11]).max() > 5, "the clip must move for this test to mean anything"


def test_single_reads_equal_whole_gop(clip):
    with CompressedVideo(clip) as video:
        whole = video.read_gop(1, streams=("mv", "residual", "rgb"), reference="previous")
        for position in (1, 7, 11):
            for streams in (("mv",), ("residual",), ("rgb",), ("mv", "residual", "rgb", "iframe")):
                one = video.read(gop=1, position=position, streams=streams, reference="previous")
                for name in set(streams) - {"iframe"}:
                    behind = position if name == "rgb" else position - 1
                    np.testing.assert_array_equal(getattr(one, name), getattr(whole, name)[behind])
                assert (one.iframe is None) == ("iframe" not in streams)


def test_several_positions_of_one_decode(clip):
    order = [7, 2, 11, 2]
    streams = ("iframe", "mv", "residual", "rgb")
    with CompressedVideo(clip) as video:
        for reference in ("iframe", "previous"):
            together = video.read_positions(1, order, streams=streams, reference=reference)
            for position, frames in zip(order, together, strict=True):
                one = video.read(gop=1, position=position, streams=streams, reference=reference)
                for name in streams:
                    np.testing.assert_array_equal(getattr(frames, name), getattr(one, name))
        with pytest.raises(ValueError, match="at least one position"):
            video.read_positions(1, [])


def test_iframes_of_several_gops_are_the_first_frames_that_pyav_decodes(tmp_path):
    rng = np.random.default_rng(2)
    frames = [rng.integers(0, 256, (70, 100, 3), np.uint8) for _ in range(10)]  # rows that FFmpeg pads
    encode_frames(frames, tmp_path / "clip.mp4", gop_size=4)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        decoded = list(container.decode(video=0))
    expected = [frame.to_ndarray(format="rgb24", src_colorspace="ITU601") for frame in decoded]
    with CompressedVideo(tmp_path / "clip.mp4") as video:
        found = video.read_iframes([2, 0, 2])
        assert [pixels.dtype for pixels in found] == [np.uint8] * 3
        for pixels, place in zip(found, [8, 0, 8], strict=True):
            np.testing.assert_array_equal(pixels, expected[place])
        assert video.read_iframes([]) == []
        with pytest.raises(IndexError, match=r"GOP 3: .* has GOPs 0 to 2"):
            video.read_iframes([0, 3])
        with pytest.raises(ValueError, match="colorspace='bt709': expected one of bt601, tagged"):
            video.read_iframes([0], colorspace="bt709")


def test_iframes_alone_decode_no_other_picture(clip, monkeypatch):
    taken = []
    read = FilePictures.read
    monkeypatch.setattr(FilePictures, "read", lambda self, *span: taken.append(span) or read(self, *span))
    with CompressedVideo(clip) as video:
        video.read_iframes([0, 2])
    assert taken == [(0, 1), (24, 25)]


def test_known_translation_is_recovered(tmp_path):
    texture = np.repeat(np.repeat(np.random.default_rng(1).integers(0, 256, (40, 80, 3), np.uint8), 4, 0), 4, 1)
    frames = [texture[t : t + 96, 3 * t : 3 * t + 128] for t in range(10)]
    encode_frames(frames, tmp_path / "shift.mp4")
    with CompressedVideo(tmp_path / "shift.mp4") as video:
        mv = video.read(gop=0, position=9, streams=("mv",)).mv
    np.testing.assert_array_equal(np.median(mv[16:-16, 32:-32], (0, 1)), [-27, -9])


def test_timing_and_counts(clip):
    with CompressedVideo(clip) as video:
        assert video.num_frames == 30
        assert [gop.start for gop in video.gops] == [0, 12, 24]
        assert [gop.length for gop in video.gops] == [12, 12, 6]
        np.testing.assert_allclose([gop.start_time for gop in video.gops], [0, 0.4, 0.8], atol=1e-6)
        np.testing.assert_allclose([gop.duration for gop in video.gops], [0.4, 0.4, 0.2], atol=1e-6)


def test_colorspace_tags_are_honoured_only_on_request(tmp_path):
    path = encode_with(tmp_path / "bt709.mp4", "libx264", {"bf": "0", "colorspace": "bt709"})
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        expected = {name: frame.to_ndarray(format="rgb24", src_colorspace=name) for name in ("ITU601", "ITU709")}
    assert not np.array_equal(expected["ITU601"], expected["ITU709"])
    with CompressedVideo(path) as video:
        for choice, name in (("bt601", "ITU601"), ("tagged", "ITU709")):
            frames = video.read(gop=0, streams=("iframe",), colorspace=choice)
            np.testing.assert_array_equal(frames.iframe, expected[name])


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mov", ".ts"])
def test_containers_agree(tmp_path, suffix):
    """The same MPEG-4 packets read alike from every container, sliceable or not."""
    source = Path(__file__).parent / "golden" / "scroll_160x112_gop12.mp4"
    target = tmp_path / f"clip{suffix}"
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    with CompressedVideo(source) as expected, CompressedVideo(target) as video:
        assert video.num_frames == expected.num_frames
        for gop in range(3):
            ours, theirs = video.read_gop(gop), expected.read_gop(gop)
            np.testing.assert_array_equal(ours.residual, theirs.residual)
            np.testing.assert_array_equal(ours.mv, theirs.mv)


def encode_with(path: Path, codec: str, options: dict[str, str], *, pixel_format: str = "yuv420p") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixel_format
        for frame in moving_texture(24, 64, 96):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("codec", "options", "reason"),
    [
        ("mpeg4", {"bf": "2"}, "B-frames"),
        ("libx264", {"bf": "2", "refs": "1"}, "B-frames|reference"),
        ("libx264", {"bf": "0", "refs": "3"}, "3 reference frames"),
        ("libx265", {"x265-params": "log-level=none"}, "export no motion vectors"),
        ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, "export no motion vectors"),
    ],
)
def test_vectors_that_would_be_wrong_are_refused(tmp_path, codec, options, reason):
    path = encode_with(tmp_path / "clip.mp4", codec, options)
    with CompressedVideo(path) as video:
        assert video.read(gop=0, streams=("iframe",)).iframe.shape == (64, 96, 3)
        for stream in ("mv", "residual"):
            with pytest.raises(UnreadableVideoError, match=reason) as caught:
                video.read(gop=0, position=1, streams=(stream,))
            assert caught.value.path == str(path)
            assert "re-encode" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("clip.wmv", "wmv2", "yuv420p"),
        ("clip.mkv", "ffv1", "yuv420p"),
        ("clip.mov", "png", "rgb24"),
        ("clip.avi", "cinepak", "rgb24"),
        ("clip.flv", "flv", "yuv420p"),
        ("clip.mpg", "mpeg2video", "yuv420p"),
    ],
)
def test_iframes_of_other_codecs_equal_a_plain_decode(tmp_path, name, codec, pixel_format):
    path = encode_with(tmp_path / name, codec, {}, pixel_format=pixel_format)
    with av.open(str(path)) as container:
        expected = [
            frame.to_ndarray(format="rgb24", src_colorspace="ITU601", dst_colorspace="ITU601")
            for frame in container.decode(video=0)
        ]
    with CompressedVideo(path) as video:
        for number in (1, 0, 1, 0):
            iframe = video.read(gop=number, streams=("iframe",)).iframe
            np.testing.assert_array_equal(iframe, expected[video.gops[number].start])


@pytest.mark.parametrize(("codec", "name"), [("mpeg4", "clip.avi"), ("mpeg2video", "clip.mpg")])
def test_interlaced_vectors_are_refused(tmp_path, codec, name):
    path = encode_with(tmp_path / name, codec, {"flags": "+ilme+ildct", "bf": "0"})
    with CompressedVideo(path) as video, pytest.raises(UnreadableVideoError, match="interlaced"):
        video.read(gop=0, position=1, streams=("mv",))


def test_a_codec_without_decoder_is_refused(tmp_path):
    whole = (Path(__file__).parent / "golden" / "scroll_160x112_gop12.mp4").read_bytes()
    assert whole.count(b"mp4v") == 1
    (tmp_path / "clip.mp4").write_bytes(whole.replace(b"mp4v", b"zzzz").replace(b"esds", b"free"))
    with pytest.raises(UnreadableVideoError):
        CompressedVideo(tmp_path / "clip.mp4")


@pytest.mark.parametrize("content", [None, b"", b"no video at all\n" * 100])
def test_files_that_are_no_video(tmp_path, content):
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableVideoError) as caught:
        CompressedVideo(path)
    error = pickle.loads(pickle.dumps(caught.value))
    assert str(error) == f"{path}: {error.reason}; {error.remedy}"
    assert "\n" not in str(error)


def test_damage_raises_our_error_or_reads(tmp_path):
    """Every truncation of the file either reads or raises our error, never another one."""
    whole = (Path(__file__).parent / "golden" / "scroll_160x112_gop12.mp4").read_bytes()
    outcomes = set()
    for size in range(len(whole) // 20, len(whole), len(whole) // 20):
        path = tmp_path / "cut.mp4"
        path.write_bytes(whole[:size])
        try:
            with CompressedVideo(path) as video:
                video.read_gop(len(video.gops) - 1)
            outcomes.add("read")
        except UnreadableVideoError:
            outcomes.add("refused")
    assert "refused" in outcomes


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"gop": 99}, IndexError),
        ({"gop": -1}, IndexError),
        ({"gop": 0, "position": 12}, IndexError),
        ({"gop": 0, "position": 0, "streams": ("mv",)}, ValueError),
        ({"gop": 0, "position": 1, "streams": ("depth",)}, ValueError),
        ({"gop": 0, "position": 1, "streams": ()}, ValueError),
        ({"gop": 0, "position": 1, "reference": "accumulated"}, ValueError),
    ],
)
def test_wrong_arguments(clip, arguments, error):
    with CompressedVideo(clip) as video, pytest.raises(error):
        video.read(**arguments)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_shared_with_workers(clip, method):
    """An open video survives pickling and forking: workers and parent read the same, at the same time."""
    video = CompressedVideo(clip)
    expected = [video.read_gop(gop).residual for gop in range(3)]
    gops = (2, 0, 1) * 4
    with multiprocessing.get_context(method).Pool(2) as pool:
        pending = pool.starmap_async(CompressedVideo.read_gop, [(video, gop) for gop in gops])
        for gop in range(3):
            np.testing.assert_array_equal(video.read_gop(gop).residual, expected[gop])
        for gop, frames in zip(gops, pending.get(60), strict=True):
            np.testing.assert_array_equal(frames.residual, expected[gop])


def test_a_forked_child_leaves_its_parents_garbage_alone(clip):
    """To free a converter that has threads is to wait for them, and they do not exist in a child."""
    gc.disable()
    try:
        with av.open(str(clip)) as container:
            for frame in container.decode(video=0):
                assert frame.side_data is not None  # ties frame and converter into a cycle, left to the collector
                frame.to_ndarray(format="rgb24", threads=2)
        del frame
        child = multiprocessing.get_context("fork").Process(target=gc.collect, daemon=True)
        child.start()
        child.join(20)
        exit_code = child.exitcode
        child.kill()
        assert exit_code == 0
    finally:
        gc.enable()


def test_index_saves_reading_it_again(clip):
    index = pickle.loads(pickle.dumps(build_index(clip)))
    with CompressedVideo(clip, index) as video, CompressedVideo(clip) as fresh:
        np.testing.assert_array_equal(video.read_gop(1).mv, fresh.read_gop(1).mv)


def _footprint() -> tuple[int, int]:
    """Open descriptors, and resident bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/proc/self/fd")), pages * resource.getpagesize()


@pytest.mark.parametrize("num_reads", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_descriptors_and_memory_stay_flat(clip, num_reads):
    index = build_index(clip)

    def read_many(count: int) -> None:
        for number in range(count):
            with CompressedVideo(clip, index if number % 2 else None) as video:
                video.read(gop=number % 3, position=1 + number % 5)

    read_many(100)
    descriptors, resident = _footprint()
    read_many(num_reads)
    after_descriptors, after_resident = _footprint()
    assert after_descriptors <= descriptors
    assert after_resident - resident < 4 << 20, "a leaked 64 x 96 frame a read would be over 9 MiB in 500 reads"
