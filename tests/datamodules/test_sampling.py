"""Against CoViAR's formulas, stated again here in its own terms (loops over scalars)."""

import random
from dataclasses import dataclass

import numpy as np
import pytest

from datamodules.randomness import generator
from datamodules.sampling import (
    FrameSampler,
    centre_segments,
    dense_clip,
    frame_to_gop,
    motion_frame,
    random_segments,
)


@dataclass
class Span:
    start: int
    length: int


def spans(*lengths: int) -> list[Span]:
    return [Span(sum(lengths[:i]), length) for i, length in enumerate(lengths)]


def coviar_range(n: int, num_segments: int, segment: int, *, motion: bool) -> tuple[int, int]:
    n -= motion
    size = float(n - 1) / num_segments
    begin, end = round(size * segment), round(size * (segment + 1))
    end = begin + 1 if end == begin else end
    return begin + motion, end + motion


def coviar_centre(n: int, num_segments: int, segment: int, *, motion: bool) -> int:
    n -= motion
    return round(float(n - 1) / num_segments * (segment + 0.5)) + motion


def coviar_place(frame: int, gop_size: int = 12) -> tuple[int, int]:
    gop, position = divmod(frame, gop_size)
    return (gop - 1, gop_size - 1) if position == 0 else (gop, position)


@pytest.mark.parametrize("motion", [False, True])
@pytest.mark.parametrize("num_frames", [3, 12, 37, 250])
@pytest.mark.parametrize("num_segments", [1, 3, 25])
def test_centres_are_coviars(num_frames, num_segments, motion):
    expected = [coviar_centre(num_frames, num_segments, s, motion=motion) for s in range(num_segments)]
    assert centre_segments(num_frames, num_segments, motion=motion).tolist() == [expected]


@pytest.mark.parametrize("motion", [False, True])
@pytest.mark.parametrize(("num_frames", "num_segments"), [(3, 3), (20, 3), (41, 5), (9, 8)])
def test_random_frames_fill_coviars_ranges(num_frames, num_segments, motion):
    draws = np.array([random_segments(num_frames, num_segments, generator(i), motion=motion) for i in range(400)])
    for segment, seen in enumerate(draws.T):
        begin, end = coviar_range(num_frames, num_segments, segment, motion=motion)
        assert set(seen.tolist()) == set(range(begin, end))


@pytest.mark.parametrize("num_frames", [1, 2])
def test_very_short_videos_stay_within_bounds(num_frames):
    for motion in (False, True):
        frames = random_segments(num_frames, 5, generator(0), motion=motion)
        assert ((frames >= 0) & (frames < num_frames)).all()
        assert (centre_segments(num_frames, 5, motion=motion) < num_frames).all()


def test_clips_interleave_and_one_clip_is_the_centre():
    clips = centre_segments(101, 4, num_clips=5)
    assert clips.shape == (5, 4)
    assert (np.sort(clips.T.ravel()) == clips.T.ravel()).all()
    assert clips[2].tolist() == centre_segments(101, 4)[0].tolist()


def test_dense_clips():
    assert dense_clip(100, 8, 8).tolist() == [[21, 29, 37, 45, 53, 61, 69, 77]]
    assert dense_clip(5, 4, 2).tolist() == [[0, 2, 4, 1]]  # repeats
    assert dense_clip(5, 4, 2, motion=True).tolist() == [[1, 3, 1, 3]]
    assert dense_clip(100, 2, 10, num_clips=3)[:, 0].tolist() == [14, 44, 74]
    starts = {int(dense_clip(12, 4, 3, rng=generator(i))[0, 0]) for i in range(100)}
    assert starts == {0, 1, 2}


class TestWindow:
    @pytest.mark.parametrize("mode", ["segments", "dense"])
    @pytest.mark.parametrize("motion", [False, True])
    def test_frames_lie_in_the_middle_and_do_not_tell_the_length(self, mode, motion):
        sampler = FrameSampler(4, mode, 5, window=52)
        for rng in (lambda: None, lambda: generator(3)):
            drawn = {n: sampler.draw(n, motion=motion, rng=rng()) for n in (52, 53, 90, 183)}
            for n, frames in drawn.items():
                assert (frames - (n - 52) // 2).tolist() == drawn[52].tolist()
        every = {int(f) for i in range(300) for f in sampler.draw(183, motion=motion, rng=generator(i))[0]}
        assert min(every) == 65 + motion
        assert max(every) <= 116

    def test_a_shorter_video_gives_all_it_has(self):
        assert FrameSampler(5, window=52).draw(20, motion=False, rng=None).tolist() == centre_segments(20, 5).tolist()


def test_sampler_draws_the_same_frames_from_the_same_key():
    sampler = FrameSampler(5)
    first = sampler.draw(300, motion=True, rng=generator(1, 2, 3, 0))
    assert first.tolist() == sampler.draw(300, motion=True, rng=generator(1, 2, 3, 0)).tolist()
    assert first.tolist() != sampler.draw(300, motion=True, rng=generator(1, 2, 4, 0)).tolist()


def test_frames_to_gops_by_counting():
    lengths = [random.Random(0).randint(1, 20) for _ in range(30)]
    gops, frame = spans(*lengths), 0
    for gop, length in enumerate(lengths):
        for position in range(length):
            assert frame_to_gop(frame, gops) == (gop, position)
            frame += 1
    with pytest.raises(IndexError, match="30 GOPs"):
        frame_to_gop(frame, gops)


def test_motion_frames_are_coviars_for_gops_of_12():
    gops = spans(*[12] * 6)
    assert [motion_frame(f, gops) for f in range(1, 72)] == [coviar_place(f) for f in range(1, 72)]


@pytest.mark.parametrize(
    ("lengths", "frame", "expected"),
    [
        ((12, 12), 0, (0, 1)),  # nothing before: the one after
        ((5, 1, 1, 4), 5, (0, 4)),  # over GOPs of a lone I-frame
        ((5, 1, 1, 4), 7, (0, 4)),
        ((1, 1, 3), 1, (2, 1)),
        ((1, 3), 2, (1, 1)),
    ],
)
def test_motion_frame_in_any_gops(lengths, frame, expected):
    assert motion_frame(frame, spans(*lengths)) == expected


def test_motion_needs_a_p_frame():
    with pytest.raises(ValueError, match="I-frames only"):
        motion_frame(1, spans(1, 1, 1))


def test_keys_of_different_lengths_do_not_share_a_stream():
    assert generator(1, 2).integers(1 << 60) != generator(1, 2, 0).integers(1 << 60)
