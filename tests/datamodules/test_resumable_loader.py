"""With a real Trainer: whatever the checkpoint, the resumed run sees what the undisturbed one would have seen."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.epoch_sampler import EpochSampler
from datamodules.resumable_loader import ResumableDataLoader

NUM_SAMPLES, BATCH, EPOCHS = 10, 2, 3
STEPS = NUM_SAMPLES // BATCH

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Keys(Dataset[Tensor]):
    """Each sample is its own key; remembers which were read in this process."""

    def __init__(self) -> None:
        self.read: list[tuple[int, int]] = []

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        self.read.append(key)
        return torch.tensor(key)

    def __len__(self) -> int:
        return NUM_SAMPLES


class Recorder(LightningModule):
    """Remembers what it was trained on, per step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[int, list[list[int]]]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen.append((batch_idx, batch.tolist()))
        return self.layer(batch[:, 1:].float()).mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def make_loader(num_workers: int = 0) -> ResumableDataLoader:
    dataset = Keys()
    return ResumableDataLoader(
        dataset,
        batch_size=BATCH,
        sampler=EpochSampler(len(dataset), shuffle=True),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),
    )


def fit(root: Path, *, resume: Path | None = None, validate: bool, num_workers: int = 0, **checkpoint: int):
    """Returns what was seen, and the loader."""
    model, loader = Recorder(), make_loader(num_workers)
    trainer = Trainer(
        default_root_dir=root,
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[ModelCheckpoint(root, "{step}", save_top_k=-1, **checkpoint)] if checkpoint else [],
        enable_checkpointing=bool(checkpoint),
    )
    val = DataLoader(torch.arange(2.0)) if validate else None
    trainer.fit(model, loader, val, ckpt_path=resume)
    return model.seen, loader


def checkpoints(root: Path) -> dict[int, Path]:
    return {int(path.stem.split("=")[1]): path for path in root.glob("*.ckpt")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory):
    return fit(tmp_path_factory.mktemp("plain"), validate=False)[0]


def test_an_undisturbed_run_sees_every_sample_once_per_epoch(undisturbed):
    for epoch in range(EPOCHS):
        steps = undisturbed[epoch * STEPS : (epoch + 1) * STEPS]
        assert [batch_idx for batch_idx, _ in steps] == list(range(STEPS))
        seen = sorted(key for _, batch in steps for key in batch)
        assert seen == [[epoch, index] for index in range(NUM_SAMPLES)]


@pytest.mark.parametrize("validate", [False, True])
def test_resume_from_every_step(tmp_path, undisturbed, validate):
    fit(tmp_path, validate=validate, every_n_train_steps=1)
    found = checkpoints(tmp_path)
    assert sorted(found) == list(range(1, STEPS * EPOCHS + 1))
    for step in range(1, STEPS * EPOCHS):
        seen, loader = fit(tmp_path, resume=found[step], validate=validate)
        assert seen == undisturbed[step:], step
        expected = [tuple(key) for _, batch in undisturbed[step:] for key in batch]
        assert loader.dataset.read == expected, "skipped samples are not read"


@pytest.mark.parametrize("validate", [False, True])
def test_resume_from_the_end_of_an_epoch(tmp_path, undisturbed, validate):
    fit(tmp_path, validate=validate, every_n_epochs=1, save_on_train_epoch_end=True)
    found = checkpoints(tmp_path)
    assert sorted(found) == [STEPS * (epoch + 1) for epoch in range(EPOCHS)]
    for step in sorted(found)[:-1]:
        assert fit(tmp_path, resume=found[step], validate=validate)[0] == undisturbed[step:]


def test_resume_after_validation_within_an_epoch(tmp_path, undisturbed):
    fit(tmp_path, validate=True, every_n_epochs=1, save_on_train_epoch_end=False)
    found = checkpoints(tmp_path)
    for step in sorted(found)[:-1]:
        assert fit(tmp_path, resume=found[step], validate=True)[0] == undisturbed[step:]


def test_resume_with_workers(tmp_path, undisturbed):
    seen, _ = fit(tmp_path, validate=False, num_workers=1, every_n_train_steps=1)
    assert seen == undisturbed
    found = checkpoints(tmp_path)
    for step in (2, STEPS, STEPS + 3):
        assert fit(tmp_path, resume=found[step], validate=False, num_workers=1)[0] == undisturbed[step:]


def test_a_position_serves_its_own_epoch_alone():
    loader = make_loader()
    loader.load_state_dict({"epoch": 1, "batches": 3})
    assert loader.state_dict() == {"epoch": 1, "batches": 3}
    loader.sampler.set_epoch(2)
    assert len(list(loader)) == STEPS
    loader.sampler.set_epoch(1)
    assert len(list(loader)) == STEPS, "the position is spent, not kept"
    loader.load_state_dict({"epoch": 1, "batches": 3})
    assert len(list(loader)) == STEPS - 3
    assert loader.state_dict() == {"epoch": 1, "batches": STEPS}
    assert len(loader) == STEPS


def test_iterating_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    for num_workers in (0, 1):
        list(make_loader(num_workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_abandoned_iteration_does_not_disturb_the_next():
    loader = make_loader(num_workers=1)
    next(iter(loader))
    loader.sampler.set_epoch(1)
    assert sorted(key for batch in loader for key in batch.tolist()) == [[1, i] for i in range(NUM_SAMPLES)]
