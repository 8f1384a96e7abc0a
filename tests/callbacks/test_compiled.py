"""Compiled stages: the same answers, gradients, weights and keys, whichever way networks are run."""

import copy
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from callbacks.compiled import Compiled
from callbacks.flatness import Flatness
from lightning_modules.checkpoints import TrainedNetwork
from lightning_modules.frozen_teacher import FrozenTeacher
from lightning_modules.networks import resnet10
from lightning_modules.networks.early_exit import EarlyExitNetwork

CLIP = torch.randn(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Student(pl.LightningModule):
    """A network whose exits are asked one by one, one as a whole, and a teacher, of which the last map is asked."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.exits = EarlyExitNetwork(resnet10(5, width=4))
        self.network = resnet10(5, width=4)
        self.teacher = FrozenTeacher(TrainedNetwork(resnet10(5, width=4).eval(), {}, "iframe", [], False))

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return self.exits(clip).sum(dim=1) + self.network(clip) + self.teacher(clip).clip_logits


def compiled(module: Student) -> tuple[Student, CompileCounter]:
    """A copy with compiled stages, and what counts the graphs that are compiled for it."""
    torch.compiler.reset()
    counter = CompileCounter()
    module = copy.deepcopy(module)
    Compiled(backend=counter).on_train_start(pl.Trainer(logger=False), module)
    return module, counter


def test_answers_gradients_and_keys_are_those_of_plain_networks() -> None:
    plain = Student()
    ours, counter = compiled(plain)
    assert list(ours.state_dict()) == list(plain.state_dict())
    answers = [student(CLIP) for student in (ours, plain)]
    torch.testing.assert_close(*answers, rtol=0, atol=0)
    for answer in answers:
        answer.square().sum().backward()
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=0)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert counter.frame_count == 18  # five stages and a head of three networks


@pytest.mark.slow
def test_a_compiled_fit_leaves_what_a_plain_one_does(
    tiny_config: Path, tmp_path: Path, streamkd: Callable[..., int | None]
) -> None:
    """Flatness behind the last step differentiates twice, which compiled code does not allow."""
    flatness = f"[{{class_path: {Flatness.__module__}.Flatness, init_args: {{when: fit, num_samples: 2}}}}]"
    command = ("fit", "--config", tiny_config, f"--trainer.callbacks={flatness}", "--trainer.max_epochs", 1)
    more = ("--trainer.callbacks+=callbacks.compiled.Compiled", "--trainer.callbacks.backend", "aot_eager")
    for name, options in {"plain": (), "compiled": more}.items():
        assert streamkd(*command, "--run_dir", tmp_path / name, *options) == 0
    ours, theirs = (torch.load(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("compiled", "plain"))
    torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=0, atol=1e-6)
    assert (tmp_path / "compiled" / "flatness.json").is_file()
