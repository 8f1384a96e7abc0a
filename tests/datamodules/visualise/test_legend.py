"""Words of legends."""

import pytest

from datamodules.visualise.legend import shortened


@pytest.mark.parametrize(
    ("length", "expected"), [(8, "clip.mp4"), (7, "cli…mp4"), (6, "cl…p4"), (3, "c…4"), (99, "clip.mp4")]
)
def test_long_names_lose_their_middle(length, expected):
    assert shortened("clip.mp4", length) == expected
