"""A test of lazy clips against a full one, over real files, through the Trainer: exits, logits, metrics, failures."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from callbacks.efficiency import Efficiency
from callbacks.test_report import TestReport
from datamodules.annotations import ClassFolders
from datamodules.bitstream import build_index
from datamodules.compressed_video import CompressedVideoDataModule
from lightning_modules.ensemble import combine, exit_at, take
from lightning_modules.exit_networks import STATE, ExitNetworks
from lightning_modules.lazy_inference import LazyPredictions
from lightning_modules.networks import resnet10
from lightning_modules.predictions import Predictions
from lightning_modules.recognition import RecognitionModule
from lightning_modules.weighted_inference import WeightedInferenceModule

TEAM = "iframe+mv+residual"
STREAMS = {"three networks": ["mv", "residual", "iframe"], "TEAM-Net": [TEAM]}
NETWORKS = "lightning_modules.networks"


class Recorder(Callback):
    """Keeps what steps return."""

    def __init__(self) -> None:
        self.outputs: list[Predictions] = []

    def on_test_batch_end(self, trainer, pl_module, outputs, *args: Any) -> None:  # type: ignore[no-untyped-def]
        self.outputs.append(outputs)

    on_predict_batch_end = on_test_batch_end


@pytest.fixture(scope="module")
def videos(tiny_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five test videos and two bad ones: garbage, and a damaged P-frame."""
    root = tmp_path_factory.mktemp("lazy") / "videos"
    shutil.copytree(tiny_videos, root)
    (root / "test/left/garbage.mp4").write_bytes(b"no video" * 100)
    path = root / "test/right/damaged.mp4"
    shutil.copy(next((root / "test/right").glob("*.mp4")), path)
    index = build_index(path)
    start, size = int(index.offsets[2]), int(index.sizes[2])
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(bytes(size))
    return root


def data_of(videos: Path, streams: list[str], **options: Any) -> CompressedVideoDataModule:
    defaults: dict[str, Any] = {"num_segments": 2, "size": 24, "batch_size": 3, "test_crops": 3, "fit_split": "val"}
    return CompressedVideoDataModule(ClassFolders(str(videos)), streams, **defaults | options)


def trainer_for(tmp_path: Path, *callbacks: Callback) -> Trainer:
    quiet: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", callbacks=[*callbacks], limit_val_batches=0, **quiet
    )


@pytest.fixture(scope="module")
def exits(
    tmp_path_factory: pytest.TempPathFactory, network_config: Callable[..., dict[str, Any]]
) -> dict[tuple[str, ...], str]:
    """Checkpoints as ProgressiveDistillationModule leaves them, of exits that differ, by sorted streams."""
    paths = {}
    for family, streams in STREAMS.items():
        torch.manual_seed(0)
        configs = {}
        for stream in streams:
            backbone = network_config(stream, num_classes=2, width=16 if stream == TEAM else 4, input_norm=True)
            network = {"backbone": backbone, "exits": "linear"}
            configs[stream] = {"class_path": f"{NETWORKS}.EarlyExitNetwork", "init_args": network}
        built = ExitNetworks.from_state({"configs": configs, "classes": ["left", "right"]})
        state = {f"networks.{name}": value for name, value in built.networks.state_dict().items()}
        path = tmp_path_factory.mktemp("exits") / f"{family}.ckpt"
        torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": state, STATE: built.state()}, path)
        paths[tuple(sorted(streams))] = str(path)
    return paths


@pytest.fixture(
    params=[["mv", "residual", "iframe"], ["iframe", "mv", "residual"], [TEAM]],
    ids=["mv first", "iframe first", "TEAM-Net"],
)
def order(request: pytest.FixtureRequest) -> list[str]:
    """Of the streams."""
    return request.param


@pytest.fixture
def module(
    order: list[str], exits: dict[tuple[str, ...], str], videos: Path, tmp_path: Path
) -> WeightedInferenceModule:
    """Fitted on the validation split."""
    module = WeightedInferenceModule(exits=exits[tuple(sorted(order))], order=order, l1=0.01, l1_from=2)
    trainer_for(tmp_path).fit(module, data_of(videos, order))
    return module.eval()


