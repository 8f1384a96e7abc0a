"""Internal classifiers against the same written with functions, and the paper's layouts."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.networks import InternalClassifier, LinearClassifier, SegmentClassifier, resnet18, resnet50
from lightning_modules.networks.exit_layout import build_classifiers
from lightning_modules.networks.grid_pool import GridPool


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("side", [2, 7, 16])
def test_equals_the_papers_form_frame_by_frame(training: bool, side: int) -> None:
    torch.manual_seed(0)
    classifier = InternalClassifier(6, 5, channels=8, kernel_size=3).double().train(training)
    norm = classifier.head.norm
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.bias)
    maps = torch.randn(2, 3, 6, side, side, dtype=torch.float64)
    weights = {name: value.clone() for name, value in classifier.state_dict().items()}
    expected = functional_classifier(weights, maps.flatten(0, 1), training).unflatten(0, (2, 3))
    torch.testing.assert_close(classifier.frame_logits(maps), expected)
    classifier.load_state_dict(weights)
    torch.testing.assert_close(classifier(maps), expected.mean(dim=1))


def functional_classifier(weights: dict[str, Tensor], frames: Tensor, training: bool) -> Tensor:
    maps = F.conv2d(frames, weights["head.conv.weight"], padding=1)
    mean, var = weights["head.norm.running_mean"], weights["head.norm.running_var"]
    if training:
        mean, var = maps.mean((0, 2, 3)), maps.var((0, 2, 3), unbiased=False)
    scale = weights["head.norm.weight"] / (var + 1e-5).sqrt()
    maps = (maps - mean[:, None, None]) * scale[:, None, None] + weights["head.norm.bias"][:, None, None]
    side, cells = maps.shape[-1], []
    for y in range(4):
        for x in range(4):
            # A cell of the pooled grid reaches from floor(i * side / 4) to ceil((i + 1) * side / 4).
            rows = slice(y * side // 4, -(-(y + 1) * side // 4))
            columns = slice(x * side // 4, -(-(x + 1) * side // 4))
            cells.append(maps[:, :, rows, columns].mean((2, 3)))
    return torch.stack(cells, dim=2).flatten(1) @ weights["head.fc.weight"].T + weights["head.fc.bias"]


def test_the_linear_form_is_a_matrix_on_the_channel_means() -> None:
    classifier = LinearClassifier(6, 5).double()
    maps = torch.randn(2, 3, 6, 7, 9, dtype=torch.float64)
    frames = maps.mean((3, 4)) @ classifier.head.fc.weight.T + classifier.head.fc.bias
    torch.testing.assert_close(classifier.frame_logits(maps), frames)
    torch.testing.assert_close(classifier(maps), frames.mean(1))


def test_the_form_for_segments_is_a_matrix_for_each_of_them() -> None:
    classifier = SegmentClassifier(6, 5, num_segments=3).double()
    maps = torch.randn(2, 3, 6, 2, 4, dtype=torch.float64)
    of_segments = [classifier.fc.weight[:, 6 * t : 6 * (t + 1)] for t in range(3)]
    expected = classifier.fc.bias + sum(maps[:, t].mean((2, 3)) @ of_segments[t].T for t in range(3))
    torch.testing.assert_close(classifier(maps), expected)
    with pytest.raises(ValueError, match=r"clips of 3 segments, .*`num_segments`.*came 4; set `data.*num_segments: 3`"):
        classifier(torch.randn(2, 4, 6, 2, 4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("layout", "backbone", "convolutions"),
    [
        ("resnet18", resnet18, [(64, 64, 7, 7), (128, 128, 3, 3), (256, 256, 3, 3)]),
        ("resnet50", resnet50, [(64, 256, 3, 3), (256, 512, 3, 3), (1024, 1024, 3, 3)]),
    ],
)
def test_the_papers_layouts(layout: str, backbone: type, convolutions: list[tuple[int, ...]]) -> None:
    with torch.device("meta"):
        classifiers = build_classifiers(layout, backbone(101).exit_channels, 101)
    assert list(classifiers) == ["layer1", "layer2", "layer3"]
    assert [tuple(each.head.conv.weight.shape) for each in classifiers.values()] == convolutions
    for classifier in classifiers.values():
        kinds = [nn.Conv2d, nn.BatchNorm2d, GridPool, nn.Flatten, nn.Linear]
        assert [type(layer) for layer in classifier.head] == kinds
        assert classifier.head.conv.padding == (1, 1)
        assert classifier.head.conv.bias is None
        assert classifier.head.pool.output_size == 4
