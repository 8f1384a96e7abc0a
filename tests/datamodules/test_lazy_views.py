"""Lazy streams against a whole read, bit for bit; and what is decoded for them."""

import pickle
from dataclasses import replace
from itertools import permutations

import pytest
import torch

from datamodules.bitstream import CompressedVideo, UnreadableVideoError, build_index
from datamodules.bitstream.decoder import PacketDecoder
from datamodules.clip import parts_of
from datamodules.clip_reader import ClipReader
from datamodules.failure import Failure
from datamodules.index_cache import IndexCache
from datamodules.lazy_views import LazyViews
from datamodules.sampling import FrameSampler
from datamodules.transforms import RandomCrops
from datamodules.video_source import VideoSource

STREAMS = ("mv", "residual", "iframe")


def make_reader(streams=STREAMS, *, on_corrupt="raise", **options):
    source = VideoSource(parts_of(*streams), IndexCache(), on_corrupt=on_corrupt)
    sampler = FrameSampler(3, num_clips=2)
    return ClipReader(source, dict.fromkeys(streams, 40), sampler, RandomCrops(), num_crops=3, **options)


def lazily(reader, path):
    """As a consumer gets it from a worker."""
    return pickle.loads(pickle.dumps(LazyViews(reader, reader.plan(path), path)))


@pytest.fixture
def path(video_root):
    return str(video_root / "test/run/0.mp4")


@pytest.fixture
def num_decoded(monkeypatch):
    """Counts the frames that decoders give."""
    counts = []
    original = PacketDecoder.decode

    def decode(self, *args):
        for frame in original(self, *args):
            counts.append(frame.pts)
            yield frame

    monkeypatch.setattr(PacketDecoder, "decode", decode)
    return counts


@pytest.mark.parametrize("reference", ["iframe", "previous"])
@pytest.mark.parametrize(
    "order",
    [
        *permutations(STREAMS),
        *[("rgb", "iframe", "mv"), ("iframe", "rgb"), ("mv", "iframe")],
        *[("mv+residual", "iframe"), ("iframe", "mv+residual"), ("mv", "mv+residual"), ("iframe+mv+residual",)],
    ],
)
def test_every_stream_is_what_a_whole_read_gives(path, order, reference):
    reader = make_reader(order, reference=reference)
    whole, lazy = reader.read(path).streams, lazily(reader, path)
    for stream in order:
        assert torch.equal(lazy.read(stream), whole[stream]), stream
    lazy.close()
    assert torch.equal(lazy.read(order[0]), whole[order[0]]), "reading can begin anew"


def test_files_that_stand_on_their_side_are_turned(path, monkeypatch):
    index = replace(build_index(path), rotation=90)
    monkeypatch.setattr(IndexCache, "get", lambda *_: index)
    reader = make_reader()
    whole, lazy = reader.read(path).streams, lazily(reader, path)
    assert all(torch.equal(lazy.read(stream), whole[stream]) for stream in STREAMS)


def test_prefixes_are_decoded_once_and_iframes_first_alone(path, num_decoded):
    reader = make_reader()
    places = {place for clip in reader.plan(path).clips for place in clip}
    prefixes = sum(max(p for g, p in places if g == gop) + 1 for gop in {g for g, _ in places})
    lazy = lazily(reader, path)
    for stream in STREAMS:
        lazy.read(stream)
        assert len(num_decoded) == prefixes, "all streams share what the first one decoded"
    num_decoded.clear()
    lazily(make_reader(["mv+residual", "iframe"]), path).read("mv+residual")
    assert len(num_decoded) == prefixes, "parts of a joint stream do, too"
    num_decoded.clear()
    lazy = lazily(reader, path)
    lazy.read("iframe")
    assert len(num_decoded) == len({gop for gop, _ in places}), "key packets alone"
    lazy.read("residual")
    lazy.read("mv")
    assert len(num_decoded) == prefixes + len({gop for gop, _ in places})


def test_pixels_are_left_out_where_no_stream_will_ask_for_them(path, monkeypatch):
    decodes = []
    original = CompressedVideo._decode

    def decode(self, gop, count, *, vectors_only):
        decodes.append((count > 1, vectors_only))
        return original(self, gop, count, vectors_only=vectors_only)

    monkeypatch.setattr(CompressedVideo, "_decode", decode)
    for order in (("mv", "iframe"), ("iframe", "mv")):
        decodes.clear()
        lazy = lazily(make_reader(order), path)
        for stream in order:
            lazy.read(stream)
        assert {skips for is_prefix, skips in decodes if is_prefix} == {True}
        assert {skips for is_prefix, skips in decodes if not is_prefix} == {False}


def test_damage_is_found_when_its_stream_is_asked_for(path, damage):
    damage(path, build_index(path).gops[1].start + 2)
    reader = make_reader()
    with pytest.raises(UnreadableVideoError):
        reader.read(path)
    lazy = lazily(reader, path)
    assert isinstance(lazy.read("iframe"), torch.Tensor)
    failure = lazy.read("mv")
    assert isinstance(failure, Failure)
    assert failure.path == path
    assert "damaged at GOP 1, position 2" in failure.reason


@pytest.mark.parametrize("order", permutations(STREAMS))
def test_damage_that_is_skipped_counts_as_in_a_whole_read(path, damage, order):
    damage(path, build_index(path).gops[1].start + 2)
    reader = make_reader(on_corrupt="skip")
    whole, lazy = reader.read(path), lazily(reader, path)
    assert all(torch.equal(lazy.read(stream), whole.streams[stream]) for stream in order)
    lazy.close()
    assert lazy.corrupt_frames == whole.corrupt_frames > 0


def test_a_plan_is_small_and_opens_nothing(path, monkeypatch):
    reader = make_reader()
    monkeypatch.setattr("datamodules.bitstream.reader.open_pictures", lambda *_: pytest.fail("opened"))
    lazy = LazyViews(reader, reader.plan(path), path)
    assert len(pickle.dumps(lazy)) < 10_000
