"""Files as people have them: read like a plain decode of the whole file, or refused with a reason."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from datamodules.bitstream import CompressedVideo, UnreadableVideoError, build_index, encode_frames, reencode
from datamodules.bitstream.encode import Reencoded

WIDTH, HEIGHT = 64, 48
VECTOR_CODECS = ("mpeg4", "h264", "mpeg2video")
BEHIND_THE_FIRST_SCENE = 11


def scenes(num_frames: int, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """A moving texture, another one from frame 11 on."""
    coarse = np.random.default_rng(0).integers(0, 256, (2, height // 4 + 20, width // 4 + 20, 3), np.uint8)
    textures = coarse.repeat(4, 1).repeat(4, 2)
    corners = ((int(t >= BEHIND_THE_FIRST_SCENE), t % 64, 2 * t % 64) for t in range(num_frames))
    return [np.ascontiguousarray(textures[scene, y : y + height, x : x + width]) for scene, y, x in corners]


def encode(
    path: Path,
    codec: str,
    options: dict[str, str],
    *,
    num_frames: int = 26,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    pixel_format: str = "yuv420p",
    ticks: Sequence[int] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Frames of `scenes`, at 25 a second or at these ticks of a millisecond."""
    width, height = size
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=25, options={"threads": "1", **options})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(scenes(num_frames, height, width)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if ticks is not None:
                frame.pts, frame.time_base = ticks[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@dataclass(frozen=True)
class Truth:
    """Frames of a plain decode of the whole file in the order shown."""

    rgb: list[np.ndarray]
    types: str
    seconds: list[Fraction | None]
    codec: str
    rotation: int


def plain_decode(path: Path) -> Truth:
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = list(container.decode(stream))
        return Truth(
            [f.to_ndarray(format="rgb24", src_colorspace="ITU601", dst_colorspace="ITU601") for f in frames],
            "".join(PictureType(frame.pict_type).name for frame in frames),
            [None if frame.pts is None else frame.pts * frame.time_base for frame in frames],
            stream.codec_context.name,
            frames[0].rotation % 360,
        )


def assert_read_like_a_plain_decode(path: Path, *, has_times: bool = True) -> CompressedVideo:
    """Every frame of every GOP, the last GOP first; and what the index says of them."""
    truth = plain_decode(path)
    with CompressedVideo(path) as video:
        assert video.num_frames == sum(gop.length for gop in video.gops) == len(truth.rgb)
        assert video.index.rotation == truth.rotation
        for number, gop in reversed(list(enumerate(video.gops))):
            whole = video.read_gop(number, streams=("iframe", "rgb"))
            np.testing.assert_array_equal(whole.rgb, truth.rgb[gop.start : gop.start + gop.length])
            np.testing.assert_array_equal(whole.iframe, truth.rgb[gop.start])
            middle = gop.length // 2
            one = video.read(gop=number, position=middle, streams=("rgb",))
            np.testing.assert_array_equal(one.rgb, truth.rgb[gop.start + middle])
            if has_times:
                assert gop.start_time == pytest.approx(float(truth.seconds[gop.start] - truth.seconds[0]), abs=2e-3)
        if truth.codec in VECTOR_CODECS:
            assert "".join(gop.frame_types for gop in video.gops) == truth.types
            assert [gop.start for gop in video.gops] == [m.start() for m in re.finditer("I", truth.types)]
        return video


# name: codec, suffix, encoder options, whether vectors can be read
ENCODED: dict[str, tuple[str, str, dict[str, str], bool]] = {
    "mpeg4 with B-frames": ("mpeg4", ".mp4", {"bf": "2", "g": "9"}, False),
    "mpeg4 with B-frames in AVI": ("mpeg4", ".avi", {"bf": "2", "g": "9"}, False),
    "h264 with a pyramid of B-frames": ("libx264", ".mp4", {"bf": "3", "b-pyramid": "normal", "refs": "4"}, False),
    "h264 with B-frames in Matroska": ("libx264", ".mkv", {"bf": "2", "g": "8"}, False),
    "h264 in Matroska": ("libx264", ".mkv", {"bf": "0", "refs": "1", "g": "8"}, True),
    "h264 in AVI": ("libx264", ".avi", {"bf": "0", "refs": "1", "g": "8"}, True),
    "h264 with fields": ("libx264", ".mp4", {"bf": "0", "x264-params": "tff=1"}, False),
    "one I-frame": ("mpeg4", ".mp4", {"g": "600", "sc_threshold": "1000000000", "bf": "0"}, True),
    "I-frames that are no keyframes": (
        "libx264",
        ".mp4",
        {"g": "250", "keyint_min": "25", "sc_threshold": "400", "bf": "2"},
        False,
    ),
    "intra refresh": ("libx264", ".mp4", {"intra-refresh": "1", "g": "8", "bf": "0", "refs": "1"}, True),
    "open GOPs of H.264": (
        "libx264",
        ".mp4",
        {"x264-params": "open-gop=1:bframes=2:b-adapt=0:keyint=8:scenecut=0"},
        False,
    ),
    "open GOPs of MPEG-2": ("mpeg2video", ".mpg", {"bf": "2", "g": "8"}, False),
    "open GOPs of MPEG-2 in a transport stream": ("mpeg2video", ".ts", {"bf": "2", "g": "8"}, False),
    "open GOPs of HEVC": ("libx265", ".mp4", {"x265-params": "log-level=none:open-gop=1:keyint=8:bframes=3"}, False),
    "HEVC in Matroska": ("libx265", ".mkv", {"x265-params": "log-level=none:open-gop=0:keyint=8"}, False),
    "VP8": ("libvpx", ".webm", {"g": "12", "deadline": "realtime"}, False),
    "VP9": ("libvpx-vp9", ".webm", {"g": "12"}, False),
    "VP9 in MP4": ("libvpx-vp9", ".mp4", {"g": "9"}, False),
    "AV1": ("libsvtav1", ".mp4", {"g": "9", "preset": "10"}, False),
}


@pytest.mark.parametrize("name", ENCODED)
def test_codecs_containers_and_structures(tmp_path, name):
    codec, suffix, options, has_vectors = ENCODED[name]
    size = (64, 64) if codec == "libsvtav1" else (WIDTH, HEIGHT)
    path = encode(tmp_path / f"clip{suffix}", codec, options, size=size)
    with assert_read_like_a_plain_decode(path, has_times=suffix not in (".avi", ".mpg", ".ts")) as video:
        if has_vectors:
            assert video.read(gop=0, position=1, streams=("mv",)).mv.shape == (HEIGHT, WIDTH, 2)
            return
        for streams in (("mv",), ("residual",)):
            with pytest.raises(UnreadableVideoError, match=r"motion vectors|interlaced") as caught:
                video.read(gop=0, position=1, streams=streams)
            assert f"streamkd reencode --source {path}" in caught.value.remedy


def test_the_specimens_are_what_they_are_called(tmp_path):
    def made(name: str) -> Path:
        codec, suffix, options, _ = ENCODED[name]
        return encode(tmp_path / f"clip{suffix}", codec, options)

    assert "BB" in plain_decode(made("mpeg4 with B-frames")).types
    assert plain_decode(made("one I-frame")).types.count("I") == 1
    path = made("I-frames that are no keyframes")
    assert plain_decode(path).types.count("I") > sum(packet.is_keyframe for packet in packets_of(path)) == 1
    for name in ("open GOPs of H.264", "open GOPs of MPEG-2 in a transport stream", "open GOPs of HEVC"):
        path = made(name)
        times = [packet.pts for packet in packets_of(path)]
        keys = [n for n, packet in enumerate(packets_of(path)) if packet.is_keyframe]
        assert any(min(times[key:]) < times[key] for key in keys[1:]), f"a leading frame: {name}"


def packets_of(path: Path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def test_iframes_that_the_container_does_not_flag(tmp_path):
    path = encode(tmp_path / "flagged.mp4", "mpeg4", {"g": "6", "bf": "0"})
    remux(path, tmp_path / "clip.mp4", lambda number, data: data, is_keyframe=lambda number: number == 0)
    assert [packet.is_keyframe for packet in packets_of(tmp_path / "clip.mp4")] == [True] + 25 * [False]
    assert len(assert_read_like_a_plain_decode(tmp_path / "clip.mp4").gops) >= 5


def remux(
    source: Path, target: Path, change: Callable[[int, bytes], bytes], *, is_keyframe: Callable[[int], bool]
) -> None:
    """The packets of `source`, changed, with other keyframe flags."""
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        copy = out.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(packet for packet in container.demux(video=0) if packet.size):
            changed = av.Packet(change(number, bytes(packet)))
            changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
            changed.stream, changed.is_keyframe = copy, is_keyframe(number)
            out.mux(changed)


def test_hidden_frames_of_vp8(tmp_path):
    """Alternate references as libvpx makes them in two passes: packets that the decoder keeps to itself."""
    path, hidden = tmp_path / "clip.webm", {4, 5, 9, 17, 25}
    show_frame = 1 << 4
    shown = encode(tmp_path / "shown.webm", "libvpx", {"g": "12", "deadline": "realtime"})
    keys = {number for number, packet in enumerate(packets_of(shown)) if packet.is_keyframe}
    assert not keys & hidden
    assert len(keys) > 1
    remux(
        shown,
        path,
        lambda number, data: bytes([data[0] & ~show_frame]) + data[1:] if number in hidden else data,
        is_keyframe=keys.__contains__,
    )
    with assert_read_like_a_plain_decode(path) as video:
        assert video.num_frames == 26 - len(hidden)


def test_h264_b_frames_in_avi_are_refused_where_their_order_matters(tmp_path):
    path = encode(tmp_path / "clip.avi", "libx264", {"bf": "2", "g": "8"})
    with CompressedVideo(path) as video:
        with pytest.raises(UnreadableVideoError, match="when its B-frames are shown"):
            video.read_gop(0, streams=("rgb",))
        truth = plain_decode(path)
        iframes = [pixels for pixels, kind in zip(truth.rgb, truth.types, strict=True) if kind == "I"]
        for number in range(len(video.gops)):
            np.testing.assert_array_equal(video.read(gop=number, streams=("iframe",)).iframe, iframes[number])


@pytest.mark.parametrize(
    ("codec", "options"),
    [("mpeg4", {"bf": "0", "sc_threshold": "1000000000"}), ("libx264", {"bf": "2", "sc_threshold": "0"})],
)
def test_gops_of_250_frames(tmp_path, codec, options):
    path = encode(tmp_path / "clip.mp4", codec, options | {"g": "250"}, num_frames=260)
    assert [gop.length for gop in assert_read_like_a_plain_decode(path).gops] == [250, 10]


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("mpeg4", ".avi"), ("libx264", ".mp4"), ("libvpx-vp9", ".mkv"), ("libx264", ".mkv"), ("mjpeg", ".mov")],
)
def test_one_frame_only(tmp_path, codec, suffix):
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = encode(tmp_path / f"clip{suffix}", codec, {}, num_frames=1, pixel_format=pixel_format)
    with assert_read_like_a_plain_decode(path) as video:
        (gop,) = video.gops
        assert (gop.start, gop.length, gop.start_time) == (0, 1, 0)
        assert gop.duration == pytest.approx(0.04, abs=2e-3)
        with pytest.raises(UnreadableVideoError):
            video.read_gop(0, streams=("mv",))


@pytest.mark.parametrize(
    ("codec", "options", "pixel_format"),
    [("mpeg4", {"bf": "0"}, "yuv420p"), ("mpeg4", {"bf": "2"}, "yuv420p"), ("libx264", {}, "yuv444p")],
)
@pytest.mark.parametrize("size", [(63, 47), (65, 48), (101, 35)])
def test_odd_sizes(tmp_path, codec, options, pixel_format, size):
    path = encode(tmp_path / "clip.mp4", codec, options, size=size, pixel_format=pixel_format)
    video = assert_read_like_a_plain_decode(path)
    assert (video.width, video.height) == size


# The matrices of ISO/IEC 14496-12, 8.3.2; PyAV counts counterclockwise.
MATRICES = {90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}


@pytest.mark.parametrize("degrees", MATRICES)
def test_rotation_is_told_and_not_applied(tmp_path, degrees):
    path = encode(tmp_path / "clip.mp4", "libx264", {"bf": "0", "refs": "1"})
    before = CompressedVideo(path).read_gop(0)
    data = path.read_bytes()
    a, b, c, d = (value << 16 for value in MATRICES[degrees])
    matrix = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    at = data.index(np.array([1 << 16, 0, 0, 0, 1 << 16], ">i4").tobytes(), data.index(b"tkhd"))
    path.write_bytes(data[:at] + matrix + data[at + len(matrix) :])
    video = assert_read_like_a_plain_decode(path)
    assert video.index.rotation == degrees
    assert (video.width, video.height) == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(video.read_gop(0).mv, before.mv)


@pytest.mark.parametrize(("codec", "bf"), [("libx264", "0"), ("libx264", "2"), ("libvpx-vp9", "0")])
def test_variable_frame_rates(tmp_path, codec, bf):
    ticks = np.cumsum([3, 40, 7, 200, 33, 33, 1000, 40, 5] * 3).tolist()[:26]
    options = {"g": "6"} if codec == "libvpx-vp9" else {"g": "6", "bf": bf}
    path = encode(tmp_path / "clip.mkv", codec, options, ticks=ticks)
    gops = assert_read_like_a_plain_decode(path).gops
    starts = [gop.start_time for gop in gops]
    np.testing.assert_allclose(starts, [(ticks[gop.start] - ticks[0]) / 1000 for gop in gops], atol=2e-3)
    np.testing.assert_allclose([gop.duration for gop in gops[:-1]], np.diff(starts), atol=1e-6)


def test_metadata_in_no_known_encoding(tmp_path):
    path = encode(tmp_path / "clip.avi", "mpeg4", {}, metadata={"title": "Turnkuenste"})
    data = path.read_bytes()
    assert data.count(b"Turnkuenste") == 1
    path.write_bytes(data.replace(b"Turnkuenste", b"Turnk\xfcnste\xff\xfe"[:11]))
    with pytest.raises(UnicodeDecodeError):
        av.open(str(path))
    assert_read_like_a_plain_decode(path, has_times=False)


@pytest.mark.parametrize("name", ["10:20:30.mp4", "http:clip.mp4", "clip%03d.mp4", "a b#?.mp4"])
def test_names_that_look_like_addresses(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    encode_frames(scenes(3), name)
    assert CompressedVideo(name).num_frames == 3
    reencode(name, f"again {name}")
    assert CompressedVideo(f"again {name}").num_frames == 3


@pytest.mark.parametrize("bf", ["1", "2"])
def test_packed_b_frames(tmp_path, bf):
    """As DivX and Xvid write them: a P-frame and the B-frame behind it in one packet, and placeholders."""
    plain = encode(tmp_path / "plain.avi", "mpeg4", {"bf": bf, "g": "9", "b_strategy": "0"})
    packed = pack_b_frames(plain, tmp_path / "packed.avi")
    sizes = [packet.size for packet in packets_of(packed)]
    assert sum(size < 12 for size in sizes) > 6, "placeholders"
    assert len(unpacked_by_ffmpeg(packed)) == 26, "FFmpeg takes it for a packed bitstream"
    assert_read_like_a_plain_decode(packed, has_times=False)
    with CompressedVideo(packed) as video:
        np.testing.assert_array_equal(all_frames(video), plain_decode(plain).rgb)
        with pytest.raises(UnreadableVideoError, match="B-frames"):
            video.read(gop=0, position=1, streams=("mv",))


@pytest.mark.parametrize("bf", ["1", "2"])
def test_a_packed_b_frame_at_the_end_is_not_lost(tmp_path, bf):
    """FFmpeg waits for the placeholder behind it, which many files do not have: a plain decode lacks the frame."""
    options = {"bf": bf, "g": "250", "sc_threshold": "1000000000", "b_strategy": "0"}
    plain = encode(tmp_path / "plain.avi", "mpeg4", options, num_frames=25)
    packed = pack_b_frames(plain, tmp_path / "packed.avi", leave_out_last=True)
    assert len(plain_decode(packed).rgb) == 24
    with CompressedVideo(packed) as video:
        np.testing.assert_array_equal(all_frames(video), plain_decode(plain).rgb)
    assert reencode(packed, tmp_path / "again.mp4") == Reencoded(num_frames=25, num_cut=0)
    reencode(plain, tmp_path / "plain.mp4")
    np.testing.assert_array_equal(plain_decode(tmp_path / "again.mp4").rgb, plain_decode(tmp_path / "plain.mp4").rgb)


def all_frames(video: CompressedVideo) -> np.ndarray:
    return np.concatenate([video.read_gop(number, streams=("rgb",)).rgb for number in range(len(video.gops))])


def unpacked_by_ffmpeg(path: Path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        unpack = av.bitstream.BitStreamFilterContext("mpeg4_unpack_bframes", container.streams.video[0])
        packets = [packet for packet in container.demux(video=0) if packet.size]
        return [picture for packet in packets for picture in unpack.filter(packet) if picture.size]


def pack_b_frames(source: Path, target: Path, *, leave_out_last: bool = False) -> Path:
    """P B B P B -> [P B] [B] [-] [P B] [-], - being a placeholder."""
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        stream = container.streams.video[0]
        copy = out.add_stream_from_template(stream)
        divx = b"\x00\x00\x01\xb2DivX503b1393p"
        copy.codec_context.extradata = stream.codec_context.extradata + divx
        data = [bytes(packet) for packet in container.demux(stream) if packet.size]
        data[0] = divx + data[0]
        parts: list[bytes] = []
        reference = data[0]
        for picture, following in zip(data, [*data[1:], b""], strict=True):
            is_b, precedes_b = (vop_type(part) == 2 for part in (picture, following))
            reference = reference if is_b else picture
            own = b"" if is_b else picture
            parts.append(own + following if precedes_b else own or placeholder(reference))
        for number, part in enumerate(parts[: len(parts) - leave_out_last]):
            packet = av.Packet(part)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), copy, vop_type(part) == 0
            out.mux(packet)
    return target


def placeholder(picture: bytes) -> bytes:
    """A P-VOP that is not coded, at the time of `picture`: 25 ticks a second are 5 bits behind the seconds' ones."""
    at = picture.find(VOP)
    bits = "".join(f"{byte:08b}" for byte in picture[at + 4 : at + 8])
    ticks = re.match("..1*01(.{5})", bits)[1]
    fields = ("01", "0", "1", ticks, "1", "0", "01111")  # P, no further second, marker, marker, not coded, stuffing
    return VOP + int("".join(fields), 2).to_bytes(2, "big")


VOP = b"\x00\x00\x01\xb6"


def vop_type(data: bytes) -> int | None:
    """0: I, 1: P, 2: B."""
    at = data.find(VOP)
    return data[at + 4] >> 6 if at >= 0 else None


def write_audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=16_000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), "fltp", "mono")
        silence.sample_rate = 16_000
        container.mux([*audio.encode(silence), *audio.encode(None)])


