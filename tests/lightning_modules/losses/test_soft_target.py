"""The distillation loss against sums written out, its closed-form gradient, and torch's own cross-entropy."""

from math import exp, log

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses import SoftTargetLoss, hard_label_cross_entropy, soft_target_cross_entropy


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    """Students (6, 3, 5) and a teacher (6, 5), float64."""
    torch.manual_seed(0)
    return torch.randn(6, 3, 5, dtype=torch.float64, requires_grad=True), 3 * torch.randn(6, 5, dtype=torch.float64)


def softmax(values: list[float], temperature: float) -> list[float]:
    powers = [exp(value / temperature) for value in values]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equals_the_sums_written_out(logits: tuple[Tensor, Tensor], temperature: float) -> None:
    student, teacher = logits
    expected = [
        -sum(
            p * log(q)
            for b in range(6)
            for p, q in zip(
                softmax(teacher[b].tolist(), temperature), softmax(student[b, k].tolist(), temperature), strict=True
            )
        )
        / 6
        for k in range(3)
    ]
    came = soft_target_cross_entropy(student, teacher, temperature=temperature)
    torch.testing.assert_close(came, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("squared", [False, True])
def test_gradient_is_the_difference_of_probabilities(logits: tuple[Tensor, Tensor], squared: bool) -> None:
    """Hinton et al., equation 2: (q - p) / T, times T^2 where the term is so scaled."""
    student, teacher = logits
    terms = SoftTargetLoss(4.0, temperature_squared=squared)(student, teacher, torch.zeros(6, dtype=torch.int64))
    assert list(terms) == ["soft_target"]
    (gradient,) = torch.autograd.grad(terms["soft_target"].sum(), student)
    difference = (student / 4).softmax(-1) - (teacher / 4).softmax(-1)[:, None]
    torch.testing.assert_close(gradient, difference / 6 * (4 if squared else 1 / 4))


def test_a_teacher_for_each_exit(logits: tuple[Tensor, Tensor]) -> None:
    student, _ = logits
    teachers = torch.randn_like(student)
    alone = [soft_target_cross_entropy(student[:, k : k + 1], teachers[:, k]) for k in range(3)]
    torch.testing.assert_close(soft_target_cross_entropy(student, teachers), torch.cat(alone))


def test_no_gradient_reaches_the_teacher(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    teacher.requires_grad_()
    soft_target_cross_entropy(student, teacher).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_is_least_where_the_student_is_the_teacher_and_then_its_entropy(logits: tuple[Tensor, Tensor]) -> None:
    _, teacher = logits
    same = soft_target_cross_entropy(teacher[:, None] + 7, teacher)
    entropy = torch.distributions.Categorical(logits=teacher).entropy().mean()
    torch.testing.assert_close(same, entropy[None])


def test_certain_students_and_teachers_stay_finite() -> None:
    student = torch.tensor([[[1e4, -1e4]]], requires_grad=True)
    loss = soft_target_cross_entropy(student, torch.tensor([[-1e4, 1e4]]))
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.tensor([2e4]))
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("soft", [False, True])
def test_hard_labels_equal_torch_exit_by_exit(logits: tuple[Tensor, Tensor], soft: bool) -> None:
    student, teacher = logits
    labels = teacher.softmax(-1) if soft else teacher.argmax(-1)
    expected = [F.cross_entropy(student[:, k], labels) for k in range(3)]
    torch.testing.assert_close(hard_label_cross_entropy(student, labels), torch.stack(expected))
    terms = SoftTargetLoss(hard_label_weight=0.3)(student, teacher, labels)
    torch.testing.assert_close(terms["hard_label"], 0.3 * torch.stack(expected))


@pytest.mark.parametrize("shape", [(6, 4), (6, 2, 5), (5,)])
def test_teachers_of_other_shapes_are_refused(logits: tuple[Tensor, Tensor], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected logits \(B, K, num_classes\).*came \(6, 3, 5\) and"):
        soft_target_cross_entropy(logits[0], torch.zeros(shape))


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"hard_label_weight": -1.0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="`temperature` > 0 and `hard_label_weight` >= 0"):
        SoftTargetLoss(**options)
