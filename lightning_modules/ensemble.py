"""Combining logits: of the views of a video, and of several networks or exits by learned scales (WISE).

Soufleri et al. (arXiv 2407.02713): ``out_k = sum_{i <= k} scales[k, i] * logits_i``, with scales of its own for each
exit k; a video leaves at the first exit whose largest softmax probability exceeds a threshold. Learning the scales is
a convex problem; the paper takes 500 steps of SGD, we take Newton's method to the optimum.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

Connection = Literal["scaled", "unscaled", "unconnected", "divided"]

# (K, K) scales for outputs of all exits, from the learned ones.
CONNECTIONS: dict[Connection, Callable[[Tensor], Tensor]] = {
    "scaled": lambda scales: scales,
    "unscaled": lambda scales: torch.ones_like(scales).tril(),
    "unconnected": lambda scales: torch.eye(len(scales), dtype=scales.dtype, device=scales.device),
    "divided": lambda scales: torch.ones_like(scales).tril() / torch.ones_like(scales).cumsum(dim=0),
}

TOLERANCE = 1e-9
MAX_STEPS = 200
MAX_SWEEPS = 2000
TINY = float(np.finfo(np.float64).tiny)


def average_views(logits: Tensor, num_views: int) -> Tensor:
    """Mean over the views of each video, which are adjacent: (B * num_views, ...) -> (B, ...)."""
    return logits.unflatten(0, (len(logits) // num_views, num_views)).mean(dim=1)


def combine(logits: Tensor, scales: Tensor) -> Tensor:
    """Sums of K logits (K, N, C), each times its scale: (N, C) by scales (K,), J such sums (J, N, C) by (J, K).

    In the precision of the logits, whatever the autocast: thresholds lie nearer to 1 than bfloat16 reaches.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return torch.tensordot(scales.to(logits.dtype), logits, dims=1)


def connect(connection: Connection, scales: Tensor) -> Tensor:
    """What to combine the exits by: the learned scales, or an ablation that needs none.

    Args:
        connection: ``scaled``: as learned. ``unscaled``: sums of the logits so far. ``divided``: their means.
            ``unconnected``: every exit by itself.
        scales: (K, K) float, those learned; row k makes the output of exit k.

    Returns:
        (K, K) as ``scales``, lower triangular.

    Raises:
        ValueError: there is no such connection.
    """
    if connection not in CONNECTIONS:
        raise ValueError(f"`model.init_args.connection`: expected one of {list(CONNECTIONS)}, came {connection!r}")
    return CONNECTIONS[connection](scales)


