"""Trace and largest eigenvalue of the Hessian of a network's loss, from Hessian-vector products alone."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean, stdev

import torch
from torch import Tensor

from lightning_modules.analysis.loss_surface import LossSurface


@dataclass(frozen=True)
class HessianTrace:
    """Sum of the eigenvalues of the Hessian of the mean loss.

    Args:
        value: the mean over the probes.
        standard_error: of ``value``, from the spread of the probes. The samples are fixed: what other samples would
            give is not in it.
        num_probes: random vectors.
        num_samples: the loss is their mean.
        num_parameters: side of the Hessian.
    """

    value: float
    standard_error: float
    num_probes: int
    num_samples: int
    num_parameters: int

    @property
    def normalised(self) -> float:
        """Mean eigenvalue: the trace by parameter, comparable between networks of one architecture only."""
        return self.value / self.num_parameters

    @property
    def normalised_standard_error(self) -> float:
        return self.standard_error / self.num_parameters


@dataclass(frozen=True)
class TopEigenvalue:
    """Largest eigenvalue of the Hessian of the mean loss: the sharpest direction upwards.

    Args:
        value: the largest, not the largest in magnitude; never above the true one but for rounding.
        residual: ``|H v - value v|`` of the unit vector v found; an eigenvalue lies within it.
        dominant: the eigenvalue of largest magnitude. Negative where negative curvature outweighs the positive one: the
            network rests on a saddle then, not in a minimum.
        converged: whether the residual met the tolerance.
        num_products: Hessian-vector products taken.
        num_samples: the loss is their mean.
        num_parameters: side of the Hessian.
    """

    value: float
    residual: float
    dominant: float
    converged: bool
    num_products: int
    num_samples: int
    num_parameters: int


@dataclass(frozen=True)
class RademacherProbes:
    """Random vectors of +1 and -1, drawn anew and the same whenever they are iterated.

    Args:
        like: (P,), gives length, dtype and device.
        num_probes: how many.
        seed: of the draw, which is the same on every device.
    """

    like: Tensor
    num_probes: int
    seed: int

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.num_probes):
            yield torch.randint(2, self.like.shape, generator=generator).to(self.like) * 2 - 1


def hessian_trace(surface: LossSurface, *, num_probes: int = 12, seed: int = 0) -> HessianTrace:
    """Estimate the trace by Hutchinson's method: the mean of ``v.T @ H @ v`` over Rademacher vectors v.

    It is unbiased, with variance ``2 * sum of H_ij^2, i != j`` by probe, so exact for a diagonal Hessian.

    Raises:
        ValueError: less than two probes, which have no spread.
    """
    if num_probes < 2:
        raise ValueError(f"expected `num_probes` >= 2 for an error bar, came {num_probes}")
    values = surface.curvatures(RademacherProbes(surface.point, num_probes, seed))
    error = stdev(values) / math.sqrt(num_probes)
    return HessianTrace(mean(values), error, num_probes, surface.num_samples, surface.num_parameters)


def top_eigenvalue(
    surface: LossSurface, *, tolerance: float = 0.05, max_products: int = 30, seed: int = 0
) -> TopEigenvalue:
    """Find the largest eigenvalue by power iteration.

    Power iteration finds the eigenvalue of largest magnitude, which is the largest one as long as positive curvature
    dominates. Where it comes out negative, or nothing comes out (two of opposite signs and equal magnitude), a second
    iteration on ``H + s I``, with s that magnitude, makes all eigenvalues positive and finds the largest.

    Args:
        surface: the loss.
        tolerance: stop once ``|H v - value v| <= tolerance * |dominant eigenvalue|``.
        max_products: Hessian-vector products at most, for each of the two.
        seed: of the first vector.

    Raises:
        ValueError: no product allowed.
    """
    if max_products < 1:
        raise ValueError(f"expected `max_products` >= 1, came {max_products}")
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(surface.num_parameters, generator=generator).to(surface.point)
    iterations = [_power_iteration(surface, start, tolerance, max_products)]
    if iterations[0].value < 0 or not iterations[0].converged:
        iterations.append(_power_iteration(surface, start, tolerance, max_products, shift=iterations[0].magnitude))
    # Every Rayleigh quotient is a lower bound of the largest eigenvalue.
    best = max(iterations, key=lambda iteration: iteration.value)
    return TopEigenvalue(
        value=best.value,
        residual=best.residual,
        dominant=iterations[0].value,
        converged=best.converged,
        num_products=sum(iteration.num_products for iteration in iterations),
        num_samples=surface.num_samples,
        num_parameters=surface.num_parameters,
    )


@dataclass(frozen=True)
class _PowerIteration:
    """Where a power iteration stopped, for its last unit vector v.

    Args:
        value: v.T H v.
        residual: |H v - value v|.
        magnitude: |H v|, the magnitude of the dominant eigenvalue, also where two of opposite signs share it.
        converged: whether the residual met the tolerance.
        num_products: Hessian-vector products taken.
    """

    value: float
    residual: float
    magnitude: float
    converged: bool
    num_products: int


def _power_iteration(
    surface: LossSurface, start: Tensor, tolerance: float, max_products: int, *, shift: float = 0.0
) -> _PowerIteration:
    """Iterate ``v <- (H + shift I) v``, normalised; ``shift`` >= 0, the magnitude of the dominant eigenvalue or 0."""
    vector = start / start.norm()
    for num_products in range(1, max_products + 1):
        product = surface.hessian_vector_product(vector)
        value, magnitude = float(vector @ product), float(product.norm())
        residual = float((product - value * vector).norm())
        converged = residual <= tolerance * (shift or magnitude)
        image = product + shift * vector
        if converged or num_products == max_products or not image.any():
            break
        vector = image / image.norm()
    return _PowerIteration(value, residual, magnitude, converged, num_products)
