"""One exit by itself: the logits of the whole network there, and nothing computed or kept behind it."""

import pytest
import torch
from torch import nn

from lightning_modules.networks import EarlyExitNetwork, SingleExit, TeamNet, resnet10, tsm_resnet10
from lightning_modules.networks.used_part import used_part

SHAPE = (2, 3, 32, 32)


def make_team_net() -> TeamNet:
    parts = {"iframe": tsm_resnet10(5, 3, width=8), "mv": resnet10(5, 2, width=4), "residual": resnet10(5, 3, width=4)}
    return TeamNet(**parts)


@pytest.fixture
def network() -> EarlyExitNetwork:
    torch.manual_seed(0)
    return EarlyExitNetwork(resnet10(5, width=4, input_norm=True), "linear").eval()


@pytest.mark.parametrize("exit", ["layer1", "layer3", "final"])
def test_logits_are_those_of_the_whole_network(network: EarlyExitNetwork, exit: str) -> None:
    clip = torch.randn(3, *SHAPE)
    expected = network(clip)[:, network.exit_names.index(exit)]
    single = SingleExit(network, exit)
    assert torch.equal(single(clip), expected)
    assert torch.equal(used_part(single, clip[:1])(clip), expected)


@pytest.mark.parametrize("exit", ["stem", "layer2", "final"])
def test_classifiers_that_see_something_else_than_the_map(exit: str) -> None:
    torch.manual_seed(0)
    network = EarlyExitNetwork(make_team_net(), "linear").eval()
    clip = torch.randn(3, 2, 8, 32, 32)
    single = SingleExit(network, exit)
    assert torch.equal(used_part(single, clip[:1])(clip), network(clip)[:, network.exit_names.index(exit)])


def test_nothing_behind_the_exit_runs_or_is_kept(network: EarlyExitNetwork) -> None:
    single = SingleExit(network, "layer2")
    kept = {name for name, _ in used_part(single, torch.zeros(1, *SHAPE)).named_parameters()}
    parts = ("input_bn", "conv1", "bn1", "layer1", "layer2")
    expected = {f"network.backbone.{name}" for name, _ in network.backbone.named_parameters() if name.startswith(parts)}
    expected |= {f"network.classifiers.layer2.{name}" for name, _ in network.classifiers["layer2"].named_parameters()}
    assert kept == expected
    network.backbone.get_submodule("layer3").register_forward_hook(lambda *_: pytest.fail("layer3 ran"))
    single(torch.zeros(1, *SHAPE))


def test_the_network_itself_is_left_alone(network: EarlyExitNetwork) -> None:
    names = [name for name, _ in network.named_modules()]
    used_part(SingleExit(network, "layer1"), torch.zeros(1, *SHAPE))
    assert [name for name, _ in network.named_modules()] == names
    assert not isinstance(network.backbone.get_submodule("layer4"), nn.Identity)


def test_weights_that_are_used_without_their_module_are_kept() -> None:
    """As attention does with its output projection, which it does not call."""
    attention = nn.MultiheadAttention(4, 2, batch_first=True).eval()

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention
            self.spare = nn.Linear(4, 4)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.attention(tokens, tokens, tokens)[0]

    network, tokens = Pooled().eval(), torch.randn(2, 3, 4)
    part = used_part(network, tokens)
    assert isinstance(part.spare, nn.Identity)
    torch.testing.assert_close(part(tokens), network(tokens))


def test_another_exit_is_refused(network: EarlyExitNetwork) -> None:
    with pytest.raises(ValueError, match=r"expected one of \['layer1', 'layer2', 'layer3', 'final'\], came 'layer9'"):
        SingleExit(network, "layer9")
