"""Cross-entropy of students against a teacher's softened probabilities, for all exits at once.

Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), section 2. Soufleri et al. (arXiv 2407.02713)
take temperature 1 and no labels, the defaults here.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def soft_target_cross_entropy(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``- sum_c softmax(teacher / T)_c log_softmax(student / T)_c``, for each exit the mean over the batch.

    Args:
        student: (B, K, num_classes) logits at K exits.
        teacher: (B, num_classes) logits, or (B, K, num_classes), one for each exit; no gradient reaches it.
        temperature: T; the higher, the more the teacher's small probabilities count.

    Returns:
        (K,) loss of each exit, in nats.

    Raises:
        ValueError: shapes that do not fit together.
    """
    probabilities = (_per_exit(teacher.detach(), student) / temperature).softmax(dim=-1)
    return _cross_entropy(probabilities, student / temperature)


def hard_label_cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy against labels, for each exit the mean over the batch.

    Args:
        student: (B, K, num_classes) logits at K exits.
        labels: (B,) int64, or (B, num_classes) probabilities.

    Returns:
        (K,) loss of each exit, in nats.
    """
    if not labels.is_floating_point():
        labels = F.one_hot(labels, student.shape[-1]).to(student.dtype)
    return _cross_entropy(labels.unsqueeze(1), student)


class SoftTargetLoss(nn.Module):
    """What exits learn from a teacher, and from labels beside it.

    Args:
        temperature: that both logits are divided by.
        temperature_squared: multiply the soft term by the temperature's square, so that its gradient does not shrink
            with it; the paper's code does not.
        hard_label_weight: weight of the cross-entropy against the labels beside the soft term; 0 leaves it out.

    Raises:
        ValueError: a temperature that is not positive, or a negative weight.
    """

    def __init__(
        self, temperature: float = 1.0, *, temperature_squared: bool = False, hard_label_weight: float = 0.0
    ) -> None:
        super().__init__()
        if temperature <= 0 or hard_label_weight < 0:
            raise ValueError(
                f"expected `temperature` > 0 and `hard_label_weight` >= 0, came {temperature} and {hard_label_weight}"
            )
        self.temperature = temperature
        self.temperature_squared = temperature_squared
        self.hard_label_weight = hard_label_weight

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The terms of the loss, whose sum over terms and exits is to be minimised.

        Args:
            student: (B, K, num_classes) logits at K exits.
            teacher: (B, num_classes) logits, or (B, K, num_classes), one for each exit.
            labels: (B,) int64, or (B, num_classes) probabilities.

        Returns:
            (K,) by name, weights applied: ``soft_target`` and, if it has a weight, ``hard_label``.
        """
        soft = soft_target_cross_entropy(student, teacher, temperature=self.temperature)
        terms = {"soft_target": soft * self.temperature**2 if self.temperature_squared else soft}
        if self.hard_label_weight:
            terms["hard_label"] = self.hard_label_weight * hard_label_cross_entropy(student, labels)
        return terms


def _cross_entropy(probabilities: Tensor, logits: Tensor) -> Tensor:
    """(B, K or 1, num_classes) and (B, K, num_classes) -> (K,), the mean over the batch."""
    return -(probabilities * logits.log_softmax(dim=-1)).sum(dim=-1).mean(dim=0)


def _per_exit(teacher: Tensor, student: Tensor) -> Tensor:
    """A teacher's logits for each exit, or (B, 1, num_classes) for all."""
    if student.ndim == 3 and teacher.shape in (student.shape, student[:, 0].shape):
        return teacher.unsqueeze(1) if teacher.ndim == 2 else teacher
    raise ValueError(
        "expected logits (B, K, num_classes) of students and (B, num_classes) or (B, K, num_classes) of the teacher, "
        f"came {tuple(student.shape)} and {tuple(teacher.shape)}"
    )