NO_VIDEOS: dict[str, tuple[Callable[[Path], object], str]] = {
    "audio": (write_audio, "holds no video stream"),
    "empty": (Path.touch, "is empty"),
    "missing": (lambda path: None, "there is no such file"),
    "folder": (Path.mkdir, "folder|no such file"),
    "text": (lambda path: path.write_text("not a video\n" * 50), "cannot be parsed"),
    "moov left out": (lambda path: path.write_bytes(encode(path, "mpeg4", {}).read_bytes()[:1000]), "cannot be parsed"),
}


@pytest.mark.parametrize("kind", NO_VIDEOS)
def test_what_is_no_video_is_refused(tmp_path, kind):
    make, reason = NO_VIDEOS[kind]
    path = tmp_path / "clip.mp4"
    make(path)
    with pytest.raises(UnreadableVideoError, match=reason) as caught:
        build_index(path)
    assert caught.value.path == str(path)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.remedy


@pytest.mark.parametrize("bf", ["0", "2"])
@pytest.mark.parametrize(("codec", "suffix"), [("mpeg4", ".avi"), ("mpeg4", ".mkv"), ("libx264", ".mkv")])
def test_truncated_files_never_give_wrong_frames(tmp_path, codec, suffix, bf):
    """Where the headers come first, whole GOPs before the cut are read, and the one that was cut is refused."""
    whole = encode(tmp_path / f"whole{suffix}", codec, {"g": "6", "bf": bf, "refs": "1"})
    truth, data = plain_decode(whole), whole.read_bytes()
    path, num_read = tmp_path / f"cut{suffix}", 0
    for size in range(len(data) // 9, len(data), len(data) // 9):
        path.write_bytes(data[:size])
        try:
            video = CompressedVideo(path)
        except UnreadableVideoError:
            continue
        with video:
            for number, gop in enumerate(video.gops):
                try:
                    rgb = video.read_gop(number, streams=("rgb",)).rgb
                except UnreadableVideoError:
                    continue
                np.testing.assert_array_equal(rgb, truth.rgb[gop.start : gop.start + gop.length])
                num_read += 1
    assert num_read > 8 or (codec, suffix, bf) == ("libx264", ".avi", "2")


def test_damaged_frames_are_passed_over_where_the_policy_says_so(tmp_path):
    path = encode(tmp_path / "clip.mp4", "mpeg4", {"g": "13", "bf": "0", "sc_threshold": "1000000000"})
    truth = plain_decode(path).rgb
    damage_packet(path, 5)
    with CompressedVideo(path) as video, pytest.raises(UnreadableVideoError, match="GOP 0, position 5"):
        video.read_gop(0, streams=("rgb",))
    with CompressedVideo(path, on_corrupt="skip") as video:
        rgb = video.read_gop(0, streams=("rgb",)).rgb
        np.testing.assert_array_equal(rgb[:5], truth[:5])
        np.testing.assert_array_equal(rgb[5:], [truth[4]] * 8)
        assert video.num_corrupt == 8
        np.testing.assert_array_equal(video.read_gop(1, streams=("rgb",)).rgb, truth[13:])
        assert video.num_corrupt == 8


def damage_packet(path: Path, number: int) -> None:
    packet = packets_of(path)[number]
    data = path.read_bytes()
    at, size = packet.pos, packet.size
    path.write_bytes(data[: at + size // 3] + bytes(size - size // 3) + data[at + size :])


REAL_CLIPS = (
    "R6llTwEh07w.mp4",
    "RATRACE_wave_f_nm_np1_fr_goo_37.avi",
    "RATRACE_wave_f_nm_np1_fr_goo_37.gop12.mp4",
    "mma_demo.mp4",
    "nasa_rot.mp4",
    "v_SoccerJuggling_g24_c01.avi",
)


@pytest.mark.parametrize("name", REAL_CLIPS)
def test_real_clips(shared_clips, name):
    assert_read_like_a_plain_decode(shared_clips / name, has_times=not name.endswith(".avi"))


def test_a_real_clip_whose_last_b_frame_a_plain_decode_loses(shared_clips):
    path = shared_clips / "hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi"
    truth = plain_decode(path)
    with CompressedVideo(path) as video:
        assert video.num_frames == len(truth.rgb) + 1
        np.testing.assert_array_equal(np.delete(all_frames(video), -2, 0), truth.rgb)


def test_a_real_damaged_clip(shared_clips):
    damage = pytest.raises(UnreadableVideoError, match=r"corrupted\.mp4: damaged at GOP 0, position 28")
    with CompressedVideo(shared_clips / "corrupted.mp4") as video, damage:
        video.read_gop(0, streams=("rgb",))
