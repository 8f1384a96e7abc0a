import dataclasses

import numpy as np
import pytest

from datamodules.bitstream import build_index
from datamodules.index_record import decode_index, encode_index


@pytest.fixture
def video(video_root):
    return str(video_root / "train/run/0.mp4")


def test_an_index_comes_back_as_it_was(video):
    index = build_index(video)
    again = decode_index(encode_index(index, (5, 7)), video, (5, 7))
    for field in dataclasses.fields(index):
        ours, theirs = getattr(again, field.name), getattr(index, field.name)
        np.testing.assert_array_equal(ours, theirs, field.name)
        assert not isinstance(theirs, np.ndarray) or ours.dtype == theirs.dtype
    assert again.gops == index.gops


def test_whatever_is_torn_is_told(video):
    record = encode_index(build_index(video), (5, 7))
    for place in range(0, len(record), 3):
        changed = bytearray(record)
        changed[place] ^= 1 << place % 8
        for torn in (bytes(changed), record[:place]):
            with pytest.raises(ValueError, match="expected"):
                decode_index(torn, video, (5, 7))


@pytest.mark.parametrize(("path", "stamp"), [("other.mp4", (5, 7)), (None, (5, 8)), (None, (6, 7))])
def test_another_files_is_told(video, path, stamp):
    record = encode_index(build_index(video), (5, 7))
    with pytest.raises(ValueError, match="another's"):
        decode_index(record, path or video, stamp)
