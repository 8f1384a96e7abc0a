import pytest

from datamodules.low_resolution import LowResolution


def test_the_default_is_the_papers_code():
    assert LowResolution() == LowResolution(size=112, made_from="tensor", antialias=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, r"low_resolution\.size: expected at least 1, got 0"),
        ({"made_from": "frame"}, r"low_resolution\.made_from: expected one of tensor, source, got 'frame'"),
    ],
)
def test_wrong_options_name_their_key(options, message):
    with pytest.raises(ValueError, match=message):
        LowResolution(**options)
