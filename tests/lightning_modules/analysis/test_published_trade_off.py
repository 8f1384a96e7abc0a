"""What the paper's authors publish, as it is shown beside ours."""

import pytest

from lightning_modules.analysis.published_trade_off import published_points


@pytest.mark.parametrize(
    ("data_set", "expected"),
    [
        ("UCF101", [(88.41, 13.1), (90.56, 16.0), (91.67, 23.4), (92.55, 39.3), (92.77, 45.4)]),
        ("HMDB51", [(60.31, 12.3), (65.05, 23.4), (68.1, 45.4), (68.5, 51.2)]),
        ("ClassFolders", []),
    ],
)
def test_by_data_set_and_rising_cost(data_set: str, expected: list[tuple[float, float]]) -> None:
    points = published_points(data_set)
    assert [pytest.approx((100 * point.top1, point.multiply_adds / 1e9)) for point in points] == expected
    assert all("2407.02713" in point.source for point in points)
