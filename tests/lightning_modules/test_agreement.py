"""What is said where a network and its data do not quite fit."""

import warnings
from types import SimpleNamespace

import pytest

from lightning_modules.agreement import warn_of_other_sizes


def test_frames_of_another_size_than_in_training_are_no_secret():
    data = SimpleNamespace(sizes={"iframe": (112, 112), "mv": (56, 80)})
    with pytest.warns(
        UserWarning, match=r"'iframe' was trained on frames of 56x56 pixels, the data gives 112x112 \(`d"
    ):
        warn_of_other_sizes(data, {"iframe": (56, 56), "mv": (56, 80)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_other_sizes(data, {"mv": (56, 80), "residual": (1, 1)})
        warn_of_other_sizes(None, {"mv": (1, 1)})
