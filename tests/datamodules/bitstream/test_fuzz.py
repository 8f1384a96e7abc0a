"""Damaged and crafted files: each is read or refused with our one exception; nothing hangs, crashes, swells or leaks.

The inputs of one container and codec are read in a child process, one after the other. An input is named by its number
and its mutations, and remains in pytest's temporary folder, beside a report, where something went wrong;
`damaged(seed, number)` makes it again.
"""

import faulthandler
import gc
import io
import json
import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.bitstream import CompressedVideo, UnreadableVideoError, build_index

BASE_SEED = 0
SECONDS_PER_INPUT = 60
ADDRESS_SPACE = 3 << 30  # bytes, beyond what the child begins with
FORMATS = {"mp4": "mp4", "avi": "avi", "mkv": "matroska"}
STREAMS = (("iframe",), ("mv",), ("rgb",), ("iframe", "mv", "residual"))
ENCODERS = (("mpeg4", 0), ("mpeg4", 2), ("libx264", 0), ("libx264", 2))  # and their number of B-frames
TAGS = {
    "mp4": (
        *(b"ftyp", b"moov", b"mvhd", b"trak", b"tkhd", b"edts", b"elst", b"mdia", b"mdhd", b"hdlr", b"minf", b"stbl"),
        *(b"stsd", b"mp4v", b"avc1", b"avcC", b"esds", b"stts", b"stss", b"ctts", b"stsc", b"stsz", b"stco", b"mdat"),
    ),
    "avi": (b"RIFF", b"LIST", b"hdrl", b"avih", b"strl", b"strh", b"strf", b"JUNK", b"movi", b"00dc", b"idx1"),
    # EBML, Segment, SeekHead, Info, TimestampScale, Tracks, TrackEntry, CodecPrivate, Video, Cluster, SimpleBlock, Cues
    "mkv": tuple(
        bytes.fromhex(tag)
        for tag in (
            *("1a45dfa3", "18538067", "114d9b74", "1549a966", "2ad7b1", "1654ae6b"),
            *("ae", "63a2", "e0", "1f43b675", "a3", "1c53bb6b"),
        )
    ),
}
CLAIMS = (0, 1, 2, 7, 127, 255, 4096, 16_000, 65_535, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
SIZES = ((16, 16), (720, 576), (2_048, 2_048), (4_096, 2_160), (16, 16_000), (8_176, 8_176), (16_000, 16_000))
Mutation = Callable[["Seed", np.random.Generator, bytes], bytes]


@dataclass(frozen=True)
class Seed:
    """An intact video, and one of another size with the same codec in the same container."""

    codec: str
    b_frames: int
    suffix: str
    data: bytes
    other: bytes

    @property
    def name(self) -> str:
        return f"{self.codec}-{self.b_frames}-{self.suffix}"


def make_seed(codec: str, b_frames: int, suffix: str) -> Seed:
    small, large = (encoded(codec, b_frames, suffix, size) for size in ((64, 48), (96, 80)))
    return Seed(codec, b_frames, suffix, small, large)


def encoded(codec: str, b_frames: int, suffix: str, size: tuple[int, int]) -> bytes:
    """16 frames of a moving texture in GOPs of 6."""
    (width, height), file = size, io.BytesIO()
    texture = np.random.default_rng(0).integers(0, 256, (height // 4 + 8, width // 4 + 8, 3), np.uint8)
    texture = texture.repeat(4, 0).repeat(4, 1)
    with av.open(file, "w", format=FORMATS[suffix]) as container:
        options = {"g": "6", "bf": str(b_frames), "refs": "1", "threads": "1"}
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for t in range(16):
            frame = np.ascontiguousarray(texture[t : t + height, 2 * t : 2 * t + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def place(rng: np.random.Generator, data: bytes) -> int:
    """Anywhere, or (half of the time) in the headers, which stand at the beginning or the end."""
    header = min(len(data), 1_024)
    at = int(rng.integers(max(len(data), 1)))
    return (at, at, at % max(header, 1), max(0, len(data) - 1 - at % max(header, 1)))[rng.integers(4)]


def overwritten(data: bytes, at: int, value: bytes) -> bytes:
    at = max(at, 0)
    return data[:at] + value[: len(data) - at] + data[at + len(value) :]


def flip_bits(seed: Seed, rng: np.random.Generator, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(2 ** rng.integers(7) if data else 0):
        damaged[place(rng, data)] ^= 1 << rng.integers(8)
    return bytes(damaged)


def overwrite(seed: Seed, rng: np.random.Generator, data: bytes) -> bytes:
    value = rng.bytes(2 ** rng.integers(8))
    return overwritten(data, place(rng, data), (value, bytes(len(value)), b"\xff" * len(value))[rng.integers(3)])


def truncate(seed: Seed, rng: np.random.Generator, data: bytes) -> bytes:
    return data[: place(rng, data)]


def leave_out(seed: Seed, rng: np.random.Generator, data: bytes) -> bytes:
    at = place(rng, data)
    return data[:at] + data[at + 2 ** rng.integers(12) :]


def repeat(seed: Seed, rng: np.random.Generator, data: bytes) -> bytes:
    at = place(rng, data)
    behind = at + 2 ** rng.integers(12)
    return data[:behind] + data[at:]


def splice(seed: Seed, rng: np.random.Generator, data: bytes) -> bytes:
    at = place(rng, data)
    return data[:at] + seed.other[at:]


def claim_in_container(seed: Seed, rng: np.random.Generator, data: bytes) -> bytes:
    """Absurd sizes, counts, dimensions and time bases in the fields of a box, chunk or element."""
    present = [tag for tag in TAGS[seed.suffix] if tag in data]
    if not present:
        return data
    tag = present[rng.integers(len(present))]
    places = [at for at in range(len(data)) if data.startswith(tag, at)]
    at = places[rng.integers(len(places))] + int(rng.choice([-4, 0, 4, 8, 12, 16, rng.integers(64)]))
    width = int(rng.choice([1, 2, 4, 8]))
    value = (CLAIMS[rng.integers(len(CLAIMS))] % 256**width).to_bytes(width, ("big", "little")[rng.integers(2)])
    return overwritten(data, at + (len(tag) if at > 0 and rng.integers(2) else 0), value)


def claim_in_stream(seed: Seed, rng: np.random.Generator, data: bytes) -> bytes:
    """Another width and height in the video's own headers, everywhere or from some packet on."""
    width, height = SIZES[rng.integers(len(SIZES))]
    since = int(rng.choice([0, 0, 7]))
    claim = claim_in_vol if seed.codec == "mpeg4" else claim_in_sps
    return remuxed(seed, lambda number, part: claim(part, width, height) if number >= since or not since else part)


def change_size(seed: Seed, rng: np.random.Generator, data: bytes) -> bytes:
    """A stream whose size changes on the way: after some packet, those of another video."""
    since = int(rng.integers(1, 12))
    with av.open(io.BytesIO(seed.other)) as container:
        headers = in_band(container.streams.video[0].codec_context.extradata)
        others = [bytes(packet) for packet in container.demux(video=0)]
    return remuxed(seed, lambda number, part: headers + others[number - since] if number >= since else part)


def damage_extradata(seed: Seed, rng: np.random.Generator, data: bytes) -> bytes:
    rubbish = rng.bytes(int(rng.integers(1, 64)))
    flipped = (rubbish, None)[rng.integers(2)]
    return remuxed(seed, lambda n, part: part if n >= 0 else flipped or overwritten(part, place(rng, part), rubbish))


MUTATIONS: Sequence[Mutation] = (
    *(flip_bits, overwrite, truncate, leave_out, repeat, splice),
    *(claim_in_container, claim_in_container, claim_in_container),
    *(claim_in_stream, change_size, damage_extradata),
)
REMUXING = (claim_in_stream, change_size, damage_extradata)


def remuxed(seed: Seed, change: Callable[[int, bytes], bytes]) -> bytes:
    """The seed with its extradata (number -1) and packets (0, ...) changed; cut off where the muxer refuses."""
    file = io.BytesIO()
    with av.open(io.BytesIO(seed.data)) as source:
        stream = source.streams.video[0]
        target = av.open(file, "w", format=FORMATS[seed.suffix])
        copy = target.add_stream_from_template(stream)
        copy.codec_context.extradata = change(-1, stream.codec_context.extradata)
        try:
            for number, packet in enumerate(packet for packet in source.demux(stream) if packet.size):
                changed = av.Packet(change(number, bytes(packet)))
                changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
                changed.is_keyframe, changed.stream = packet.is_keyframe, copy
                target.mux(changed)
            target.close()
        except av.FFmpegError:
            return file.getvalue()
    return file.getvalue()


def in_band(extradata: bytes) -> bytes:
    """Global headers in the form that packets of the same stream have."""
    if extradata[:1] != b"\x01":
        return extradata
    size = int.from_bytes(extradata[6:8], "big")
    sets = extradata[8 : 8 + size], extradata[11 + size : 11 + size + int.from_bytes(extradata[9 + size : 11 + size])]
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in sets)


def to_bits(data: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in data)


def to_bytes(bits: str) -> bytes:
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def claim_in_vol(data: bytes, width: int, height: int) -> bytes:
    """`data` with another size in its MPEG-4 video object layer."""
    start = data.find(b"\x00\x00\x01\x20")
    if start < 0:
        return data
    header = to_bits(data[start : start + 24])
    limit = 2**13 - 1
    sizes = (64, 48), (min(width, limit), min(height, limit))
    fields = [f"1{across:013b}1{down:013b}1" for across, down in sizes]
    assert header.count(fields[0]) == 1
    return data[:start] + to_bytes(header.replace(*fields)) + data[start + 24 :]


def claim_in_sps(data: bytes, width: int, height: int) -> bytes:
    """`data` (avcC, or an Annex B packet) with another size in its H.264 sequence parameter set."""
    start = data.find(b"\x67\x64")
    if start < 0:
        return data
    is_avcc = data[:1] == b"\x01"
    behind = start + int.from_bytes(data[start - 2 : start]) if is_avcc else data.find(b"\x00\x00\x00\x01", start)
    bits = to_bits(data[start:behind].replace(b"\x00\x00\x03", b"\x00\x00")).rstrip("0")
    fields = [f"{golomb(x // 16 - 1)}{golomb(y // 16 - 1)}1" for x, y in ((64, 48), (width, height))]
    assert bits.count(fields[0]) == 1
    unit = with_emulation_prevention(to_bytes(bits.replace(*fields)))
    size = len(unit).to_bytes(2, "big") if is_avcc else data[start - 2 : start]
    return data[: start - 2] + size + unit + data[behind:]


def golomb(value: int) -> str:
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code


def with_emulation_prevention(unit: bytes) -> bytes:
    escaped = bytearray()
    for byte in unit:
        if escaped[-2:] == b"\x00\x00" and byte <= 3:
            escaped.append(3)
        escaped.append(byte)
    return bytes(escaped)


def damaged(seed: Seed, number: int) -> tuple[str, bytes]:
    """Input `number`, and the names of the mutations that made it."""
    rng = np.random.default_rng([BASE_SEED, *seed.name.encode(), number])
    first = MUTATIONS[rng.integers(len(MUTATIONS))]
    further = [mutation for mutation in MUTATIONS if mutation not in REMUXING]
    chosen = [first, *(further[rng.integers(len(further))] for _ in range(rng.choice([0, 0, 0, 1, 2])))]
    data = seed.data
    for mutation in chosen:
        data = mutation(seed, rng, data)
    return "+".join(mutation.__name__ for mutation in chosen), data


@contextmanager
def refusal_allowed() -> Iterator[None]:
    try:
        yield
    except UnreadableVideoError as error:
        if len(str(error).splitlines()) != 1:
            raise ValueError("a message of several lines") from error


def read_about(path: Path, number: int) -> None:
    """Reads several places and streams; an exception that comes out of here is a defect."""
    rng = np.random.default_rng(number)
    policy, resolution = ("raise", "skip")[rng.integers(2)], (None, (20, 30))[rng.integers(2)]
    with refusal_allowed(), CompressedVideo(path, build_index(path), on_corrupt=policy) as video:
        for gop in {0, int(rng.integers(len(video.gops))), len(video.gops) - 1}:
            last = video.gops[gop].length - 1
            for streams in STREAMS:
                with refusal_allowed():
                    if last == 0 or (last < 100 and rng.integers(2)):
                        video.read_gop(gop, streams=streams, resolution=resolution)
                    else:
                        video.read(gop=gop, position=int(rng.integers(1, last + 1)), streams=streams)


def footprint() -> dict[str, int]:
    """What a leak would add to."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    contexts = sum(isinstance(thing, av.CodecContext) for thing in gc.get_objects())
    descriptors = len(os.listdir("/proc/self/fd"))
    return {"MiB": pages * resource.getpagesize() >> 20, "descriptors": descriptors, "contexts": contexts}


def read_inputs(seed: Seed, folder: Path, first: int, behind: int) -> None:
    """Makes and reads inputs; leaves those that went wrong, each with a report. Runs in a process of its own."""
    bound_memory()
    watchdog, footprints = (folder / "watchdog").open("w"), []
    faulthandler.enable(watchdog)
    for number in range(first, behind):
        mutations, data = damaged(seed, number)
        path = folder / f"{number}-{mutations}.{seed.suffix}"
        path.write_bytes(data)
        faulthandler.dump_traceback_later(SECONDS_PER_INPUT, exit=True, file=watchdog)
        try:
            read_about(path, number)
        except Exception:
            path.with_suffix(".txt").write_text(traceback.format_exc())
        else:
            path.unlink()
        finally:
            faulthandler.cancel_dump_traceback_later()
        if number in (behind // 3, behind - 1):
            footprints.append(footprint())
    (folder / "footprints.json").write_text(json.dumps(footprints))


def bound_memory() -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE,) * 2)


def run(seed: Seed, folder: Path, count: int) -> None:
    """Reads inputs 0 to `count` - 1; where one kills the process or hangs, the next process takes up behind it."""
    first = 0
    while first < count:
        process = multiprocessing.get_context("fork").Process(target=read_inputs, args=(seed, folder, first, count))
        process.start()
        process.join()
        if process.exitcode == 0:
            return
        (culprit,) = (path for path in folder.glob(f"*.{seed.suffix}") if not path.with_suffix(".txt").exists())
        report = f"exit status {process.exitcode}\n{(folder / 'watchdog').read_text()}"
        culprit.with_suffix(".txt").write_text(report)
        first = int(culprit.name.split("-")[0]) + 1


def reports(folder: Path) -> str:
    return "\n".join(f"{report.with_suffix('')}: {report.read_text()[-1_500:]}" for report in folder.glob("*.txt"))


@pytest.mark.parametrize("num_inputs", [25, pytest.param(850, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("codec", "b_frames"), ENCODERS)
def test_damaged_files_are_read_or_refused(tmp_path, codec, b_frames, suffix, num_inputs):
    seed = make_seed(codec, b_frames, suffix)
    assert_intact_is_read(seed, tmp_path)
    run(seed, tmp_path, num_inputs)
    assert not list(tmp_path.glob("*.txt")), reports(tmp_path)
    warm, end = json.loads((tmp_path / "footprints.json").read_text())
    assert end["descriptors"] <= warm["descriptors"]
    assert end["contexts"] <= 40, "decoder contexts are kept without bound"
    assert end["MiB"] - warm["MiB"] < 64


def test_a_frame_that_comes_once_more_is_passed_over(tmp_path: Path) -> None:
    """On such an input skipping damage went on for ever: the only frame of a GOP is intact, and comes twice."""
    seed = make_seed("libx264", 2, "avi")
    mutations, data = damaged(seed, 346)
    assert "repeat" in mutations
    path = tmp_path / "clip.avi"
    path.write_bytes(data)
    read_about(path, 346)


def assert_intact_is_read(seed: Seed, folder: Path) -> None:
    """Also compiles, so that no child has to."""
    path = folder / f"intact.{seed.suffix}"
    path.write_bytes(seed.data)
    with CompressedVideo(path) as video:
        assert video.num_frames == 16
        assert video.read_gop(1, streams=("iframe",)).iframe.shape == (48, 64, 3)
        if not seed.b_frames:
            assert video.read_gop(1, resolution=(20, 30)).residual.shape == (5, 20, 30, 3)
    path.unlink()


def test_the_fuzzer_reports_crashes_hangs_and_other_exceptions(tmp_path, monkeypatch):
    """And goes on behind them."""

    def read_badly(path: Path, number: int) -> None:
        misfortunes = {2: lambda: os.kill(os.getpid(), signal.SIGSEGV), 4: lambda: 1 / 0, 5: lambda: time.sleep(30)}
        misfortunes.get(number, lambda: None)()

    monkeypatch.setitem(globals(), "read_about", read_badly)
    monkeypatch.setitem(globals(), "SECONDS_PER_INPUT", 1)
    seed = make_seed("mpeg4", 0, "mp4")
    run(seed, tmp_path, 8)
    found = {int(report.name.split("-")[0]): report.read_text() for report in tmp_path.glob("*.txt")}
    assert sorted(found) == [2, 4, 5]
    for number, said in {2: "exit status -11", 4: "ZeroDivisionError", 5: "Timeout (0:00:01"}.items():
        assert said in found[number]
        mutations, data = damaged(seed, number)
        assert (tmp_path / f"{number}-{mutations}.mp4").read_bytes() == data
        assert f"{number}-{mutations}" in reports(tmp_path)
