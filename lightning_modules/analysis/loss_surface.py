"""The loss over fixed samples as a function of a network's parameters, and its second derivatives."""

from collections.abc import Callable, Collection, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lightning_modules.analysis.evaluating import evaluating

LossFunction = Callable[[Tensor, Tensor], Tensor]
LabelledClips = tuple[Tensor, Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over samples and, where there are several, over exits.

    Args:
        logits: (B, num_classes), or (B, K, num_classes) of K exits.
        labels: (B,) int64, or (B, num_classes) probabilities.
    """
    if logits.ndim == 2:
        return F.cross_entropy(logits, labels)
    return F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1], dim=0))


class LossSurface:
    """Mean loss over fixed samples as a function of P parameters of a model; all else of the model is held fixed.

    Points and directions are flat vectors (P,), the chosen parameters one after the other. Networks run in eval mode:
    BatchNorm normalises by its running statistics, so that the loss is a mean of terms of one sample each. Nothing
    leaves a trace: parameters, buffers, ``.grad``, train/eval flags and the global random state are bit for bit as
    before, after an exception too. Works inside ``torch.no_grad`` and ``torch.inference_mode``.

    Attributes: ``point``, a copy of the parameters when the surface was made; ``shapes`` of the parameters by name;
    ``num_parameters`` (P); ``num_samples``.

    Args:
        model: inputs -> logits.
        batches: the samples, as pairs of inputs (B, ...) and labels (B, ...) on the model's device.
        parameters: names as in ``model.named_parameters()``; None: all.
        loss: logits and labels of a batch -> its mean loss, twice differentiable.

    Raises:
        ValueError: no samples, no parameters, unknown ones, or a loss that is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[LabelledClips],
        *,
        parameters: Collection[str] | None = None,
        loss: LossFunction = cross_entropy,
    ) -> None:
        named = dict(model.named_parameters())
        names = list(named) if parameters is None else list(parameters)
        if not names or not set(names) <= set(named):
            raise ValueError(f"`parameters`: expected some of the model's {list(named)}, came {names}")
        self.model = model
        self.batches = batches
        self.loss_function = loss
        self.shapes = {name: tuple(named[name].shape) for name in names}
        with torch.inference_mode(False):
            self.point = torch.cat([named[name].detach().flatten() for name in names])
        self.num_samples = sum(len(labels) for _, labels in batches)
        if not self.num_samples:
            raise ValueError("expected at least one sample to measure the loss on, came none")
        self._check_finite()

    @property
    def num_parameters(self) -> int:
        return len(self.point)

    @torch.inference_mode(False)
    @torch.no_grad()
    def loss(self, point: Tensor | None = None) -> float:
        """Mean loss at ``point`` (P,), or where the model is."""
        point = self.point if point is None else point
        with evaluating(self.model):
            return sum(float(self._share(point, batch)) for batch in self.batches)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def hessian_vector_product(self, vector: Tensor) -> Tensor:
        """The Hessian where the model is, times ``vector`` (P,): (P,)."""
        product = torch.zeros_like(self.point)
        with evaluating(self.model):
            for batch in self.batches:
                point, gradient = self._gradient(batch)
                product += _product(point, gradient, vector)
        return product

    @torch.inference_mode(False)
    @torch.enable_grad()
    def curvatures(self, directions: Iterable[Tensor]) -> list[float]:
        """``v.T @ hessian @ v`` of each direction v (P,): cheaper than as many products, since they share gradients.

        Args:
            directions: D vectors. They are iterated once for every batch, so give a list or what can begin anew.

        Returns:
            D numbers.
        """
        rows = []
        with evaluating(self.model):
            for batch in self.batches:
                point, gradient = self._gradient(batch)
                rows.append([float(v @ _product(point, gradient, v)) for v in directions])
        return [sum(column) for column in zip(*rows, strict=True)]

    def unflatten(self, point: Tensor) -> dict[str, Tensor]:
        """A vector (P,) as views, by the names and in the shapes of the parameters."""
        parts = point.split([torch.Size(shape).numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def _gradient(self, batch: LabelledClips) -> tuple[Tensor, Tensor]:
        """A point to differentiate by, and the gradient (P,) there of a batch's share, differentiable."""
        point = self.point.clone().requires_grad_()
        share = self._share(point, batch)
        return point, torch.autograd.grad(share, point, create_graph=True)[0]

    def _share(self, point: Tensor, batch: LabelledClips) -> Tensor:
        """What a batch adds to the mean over all samples."""
        inputs, labels = batch
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        logits = functional_call(self.model, {**self.unflatten(point), **buffers}, (inputs,))
        return self.loss_function(logits, labels) * (len(labels) / self.num_samples)

    def _check_finite(self) -> None:
        loss = self.loss()
        if not abs(loss) < float("inf"):
            raise ValueError(f"expected a finite loss, came {loss}: the parameters or the inputs are broken")


def _product(point: Tensor, gradient: Tensor, vector: Tensor) -> Tensor:
    """Derivative of ``gradient @ vector``; the graph is kept for further vectors."""
    slope = gradient @ vector
    if not slope.requires_grad:  # the loss is linear in all parameters
        return torch.zeros_like(vector)
    return torch.autograd.grad(slope, point, retain_graph=True, materialize_grads=True)[0]
