import pytest

from datamodules.tolerance import check_tolerance, tolerated


@pytest.mark.parametrize(("limit", "expected"), [(0, 0), (3, 3), (0.0, 0), (0.05, 1), (0.1, 3), (1.0, 39)])
def test_numbers_and_fractions(limit: float, expected: int) -> None:
    check_tolerance("max_missing", limit)
    assert tolerated(limit, 39) == expected


@pytest.mark.parametrize("limit", [-1, -0.1, 1.5])
def test_neither(limit: float) -> None:
    with pytest.raises(ValueError, match="max_missing: expected a number of videos, or a fraction"):
        check_tolerance("max_missing", limit)
