"""What `on_corrupt` does about frames that the decoder finds damaged, and about missing ones."""

import pickle
import shutil

import numpy as np
import pytest

from datamodules.bitstream import CompressedVideo, UnreadableVideoError, build_index, encode_frames

BROKEN = 5  # position of the damaged frame in GOP 1


@pytest.fixture(scope="module", params=["mpeg4", "h264"])
def intact(request, tmp_path_factory):
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (40, 60, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    path = tmp_path_factory.mktemp("clips") / f"{request.param}.mp4"
    frames = [texture[t : t + 96, 2 * t : 2 * t + 128] + rng.integers(0, 9, (96, 128, 3), np.uint8) for t in range(16)]
    encode_frames(frames, path, codec=request.param, gop_size=8)
    return path


@pytest.fixture(scope="module")
def damaged(intact, damage):
    """The same with one P-frame's data overwritten behind its header."""
    path = intact.with_stem(f"{intact.stem}_damaged")
    shutil.copyfile(intact, path)
    damage(path, 8 + BROKEN)
    return path


def test_by_default_it_is_an_error_that_names_the_place(damaged):
    with CompressedVideo(damaged) as video:
        with pytest.raises(UnreadableVideoError, match=f"damaged at GOP 1, position {BROKEN}"):
            video.read_gop(1, streams=("rgb",))
        video.read(gop=1, position=BROKEN - 1)
        video.read_gop(0)
        assert video.num_corrupt == 0


@pytest.mark.parametrize("reference", ["iframe", "previous"])
def test_skipped_frames_are_stood_in_for_by_the_last_intact_one(intact, damaged, reference):
    streams = ("iframe", "mv", "residual", "rgb")
    with CompressedVideo(intact) as whole, CompressedVideo(damaged, on_corrupt="skip") as video:
        truth = whole.read_gop(1, streams=streams, reference=reference)
        found = video.read_gop(1, streams=streams, reference=reference)
        assert video.num_corrupt == 8 - BROKEN
        numbers = np.minimum(np.arange(8), BROKEN - 1)
        np.testing.assert_array_equal(found.rgb, truth.rgb[numbers])
        np.testing.assert_array_equal(found.mv, truth.mv[numbers[1:] - 1])
        np.testing.assert_array_equal(found.residual, truth.residual[numbers[1:] - 1])
        np.testing.assert_array_equal(found.iframe, truth.iframe)
        positions = video.read_positions(1, [7, 2, 6], streams=streams, reference=reference)
        assert video.num_corrupt == 8 - BROKEN + 2
        for number, frames in zip([BROKEN - 1, 2, BROKEN - 1], positions, strict=True):
            np.testing.assert_array_equal(frames.rgb, truth.rgb[number])
            np.testing.assert_array_equal(frames.mv, truth.mv[number - 1])
        np.testing.assert_array_equal(video.read_gop(0).mv, whole.read_gop(0).mv)


def test_nothing_stands_in_for_a_damaged_iframe(intact, damage, tmp_path):
    path = tmp_path / "clip.mp4"
    shutil.copyfile(intact, path)
    damage(path, 8)
    with CompressedVideo(path, on_corrupt="skip") as video:
        for streams in (("iframe",), ("mv",), ("rgb",)):
            with pytest.raises(UnreadableVideoError, match="damaged at GOP 1, position 0"):
                video.read(gop=1, position=3, streams=streams)
        with pytest.raises(UnreadableVideoError, match="damaged at GOP 1, position 0"):
            video.read_iframes([0, 1])
        video.read_gop(0)


def test_no_vectors_where_the_iframe_alone_is_intact(intact, tmp_path):
    index = build_index(intact)
    path = tmp_path / "clip.mp4"
    path.write_bytes(intact.read_bytes()[: int(index.offsets[9]) + 10])
    with CompressedVideo(path, index, on_corrupt="skip") as video:
        assert video.read_gop(1, streams=("rgb",)).rgb.shape[0] == 8
        for _ in range(2):
            with pytest.raises(UnreadableVideoError, match="damaged at GOP 1, position 1"):
                video.read_gop(1, streams=("mv",))


def test_a_file_cut_short(intact, tmp_path):
    index = build_index(intact)
    path = tmp_path / "clip.mp4"
    data = intact.read_bytes()
    cut = int(index.offsets[8 + BROKEN]) + 10
    path.write_bytes(data[:cut])
    with CompressedVideo(path, index, on_corrupt="skip") as video:
        frames = video.read_gop(1, streams=("rgb",))
    with CompressedVideo(intact) as whole:
        truth = whole.read_gop(1, streams=("rgb",)).rgb
    np.testing.assert_array_equal(frames.rgb, truth[np.minimum(np.arange(8), BROKEN - 1)])


def test_the_policy_is_checked_and_survives_pickling(intact):
    with pytest.raises(ValueError, match="on_corrupt='ignore': expected one of raise, skip"):
        CompressedVideo(intact, on_corrupt="ignore")
    with CompressedVideo(intact, on_corrupt="skip") as video, pickle.loads(pickle.dumps(video)) as copy:
        assert copy.on_corrupt == "skip"
