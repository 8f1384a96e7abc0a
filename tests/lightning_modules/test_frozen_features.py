"""A fit from stored features equals one that reads the videos and runs the networks, and does neither.

It does so bit for bit where batches are of the same videos as those that features are computed in: in order. Else a
matrix product may round a video's row otherwise in another batch.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor
from torch.utils._pytree import tree_flatten

from callbacks import ProgressiveStages
from callbacks.channels_last import ChannelsLast
from callbacks.frozen_features import FrozenFeatures
from callbacks.spread_videos import read_spread
from callbacks.step_seeds import StepSeeds
from datamodules.annotations import ClassFolders
from datamodules.compressed_video import CompressedVideoDataModule
from datamodules.video_source import VideoSource
from lightning_modules.networks import EarlyExitNetwork, resnet10
from lightning_modules.progressive_distillation import ProgressiveDistillationModule
from lightning_modules.recognition import RecognitionModule

NUM_VIDEOS = {"train": 10, "val": 6}


@pytest.fixture
def build(
    tmp_path: Path, save_network: Callable[..., str], family: Any
) -> Callable[..., ProgressiveDistillationModule]:
    """A module before its run, the same every time."""
    sources = {stream: save_network(tmp_path, stream) for stream in family.streams}

    def build(**options: Any) -> ProgressiveDistillationModule:
        stages = ProgressiveStages(["mv", "iframe"])
        return ProgressiveDistillationModule(stages=stages, **{"networks": sources, "exits": family.layout} | options)

    return build


@pytest.fixture
def make_data(tiny_videos: Path, family: Any) -> Callable[..., CompressedVideoDataModule]:
    def make(root: Path = tiny_videos, **options: Any) -> CompressedVideoDataModule:
        options = {"num_segments": 2, "size": 32, "batch_size": 4, "augment": False, "shuffle": True} | options
        return CompressedVideoDataModule(ClassFolders(str(root)), family.streams, **options)

    return make


class Trace(Callback):
    """What a fit came to at every step and validation."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append((batch.paths, batch.labels.tolist(), [str(f) for f in batch.failures], outputs["loss"].item()))

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.seen.append({name: value.item() for name, value in trainer.callback_metrics.items()})


def fit(
    module: ProgressiveDistillationModule,
    data: LightningDataModule,
    run_dir: Path,
    *callbacks: Callback,
    **options: Any,
) -> dict[str, Any]:
    """What a run of two epochs came to, checkpoint and all."""
    torch.manual_seed(0)  # classifiers are made where a run starts
    trace = Trace()
    trainer = Trainer(
        default_root_dir=run_dir,
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[StepSeeds(), trace, *callbacks],
        **options,
    )
    trainer.fit(module, data)
    trainer.save_checkpoint(run_dir / "last.ckpt")
    return {"trace": trace.seen, "checkpoint": torch.load(run_dir / "last.ckpt", weights_only=False)}


def assert_same(ours: Any, theirs: Any, **tolerance: float) -> None:
    """Bit for bit unless there is a tolerance, whatever is nested in what."""
    (came, its_structure), (expected, structure) = tree_flatten(ours), tree_flatten(theirs)
    assert its_structure == structure
    for ours, theirs in zip(came, expected, strict=True):
        if isinstance(theirs, Tensor | float):
            torch.testing.assert_close(ours, theirs, **({"rtol": 0, "atol": 0} | tolerance))
        else:
            assert ours == theirs


class TestFit:
    @pytest.mark.parametrize(
        ("data_options", "callbacks", "trainer_options"),
        [
            ({"eval_batch_size": 5}, [], {}),
            ({"num_workers": 1}, [ChannelsLast()], {"precision": "bf16-mixed"}),
        ],
        ids=["as it is", "channels last, bfloat16"],
    )
    def test_in_order_equals_one_from_videos(
        self, build, make_data, tmp_path, data_options, callbacks, trainer_options
    ):
        data = partial(make_data, shuffle=False, **data_options)
        expected = fit(build(), data(), tmp_path, *callbacks, **trainer_options)
        cached = FrozenFeatures(str(tmp_path / "features"))
        came = fit(build(), data(), tmp_path, *callbacks, cached, **trainer_options)
        assert_same(came, expected)
        assert len(list((tmp_path / "features").glob("*.bin"))) == 2, "of train and val"

    def test_shuffled_equals_one_from_videos(self, build, make_data, tmp_path):
        expected = fit(build(), make_data(), tmp_path)
        came = fit(build(), make_data(), tmp_path, FrozenFeatures(str(tmp_path / "features")))
        assert expected["trace"][0][0] != expected["trace"][3][0], "another order in the second epoch"
        assert_same(came, expected, rtol=1e-4, atol=1e-5)

    def test_reads_no_video_and_runs_no_network(self, build, make_data, tmp_path, monkeypatch, family, capsys):
        opened, ran = [], []
        open_video, stage = VideoSource.open, EarlyExitNetwork.forward_stage
        monkeypatch.setattr(VideoSource, "open", lambda self, path: opened.append(path) or open_video(self, path))
        monkeypatch.setattr(
            EarlyExitNetwork, "forward_stage", lambda self, n, m: ran.append((n, len(m))) or stage(self, n, m)
        )
        cached = FrozenFeatures(str(tmp_path / "features"))
        first = fit(build(), make_data(), tmp_path, cached)
        assert len(opened) == sum(NUM_VIDEOS.values()) == len(set(opened)), "each once in two epochs"
        blank = 2 * len(family.streams)  # a clip of zeros, for train and val, says how large features are
        assert sum(count for name, count in ran if name == "stem") == len(opened) * len(family.streams) + blank
        assert "features of 10 + 6 videos: " in capsys.readouterr().out
        opened.clear(), ran.clear()
        second = fit(build(), make_data(), tmp_path, cached)
        assert not opened
        assert sum(count for name, count in ran if name == "stem") == blank
        assert second["trace"] == first["trace"]

    def test_others_read_videos(self, build, make_data, tmp_path):
        """Callbacks that look at samples after the last step, and `validate` with the same data."""
        seen = []

        class Look(Callback):
            def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
                seen.extend(read_spread(trainer, "val", 3, batch_size=3, reader="Look"))

        module, data = build(), make_data()
        metrics = fit(module, data, tmp_path, Look(), FrozenFeatures(str(tmp_path / "features")))["trace"][-1]
        assert set(seen[0].streams) == set(data.streams)
        (validated,) = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False).validate(
            module, data, verbose=False
        )
        assert validated == {name: metrics[name] for name in validated}

    def test_unreadable_videos_are_left_out_and_counted(self, build, make_data, tmp_path, tiny_videos):
        torn = {"train/left/train_left_1.mp4", "val/right/val_right_0.mp4"}
        root = tmp_path / "videos"
        for path in tiny_videos.rglob("*.mp4"):
            name = path.relative_to(tiny_videos)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(path.read_bytes()[: 100 if str(name) in torn else None])
        by_videos, by_features = (make_data(root, max_bad_videos=1, shuffle=False) for _ in range(2))
        expected = fit(build(), by_videos, tmp_path)
        came = fit(build(), by_features, tmp_path, FrozenFeatures(str(tmp_path / "features")))
        assert_same(came, expected)
        assert by_features.failures == by_videos.failures
        assert {str(Path(failure.path).relative_to(root)) for failure in by_features.failures} == torn


