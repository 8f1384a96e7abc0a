import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from callbacks import ProgressiveStages
from callbacks.progressive_stages import first_epochs


class Student(LightningModule):
    """Keeps the teacher, the stage's log and the learning rate of every step."""

    teachers = ("mv", "residual", "iframe", "own")
    teacher: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[int, str | None, float]] = []
        self.restarts: list[int] = []

    def restart_schedule(self) -> None:
        self.restarts.append(self.current_epoch)

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, self.teacher))
        return self.layer(batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(2, 1)))


def fit(stages: ProgressiveStages, max_epochs: int | None = 6, **options: object) -> Student:
    student = Student()
    trainer = Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[stages],
        **options,
    )
    trainer.fit(student)
    assert trainer.progress_bar_metrics["stage"] == len(stages.teachers)
    return student


@pytest.mark.parametrize(
    ("lengths", "max_epochs", "expected"),
    [
        ([50, 50, 200], 300, [0, 50, 100]),  # the paper's, by its code
        ([1 / 6, 1 / 6, 2 / 3], 300, [0, 50, 100]),
        ([1 / 6, 1 / 6, 2 / 3], 12, [0, 2, 4]),
        ([3, 3, 34], 40, [0, 3, 6]),  # TEAM-Net's
        ([0.5, 0.5], 3, [0, 2]),
        ([1.0], 7, [0]),
    ],
)
def test_stages_are_laid_out_over_the_run(lengths, max_epochs, expected):
    assert first_epochs(lengths, max_epochs) == expected


@pytest.mark.parametrize(
    ("lengths", "max_epochs", "message"),
    [
        ([2, 3], 6, r"add up to `trainer.max_epochs: 6`.*came \[2, 3\], in all 5"),
        ([0.5, 0.4], 6, r"add up to 1, came \[0.5, 0.4\]"),
        ([1 / 3, 1 / 3, 1 / 3], 2, r"at least one epoch for each of 3 stages, `trainer.max_epochs` is 2"),
        ([1.0], None, r"set `trainer.max_epochs`, which is None"),
        ([1.0], -1, r"set `trainer.max_epochs`, which is -1"),
    ],
)
def test_stages_that_do_not_add_up_are_refused(lengths, max_epochs, message):
    with pytest.raises(ValueError, match=message):
        first_epochs(lengths, max_epochs)


@pytest.mark.parametrize(
    ("teachers", "lengths"), [([], None), (["mv"], [1, 1]), (["mv", "own"], [1.0]), (["mv", "own"], [2, 0])]
)
def test_every_teacher_has_a_positive_length(teachers, lengths):
    with pytest.raises(ValueError, match="positive length for each"):
        ProgressiveStages(teachers, lengths)


def test_one_teacher_after_the_other_is_in_charge(capsys):
    student = fit(ProgressiveStages(["iframe", "mv", "own"], [1, 2, 3]))
    order = ["iframe", "mv", "mv", "own", "own", "own"]
    assert student.seen == [(epoch, order[epoch]) for epoch in range(6) for _ in range(2)]
    assert student.restarts == []
    assert capsys.readouterr().out.splitlines() == [
        "stage 1 of 3: iframe teaches in epochs 1 to 1",
        "stage 2 of 3: mv teaches in epochs 2 to 3",
        "stage 3 of 3: own teaches in epochs 4 to 6",
    ]


def test_the_schedule_restarts_at_switches_if_asked_for():
    assert fit(ProgressiveStages(["mv", "residual", "iframe"], restart_lr=True)).restarts == [2, 4]


def test_an_unknown_teacher_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match=r"`stages.teachers`: expected some of \['mv', .*'own'\], came \['flow'\]"):
        fit(ProgressiveStages(["mv", "flow"]))


def test_a_checkpoint_names_the_stage_and_refuses_others():
    stages = ProgressiveStages(["mv", "iframe"], [2, 4])
    fit(stages)
    state = stages.state_dict()
    assert state == {"teachers": ["mv", "iframe"], "first_epochs": [0, 2], "stage": 1, "teacher": "iframe"}
    other = ProgressiveStages(["mv", "iframe"], [3, 3])
    other.load_state_dict(state)  # in a test there is no run to lay stages out over
    fit(other)
    with pytest.raises(ValueError, match=r"first_epochs': \[0, 2\]}, `stages` gives .*first_epochs': \[0, 3\]"):
        other.load_state_dict(state)
    reversed_order = ProgressiveStages(["iframe", "mv"], [2, 4])
    fit(reversed_order)
    with pytest.raises(ValueError, match=r"teachers': \['mv', 'iframe'\].*gives .*\['iframe', 'mv'\]"):
        reversed_order.load_state_dict(state)
