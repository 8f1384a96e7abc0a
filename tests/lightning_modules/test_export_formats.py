"""Exported networks of every kind answer like the originals; a comparison sees those that do not."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_modules.export_formats import FORMATS, Agreement, compare, trace
from lightning_modules.networks import (
    DegradedInput,
    EarlyExitNetwork,
    SingleExit,
    SlowOnlyResNet,
    TeamNet,
    VideoSwin,
    resnet10,
    tsm_resnet10,
)
from lightning_modules.networks.resnet import Bottleneck


def make_team_net() -> TeamNet:
    return TeamNet(tsm_resnet10(3, 3, width=8), resnet10(3, 2, width=4), resnet10(3, 3, width=4))


NETWORKS = {
    "resnet": lambda: resnet10(3, width=4, input_norm=True, dropout=0.5),
    "exit, joint streams, temporal shift": lambda: SingleExit(EarlyExitNetwork(make_team_net(), "linear"), "layer1"),
    "slow only": lambda: SlowOnlyResNet(Bottleneck, (1, 1, 1, 1), 3, width=2),
    "swin": lambda: VideoSwin(8, (2,), (2,), 3, window_size=(2, 3, 3)),
    "degraded": lambda: DegradedInput(resnet10(3, width=4), 16),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_all_kinds_answer_as_before(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval().requires_grad_(False)
    shape = (4, network.in_channels, 32, 32)
    program = trace(network, shape)
    clip = torch.randn(5, *shape)
    for kind, form in FORMATS.items():
        path = tmp_path / f"network.{kind}"
        form.write(program, path)
        assert [file.name for file in tmp_path.iterdir()] == [path.name], "weights are inside"
        run = form.load(path)
        torch.testing.assert_close(run(clip), network(clip), rtol=1e-4, atol=1e-5)
        agreement = compare(run, network, shape)
        assert agreement.within(1e-4)
        assert agreement.largest > 1e-2
        path.unlink()


def test_a_comparison_measures_the_greatest_difference() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    agreement = compare(lambda clip: network(clip) + torch.tensor([0.0, 0.25]), network, (1, 3, 2, 2))
    assert agreement.difference == pytest.approx(0.25, abs=1e-6)
    clips = torch.randn(1000, 12, generator=torch.Generator().manual_seed(1))
    assert 0 < agreement.largest < network(clips).abs().max()


@pytest.mark.parametrize(
    ("difference", "largest", "within"),
    [(0.0, 0.0, True), (1e-5, 0.1, True), (1.1e-5, 0.1, False), (float("nan"), 1.0, False)],
)
def test_the_tolerance_is_a_fraction_of_the_largest_logit(difference: float, largest: float, within: bool) -> None:
    assert Agreement(difference, largest).within(1e-4) is within


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # type: ignore[arg-type]
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'streamkd\[export\]'.*--formats '\[pt2\]'"):
        FORMATS["onnx"].check_packages()
    FORMATS["pt2"].check_packages()