one_family = pytest.mark.parametrize("family", ["three networks"], indirect=True)


@one_family
class TestKey:
    @pytest.fixture
    def files(self, build, make_data, tmp_path) -> Callable[..., set[str]]:
        """Names of all that is kept after a fit."""

        def files(*callbacks: Callback, trainer: Any = None, module: Any = None, **data: Any) -> set[str]:
            cached = FrozenFeatures(str(tmp_path / "features"))
            options = {"limit_val_batches": 0, "limit_train_batches": 1, **(trainer or {})}
            fit(module or build(), make_data(**data), tmp_path, cached, *callbacks, **options)
            return {path.name for path in (tmp_path / "features").glob("*.bin")}

        return files

    def test_all_that_numbers_depend_on_is_in_it(self, files, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        changes: list[dict[str, Any]] = [
            {"num_segments": 1},
            {"crop_fraction": 0.5},
            {"reference": "previous"},
            {"on_corrupt": "skip"},
            {"reencode_dir": "stand_ins"},
            {"batch_size": 5},
            {"trainer": {"precision": "bf16-mixed"}},
        ]
        known = files()
        for change in changes:
            found = files(**change)
            assert len(found - known) == 1, change
            known = found

    def test_weights_and_depths_are_in_it(self, files, build, save_network, tmp_path, family):
        before = files()
        stream = family.streams[0]
        saved = torch.load(tmp_path / f"{stream}.ckpt")
        name = next(name for name in saved["state_dict"] if name.endswith("running_mean"))
        saved["state_dict"][name] += 1e-3
        torch.save(saved, tmp_path / f"{stream}.ckpt")
        other_weights = files()
        assert len(other_weights - before) == 1
        depth = family.exits[1]
        layout = {s: {depth: {"class_path": "lightning_modules.networks.LinearClassifier"}} for s in family.streams}
        assert len(files(module=build(exits=layout)) - other_weights) == 1

    def test_a_changed_video_is_in_it(self, files, tiny_videos, tmp_path):
        before = files()
        video = next(iter((tiny_videos / "train").rglob("*.mp4")))
        stamp = video.stat()
        try:
            os.utime(video, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 10**9))
            assert len(files() - before) == 1
        finally:
            os.utime(video, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    def test_what_changes_nothing_is_not_in_it(self, files, build):
        before = files()
        assert files(shuffle=False, num_workers=1, module=build(optimizer=torch.optim.SGD), flip=0.0) == before

    def test_a_torn_file_is_made_anew(self, files, tmp_path):
        (name,) = files()
        path = tmp_path / "features" / name
        whole = path.read_bytes()
        for size in (len(whole) - 1, 0):
            path.write_bytes(whole[:size])
            assert files() == {name}
            assert path.read_bytes() == whole
        path.with_suffix(".json").write_text("{")
        files()
        assert path.read_bytes() == whole


@one_family
class TestRefusals:
    """Before any work."""

    def refused(self, tmp_path: Path, module: Any, data: Any, message: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            fit(module, data, tmp_path, FrozenFeatures(str(tmp_path / "features"), **options))
        assert not (tmp_path / "features").exists()

    def test_augmentation(self, build, make_data, tmp_path):
        self.refused(tmp_path, build(), make_data(augment=True), "set `--data.augment false`")

    def test_more_than_may_be_kept(self, build, make_data, tmp_path, monkeypatch):
        monkeypatch.setattr(VideoSource, "open", None)
        message = r"features of 10 \+ 6 videos: .* GB in .*, more than `max_gigabytes: 1e-06`; raise it"
        self.refused(tmp_path, build(), make_data(), message, max_gigabytes=1e-6)

    def test_another_module(self, make_data, tmp_path):
        module = RecognitionModule(resnet10(2, 2, width=4), "mv")
        self.refused(tmp_path, module, make_data(), "came RecognitionModule and CompressedVideoDataModule; take it out")