@torch.no_grad()
def evaluate_fully(module: WeightedInferenceModule, data: CompressedVideoDataModule) -> tuple[list[str], torch.Tensor]:
    """Paths and outputs of all exits, (K, N, num_classes)."""
    data.setup("test")
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]
    outputs = [combine(module.exit_logits(batch), module.weights) for batch in batches]
    return [path for batch in batches for path in batch.paths], torch.cat(outputs, dim=1)


def threshold_between(outputs: torch.Tensor) -> float:
    """One at which videos leave at as many exits as can be."""
    levels = outputs.softmax(dim=-1).amax(dim=-1).flatten().sort().values
    middles = [float(a + b) / 2 for a, b in pairwise(levels) if b - a > 1e-3]
    return max(middles, key=lambda level: len(exit_at(outputs, level).unique()))


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (3, 1)])
def test_lazy_and_full_tests_agree(
    module: WeightedInferenceModule,
    order: list[str],
    videos: Path,
    tmp_path: Path,
    batch_size: int,
    num_workers: int,
) -> None:
    paths, outputs = evaluate_fully(module, data_of(videos, order))
    module.threshold = threshold_between(outputs)
    places = exit_at(outputs, module.threshold)
    assert len(places.unique()) >= 2
    full = trainer_for(tmp_path, TestReport(tmp_path / "full"))
    full.test(module, data_of(videos, order), verbose=False)

    recorder, folder = Recorder(), tmp_path / "lazy"
    lazy = trainer_for(tmp_path, recorder, TestReport(folder), Efficiency(folder))
    data = data_of(videos, order, lazy=True, eval_batch_size=batch_size, num_workers=num_workers)
    lazy.test(module, data, verbose=False)

    came = {
        path: (place, logits)
        for output in recorder.outputs
        if isinstance(output, LazyPredictions)
        for path, place, logits in zip(output.paths, output.places.tolist(), output.logits, strict=True)
    }
    for path, place, logits in zip(paths, places.tolist(), take(outputs, places), strict=True):
        assert came[path][0] == place
        torch.testing.assert_close(came[path][1], logits, rtol=1e-4, atol=1e-5)
    damaged, garbage = str(videos / "test/right/damaged.mp4"), str(videos / "test/left/garbage.mp4")
    failed = {failure.path for failure in data.failures}
    assert failed | came.keys() == {*paths, damaged, garbage}
    assert garbage in failed
    assert (damaged in failed) == (damaged not in came), "who left before the damage was reached was read right"
    if order[0] != "iframe":
        assert failed == {damaged, garbage}
        for name in ("test/loss", "test/top1", *(f"test/exited/{exit}" for exit in module.networks.exit_names)):
            torch.testing.assert_close(lazy.callback_metrics[name], full.callback_metrics[name], rtol=1e-4, atol=1e-5)
        reports = [json.loads((tmp_path / kind / "test.json").read_text()) for kind in ("full", "lazy")]
        for key in ("confusion", "failures", "num_videos"):
            assert reports[0][key] == reports[1][key]
    assert not [name for name in lazy.callback_metrics if "top1/" in name], "exits behind are not known"
    rows = json.loads((folder / "exits.json").read_text())
    assert rows[-1]["videos"] == len(came)


def test_lazy_predictions_name_exits(
    module: WeightedInferenceModule, order: list[str], videos: Path, tmp_path: Path
) -> None:
    module.threshold, recorder = 0.0, Recorder()
    folders: Any = {"predict_paths": [str(videos / "test")], "reencode_dir": str(tmp_path / "stand-ins")}
    data = data_of(videos, order, lazy=True, **folders)
    trainer_for(tmp_path, recorder).predict(module, data, return_predictions=False)
    exits = [name for output in recorder.outputs for name in output.exits]
    assert len(exits) in (5, 6)
    assert set(exits) == {module.networks.exit_names[0]}


def test_other_modules_refuse_lazy_clips(videos: Path, tmp_path: Path) -> None:
    module = RecognitionModule(resnet10(2, 2, width=4), "mv")
    with pytest.raises(ValueError, match=r"set `data.init_args.lazy: false`"):
        trainer_for(tmp_path).test(module, data_of(videos, ["mv"], lazy=True), verbose=False)
