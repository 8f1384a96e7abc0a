"""Multipliers by parameter name: which rule counts, what the optimizer and the scheduler see."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR, MultiStepLR, OneCycleLR

from lightning_modules.networks import resnet10
from lightning_modules.parameter_rules import ParameterRule, build_optimizer, build_scheduler, parameter_groups

COVIAR = [
    ParameterRule("fc.bias", weight_decay=0),
    ParameterRule("fc.weight"),
    ParameterRule("(bn1|input_bn).bias", lr=0.1, weight_decay=0),
    ParameterRule("(conv1|bn1|input_bn).weight", lr=0.1),
    ParameterRule(".*bias", lr=0.01, weight_decay=0),
    ParameterRule(".*", lr=0.01),
]
# Norms are named bn1, bn2, bn3, input_bn and downsample.1.
RESKD = [
    ParameterRule(r".*(bn\d?|downsample\.1)\.weight", weight_decay=0),
    ParameterRule(".*bias", lr=2, weight_decay=0),
]


@pytest.fixture
def network() -> nn.Module:
    return resnet10(3, 2, width=4, input_norm=True)


def settings(network: nn.Module, rules: list[ParameterRule]) -> dict[str, tuple[float, float]]:
    """(lr, weight decay) by parameter name, of an optimizer with lr 1 and weight decay 1e-4."""
    built = build_optimizer(partial(torch.optim.SGD, lr=1.0, weight_decay=1e-4), network, rules)
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in built.param_groups
        for parameter in group["params"]
    }


def test_coviar_multipliers(network: nn.Module) -> None:
    came = settings(network, COVIAR)
    assert len(came) == len(list(network.parameters()))
    for name, (lr, weight_decay) in came.items():
        first = name.split(".")[0]
        assert lr == pytest.approx({"fc": 1, "conv1": 0.1, "bn1": 0.1, "input_bn": 0.1}.get(first, 0.01)), name
        assert weight_decay == (0 if name.endswith("bias") else 1e-4), name


def test_biases_twice_as_fast_and_no_decay_on_biases_and_norms(network: nn.Module) -> None:
    came = settings(network, RESKD)
    norms = {
        f"{name}.{part}" if name else part
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for part, _ in module.named_parameters()
    }
    for name, (lr, weight_decay) in came.items():
        bias = name.endswith("bias")
        assert lr == (2 if bias else 1), name
        assert weight_decay == (0 if bias or name in norms else 1e-4), name


def test_without_rules_one_group_as_the_optimizer_has_it(network: nn.Module) -> None:
    (group,) = parameter_groups(network, [])
    assert [id(p) for p in group["params"]] == [id(p) for p in network.parameters()]


def test_frozen_parameters_are_left_out(network: nn.Module) -> None:
    network.layer1.requires_grad_(False)
    came = settings(network, [ParameterRule("layer1.*", lr=0.5), ParameterRule("fc.*", lr=3)])
    assert came["fc.weight"][0] == 3
    assert not any(name.startswith("layer1") for name in came)


def test_schedulers_start_from_the_scaled_rates(network: nn.Module) -> None:
    optimizer = build_optimizer(partial(torch.optim.SGD, lr=0.1), network, [ParameterRule("fc.*", lr=10)])
    scheduler = build_scheduler(partial(MultiStepLR, milestones=[1], gamma=0.5), optimizer)
    assert [group["initial_lr"] for group in optimizer.param_groups] == pytest.approx([1.0, 0.1])
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.5, 0.05])


def test_warm_up_is_a_scheduler_like_others(network: nn.Module) -> None:
    optimizer = build_optimizer(partial(torch.optim.SGD, lr=0.1), network, [ParameterRule("fc.*", lr=10)])
    build_scheduler(partial(LinearLR, start_factor=0.1), optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.01])


def test_a_scheduler_that_undoes_the_rules_is_refused(network: nn.Module) -> None:
    optimizer = build_optimizer(partial(torch.optim.SGD, lr=0.1), network, [ParameterRule("fc.*", lr=10)])
    with pytest.raises(ValueError, match="OneCycleLR gives every parameter one learning rate"):
        build_scheduler(partial(OneCycleLR, max_lr=0.1, total_steps=5), optimizer)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([ParameterRule("layer5.*")], r"'layer5\.\*' matches no parameter; the nearest names are layer"),
        ([ParameterRule(".*"), ParameterRule("fc.*")], r"'fc\.\*' comes too late.*e\.g\. fc\.weight"),
    ],
)
def test_rules_without_parameters_are_refused(network: nn.Module, rules: list[ParameterRule], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parameter_groups(network, rules)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"pattern": "*.bias"}, "no regular expression"), ({"pattern": ".*", "lr": -1}, "factors >= 0")],
)
def test_malformed_rules_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParameterRule(**arguments)
