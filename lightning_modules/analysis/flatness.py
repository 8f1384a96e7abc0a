"""How flat the minimum is that a network has come to rest in: curvature of the loss, and slices through it.

Soufleri et al. (arXiv 2407.02713) explain progressive distillation by flatter minima; theirs is a picture, here are the
Hessian's trace (Hutchinson), its largest eigenvalue (power iteration) and slices (Li et al., NeurIPS 2018).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from lightning_modules.analysis.hessian import HessianTrace, TopEigenvalue, hessian_trace, top_eigenvalue
from lightning_modules.analysis.loss_slices import LossLines, LossPlane, loss_lines, loss_plane
from lightning_modules.analysis.loss_surface import LossSurface

T = TypeVar("T")

WHY_EQUAL = (
    "Compare only networks of equal architecture: the trace sums over parameters, and trace and eigenvalues alike "
    "depend on how a network is parametrised, which dividing by the number of parameters does not undo."
)


@dataclass(frozen=True)
class MeasuredFlatness:
    """All that is measured of one network.

    Args:
        loss: mean over the samples.
        trace: of the Hessian.
        top_eigenvalue: of the Hessian.
        lines: loss along random directions.
        plane: loss over two of them.
        shapes: of the parameters by name: what must be equal where networks are compared.
    """

    loss: float
    trace: HessianTrace
    top_eigenvalue: TopEigenvalue
    lines: LossLines
    plane: LossPlane
    shapes: dict[str, tuple[int, ...]]

    def to_record(self) -> dict[str, Any]:
        """Plain values, for JSON; with the normalised trace, which is derived."""
        record = asdict(self)
        record["trace"]["normalised"] = self.trace.normalised
        record["trace"]["normalised_standard_error"] = self.trace.normalised_standard_error
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "MeasuredFlatness":
        """What ``to_record`` was made of, also after a way through JSON."""
        return cls(
            loss=record["loss"],
            trace=_build(HessianTrace, record["trace"]),
            top_eigenvalue=_build(TopEigenvalue, record["top_eigenvalue"]),
            lines=_build(LossLines, record["lines"]),
            plane=_build(LossPlane, record["plane"]),
            shapes={name: tuple(shape) for name, shape in record["shapes"].items()},
        )


@dataclass(frozen=True)
class FlatnessMeasurement:
    """What to spend on one network. The defaults cost some 20 Hessian-vector products, and 120 forward passes.

    Args:
        num_probes: of the trace.
        tolerance: of the eigenvalue: residual by the magnitude of the dominant eigenvalue. The error of the eigenvalue
            is of the order of its square.
        max_products: Hessian-vector products at most, for each of at most two power iterations.
        num_directions: of the 1-D slices.
        radius: of the slices, in lengths of the weights.
        line_points: of a 1-D slice, odd.
        plane_points: of the 2-D slice along either direction, odd.
        seed: of all that is drawn.
    """

    num_probes: int = 12
    tolerance: float = 0.05
    max_products: int = 30
    num_directions: int = 2
    radius: float = 0.5
    line_points: int = 21
    plane_points: int = 9
    seed: int = 0

    def __call__(
        self, surface: LossSurface, progress: Callable[[str], None] = lambda message: None
    ) -> MeasuredFlatness:
        """Measure; ``progress`` is called with what was found, step by step."""
        trace = hessian_trace(surface, num_probes=self.num_probes, seed=self.seed)
        progress(f"Hessian trace {trace.value:.4g} ± {trace.standard_error:.2g}")
        top = top_eigenvalue(surface, tolerance=self.tolerance, max_products=self.max_products, seed=self.seed)
        progress(f"top eigenvalue {top.value:.4g}{'' if top.converged else ', not converged'}")
        lines = loss_lines(
            surface,
            num_directions=self.num_directions,
            radius=self.radius,
            num_points=self.line_points,
            seed=self.seed,
        )
        plane = loss_plane(surface, radius=self.radius, num_points=self.plane_points, seed=self.seed)
        progress("loss slices")
        return MeasuredFlatness(surface.loss(), trace, top, lines, plane, surface.shapes)


def check_comparable(measured: Mapping[str, MeasuredFlatness]) -> None:
    """Check that figures may be compared: of equal architectures, over as many samples.

    Raises:
        ValueError: they may not; with what differs, and why that matters.
    """
    (first, reference), *others = measured.items()
    for name, flatness in others:
        if flatness.shapes != reference.shapes:
            raise ValueError(
                f"{first} and {name} are different architectures: {_difference(reference, flatness)}. {WHY_EQUAL}"
            )
        samples = (reference.trace.num_samples, flatness.trace.num_samples)
        if samples[0] != samples[1]:
            raise ValueError(f"{first} was measured on {samples[0]} samples, {name} on {samples[1]}; set `num_samples`")


def _difference(one: MeasuredFlatness, other: MeasuredFlatness) -> str:
    """The first parameter that differs, e.g. "conv1.weight is (16, 2, 7, 7) in one, missing in the other"."""
    names = [*one.shapes, *(name for name in other.shapes if name not in one.shapes)]
    name = next(name for name in names if one.shapes.get(name) != other.shapes.get(name))
    shapes = [str(flatness.shapes.get(name, "missing")) for flatness in (one, other)]
    return f"{name} is {shapes[0]} in the first, {shapes[1]} in the second"


def _build(cls: type[T], record: Mapping[str, Any]) -> T:
    """A dataclass of its fields in ``record``, which may hold more."""
    return cls(**{field.name: record[field.name] for field in fields(cls)})  # type: ignore[arg-type]