def check_threshold(threshold: float) -> float:
    """The threshold itself.

    Raises:
        ValueError: it is no probability.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(
            "`model.init_args.threshold`: expected from 0 (leave at the first exit) to 1 (at the last alone), "
            f"came {threshold}"
        )
    return threshold


def is_confident(outputs: Tensor, threshold: float) -> Tensor:
    """Whether a video leaves with these outputs: (..., C) float -> (...) bool, largest softmax above ``threshold``."""
    return outputs.softmax(dim=-1).amax(dim=-1) > check_threshold(threshold)


def exit_at(outputs: Tensor, threshold: float) -> Tensor:
    """The first exit that is confident, else the last: outputs (K, N, C) float -> (N,) int64, 0 to K - 1.

    Raises:
        ValueError: a threshold outside [0, 1].
    """
    leaves = is_confident(outputs, threshold)
    leaves[-1] = True
    return leaves.int().argmax(dim=0)


def take(outputs: Tensor, exits: Tensor) -> Tensor:
    """Of each video the output at its exit: (K, N, C), (N,) int64 -> (N, C)."""
    return outputs[exits, torch.arange(len(exits), device=exits.device)]


def objective(logits: Tensor, labels: Tensor, scales: Tensor, *, l1: float = 0.0) -> Tensor:
    """What ``fit_scales`` minimises: mean cross-entropy of the combined logits plus ``l1 * sum |scales|``."""
    return F.cross_entropy(combine(logits, scales), labels) + l1 * scales.abs().sum()


def fit_scales(logits: Tensor, labels: Tensor, l1: float = 0.0, non_negative: bool = False) -> Tensor:
    """Scales that minimise ``objective``, by proximal Newton steps in float64 with a backtracking line search.

    Where some scales classify every sample right there is no optimum without ``l1``; what comes then is finite
    scales whose gradient has vanished.

    Args:
        logits: (K, N, C) float, of K networks for N samples.
        labels: (N,) int64.
        l1: weight of the sum of absolute scales.
        non_negative: allow no scale below 0.

    Returns:
        (K,) float64.

    Raises:
        ValueError: shapes that do not fit together, no samples, or a negative ``l1``.
    """
    _check(logits, labels, l1)
    logits = logits.double()
    scales = torch.ones(len(logits), dtype=torch.float64, device=logits.device)
    for _ in range(MAX_STEPS):
        gradient, hessian = _derivatives(logits, labels, scales)
        if (scales - _shrink(scales - gradient, l1, non_negative)).abs().max() <= TOLERANCE:
            break
        target = _newton_target(scales, gradient, hessian, l1, non_negative)
        step = _line_search(logits, labels, scales, target - scales, gradient, l1)
        if step == 0:
            break
        scales = scales + step * (target - scales)
    return scales


def fit_exit_scales(
    logits: Tensor, labels: Tensor, *, l1: float = 0.1, l1_from: int = 6, non_negative: bool = False
) -> Tensor:
    """Scales of every exit's combination with the exits before it, each by ``fit_scales``; exit 1 has none: 1.

    Args:
        logits: (K, N, C) float, of K exits in order.
        labels: (N,) int64.
        l1: weight of the sum of absolute scales of an exit. The paper's 0.1 from exit 6 on is the default.
        l1_from: the first exit, counted from 1, to which ``l1`` applies.
        non_negative: allow no scale below 0.

    Returns:
        (K, K) float64, lower triangular; row k makes the output of exit k.

    Raises:
        ValueError: as ``fit_scales``.
    """
    scales = torch.zeros(len(logits), len(logits), dtype=torch.float64, device=logits.device)
    scales[0, 0] = 1
    for k in range(2, len(logits) + 1):
        scales[k - 1, :k] = fit_scales(logits[:k], labels, l1 if k >= l1_from else 0.0, non_negative)
    return scales


def _check(logits: Tensor, labels: Tensor, l1: float) -> None:
    if logits.ndim != 3 or labels.shape != logits.shape[1:2] or labels.is_floating_point():
        raise ValueError(
            f"expected logits (K, N, C) and labels (N,) int64, came {tuple(logits.shape)} and "
            f"{tuple(labels.shape)} {labels.dtype}"
        )
    if len(labels) == 0:
        raise ValueError("expected at least one sample to fit scales on, came none")
    if l1 < 0:
        raise ValueError(f"expected `l1` >= 0, came {l1}")


def _derivatives(logits: Tensor, labels: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (K,) and Hessian (K, K) of the mean cross-entropy.

    The gradient is the mean of E_p[z] - z[label], the Hessian that of Cov_p[z], p = softmax of the combined logits.
    """
    probabilities = combine(logits, scales).softmax(dim=1)
    expected = (logits * probabilities).sum(dim=2)
    chosen = logits[:, torch.arange(len(labels), device=labels.device), labels]
    centred = ((logits - expected[..., None]) * probabilities.sqrt()).flatten(1)
    return (expected - chosen).mean(dim=1), centred @ centred.T / len(labels)


def _shrink(values: Tensor, amount: float, non_negative: bool) -> Tensor:
    """The proximal operator of ``amount * |x|``: towards 0 by ``amount``, at most to it."""
    low = torch.zeros_like(values) if non_negative else -F.relu(-values - amount)
    return torch.where(values > amount, values - amount, low)


def _newton_target(scales: Tensor, gradient: Tensor, hessian: Tensor, l1: float, non_negative: bool) -> Tensor:
    """Minimise the quadratic model around ``scales`` plus the penalty: at once if smooth, else one by one."""
    if l1 == 0 and not non_negative:
        return scales - torch.linalg.pinv(hessian, hermitian=True) @ gradient
    target = _coordinate_descent(scales.cpu().numpy(), gradient.cpu().numpy(), hessian.cpu().numpy(), l1, non_negative)
    return torch.from_numpy(target).to(scales.device)


@njit(cache=True)
def _coordinate_descent(
    scales: np.ndarray, gradient: np.ndarray, hessian: np.ndarray, l1: float, non_negative: bool
) -> np.ndarray:
    """Minimise gradient.d + d.hessian.d / 2 + l1 |scales + d|, one coordinate at a time; returns scales + d."""
    target = scales.copy()
    for _ in range(MAX_SWEEPS):
        largest = 0.0
        for k in range(len(target)):
            curvature = max(hessian[k, k], TINY)
            wanted = target[k] - (gradient[k] + (hessian[k] * (target - scales)).sum()) / curvature
            shrunk = max(wanted - l1 / curvature, 0.0)
            if not non_negative:
                shrunk += min(wanted + l1 / curvature, 0.0)
            largest = max(largest, abs(shrunk - target[k]))
            target[k] = shrunk
        if largest <= TOLERANCE / 100:
            break
    return target


def _line_search(
    logits: Tensor, labels: Tensor, scales: Tensor, direction: Tensor, gradient: Tensor, l1: float
) -> float:
    """The first of 1, 1/2, 1/4 ... that lowers the objective enough (Armijo); 0 if rounding hides any gain."""
    start = objective(logits, labels, scales, l1=l1)
    slope = gradient @ direction + l1 * ((scales + direction).abs().sum() - scales.abs().sum())
    step = 1.0
    while step > 1e-12:
        if objective(logits, labels, scales + step * direction, l1=l1) <= start + 1e-4 * step * slope:
            return step
        step /= 2
    return 0.0
