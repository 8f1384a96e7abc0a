"""What ResKD and its competitors publish, as it is shown beside ours."""

import pytest

from lightning_modules.analysis.published_resolutions import published_resolutions
from lightning_modules.analysis.resolution_sweep import Metric


@pytest.mark.parametrize(
    ("data_set", "metric", "methods"),
    [
        ("ActivityNet", "mAP", {"FrameExit": 10, "OCSampler": 1, "ResKD": 6}),
        ("MiniKinetics", "top1", {"FrameExit": 1, "ResKD": 1}),
        ("FCVID", "mAP", {"ResKD": 1}),
        ("Kinetics400", "top1", {"labels alone": 4, "ResKD": 2}),
        ("ActivityNet", "top1", {}),
        ("ClassFolders", "top1", {}),
    ],
)
def test_by_data_set_and_metric(data_set: str, metric: Metric, methods: dict[str, int]) -> None:
    points = published_resolutions(data_set, metric)
    found = [point.method for point in points]
    assert {method: found.count(method) for method in found} == methods
    assert points == sorted(points, key=lambda point: (point.series, point.gflops))
    assert all(0 < point.score < 1 and point.gflops > 1 and "arXiv" in point.source for point in points)
    assert all((point.videos_per_second is None) == (point.device == "") for point in points)
