"""Learning rates and weight decays that differ between parameters, as multipliers of the optimizer's own.

CoViAR's (https://github.com/chaoyuaw/pytorch-coviar), for motion vectors and residuals, biases without weight decay::

    parameter_rules:
      - {pattern: fc.bias, weight_decay: 0}
      - {pattern: fc.weight}
      - {pattern: (bn1|input_bn).bias, lr: 0.1, weight_decay: 0}
      - {pattern: (conv1|bn1|input_bn).weight, lr: 0.1}
      - {pattern: .*bias, lr: 0.01, weight_decay: 0}
      - {pattern: .*, lr: 0.01}
"""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@dataclass
class ParameterRule:
    """What the parameters of some names have of their own.

    Args:
        pattern: regular expression that the parameter's whole name matches, e.g. ``layer[34].*`` or ``.*bias``.
        lr: factor on the optimizer's learning rate.
        weight_decay: factor on the optimizer's weight decay.
    """

    pattern: str
    lr: float = 1.0
    weight_decay: float = 1.0

    def __post_init__(self) -> None:
        if self.lr < 0 or self.weight_decay < 0:
            raise ValueError(f"parameter_rules: expected factors >= 0, came {self}")
        try:
            re.compile(self.pattern)
        except re.error as error:
            message = (
                f"parameter_rules: {self.pattern!r} is no regular expression ({error}); write .* for any characters"
            )
            raise ValueError(message) from None

    def matches(self, name: str) -> bool:
        """Whether this rule's pattern is the whole of ``name``."""
        return re.fullmatch(self.pattern, name) is not None


def parameter_groups(module: nn.Module, rules: Sequence[ParameterRule]) -> list[dict[str, Any]]:
    """Sort the trainable parameters of ``module`` by the first rule that matches their name.

    Returns:
        One group a rule, and one of all other parameters; groups without parameters are left out. Beside ``params``,
        each has the rule's factors as ``lr_factor`` and ``weight_decay_factor``.

    Raises:
        ValueError: a rule to which no parameter falls.
    """
    rest = ParameterRule(".*")
    groups: list[list[nn.Parameter]] = [[] for _ in (*rules, rest)]
    used = set()
    for name, parameter in module.named_parameters():
        index = next(index for index, rule in enumerate((*rules, rest)) if rule.matches(name))
        used.add(index)
        if parameter.requires_grad:
            groups[index].append(parameter)
    for index, rule in enumerate(rules):
        if index not in used:
            raise ValueError(_unused(rule, [name for name, _ in module.named_parameters()]))
    return [
        {"params": group, "lr_factor": rule.lr, "weight_decay_factor": rule.weight_decay}
        for group, rule in zip(groups, (*rules, rest), strict=True)
        if group
    ]


def build_optimizer(
    optimizer: Callable[[Iterable[Any]], Optimizer], module: nn.Module, rules: Sequence[ParameterRule]
) -> Optimizer:
    """Call ``optimizer`` with the groups of ``parameter_groups``, and scale what it gave each of them.

    Build the scheduler afterwards: it takes the scaled rates for its initial ones.
    """
    built = optimizer(parameter_groups(module, rules))
    for group in built.param_groups:
        for key in ("lr", "weight_decay"):
            factor = group.pop(f"{key}_factor")
            if factor != 1:
                group[key] = group[key] * factor
    return built


def build_scheduler(lr_scheduler: Callable[[Optimizer], LRScheduler], optimizer: Optimizer) -> LRScheduler:
    """Call ``lr_scheduler``, which must leave the groups' rates in proportion.

    Raises:
        ValueError: it starts the groups from rates of its own, as OneCycleLR's ``max_lr`` does.
    """
    before = [group["lr"] for group in optimizer.param_groups]
    built = lr_scheduler(optimizer)
    after = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    if len(set(before)) > 1 and len(set(after)) == 1:
        raise ValueError(
            f"lr_scheduler: {type(built).__name__} gives every parameter one learning rate, and so undoes "
            f"`parameter_rules`; expected rates {before}. Choose another scheduler, or rules that leave `lr` alone"
        )
    return built


def with_schedule(
    optimizer: Optimizer, lr_scheduler: Callable[[Optimizer], LRScheduler] | None, interval: Literal["epoch", "step"]
) -> OptimizerLRScheduler:
    """An optimizer and its schedule, as ``configure_optimizers`` returns them."""
    if lr_scheduler is None:
        return {"optimizer": optimizer}
    scheduler = build_scheduler(lr_scheduler, optimizer)
    monitor = getattr(scheduler, "monitor", None)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval, "monitor": monitor}}


def _unused(rule: ParameterRule, names: list[str]) -> str:
    if matching := [name for name in names if rule.matches(name)]:
        return (
            f"parameter_rules: {rule.pattern!r} comes too late: earlier rules took all it matches, e.g. {matching[0]}"
        )
    nearest = difflib.get_close_matches(rule.pattern, names, n=3, cutoff=0)
    return f"parameter_rules: {rule.pattern!r} matches no parameter; the nearest names are {', '.join(nearest)}"
