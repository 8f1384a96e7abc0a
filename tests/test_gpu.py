"""What only a GPU shows; `make test-gpu` runs these, and other tests once more there, see `TRAINER` in conftest.py."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.csv_log import read_rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch finds")
Streamkd = Callable[..., int | None]
Files = Callable[..., list[str]]
# In double precision, where TF32 and the order of sums are far below what is compared; dropout draws otherwise there.
DOUBLE = ("--trainer.precision", "64-true", "--model.network.init_args.dropout", "0")


@pytest.fixture
def fit(streamkd: Streamkd, tiny_config: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Fit in a folder of its own; returns its last checkpoint."""

    def run(name: str, *options: object) -> dict[str, Any]:
        assert streamkd("fit", "--config", tiny_config, *options, "--run_dir", tmp_path / name) == 0
        return torch.load(tmp_path / name / "checkpoints/last.ckpt", map_location="cpu")

    return run


@pytest.mark.parametrize(
    "options",
    [
        ["one_gpu"],
        ["one_gpu", "channels_last"],
        ["one_gpu", "compile"],
        ["ddp", "sync_batch_norm"],
    ],
    ids=" ".join,
)
def test_a_fit_is_that_of_a_cpu(
    options: Sequence[str], fit: Callable[..., dict[str, Any]], trainer_files: Files
) -> None:
    """Also by NCCL, of one rank."""
    gpu = ("--trainer.accelerator", "gpu", "--trainer.devices", "1")
    ours, theirs = (
        fit("gpu", *trainer_files(*options), *DOUBLE, *gpu),
        fit("cpu", *DOUBLE, "--trainer.accelerator", "cpu"),
    )
    assert ours["global_step"] == theirs["global_step"] == 10
    for key, value in theirs["state_dict"].items():
        torch.testing.assert_close(
            ours["state_dict"][key], value, rtol=1e-5, atol=1e-8, msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.parametrize("precision", ["16_mixed", "bf16_mixed"])
def test_half_precision_keeps_float32_weights_near_those_of_float32(
    precision: str, fit: Callable[..., dict[str, Any]], trainer_files: Files, tmp_path: Path
) -> None:
    """The loss of the first step is that of float32 up to rounding."""
    ways = {"half": trainer_files("one_gpu", "channels_last", precision), "full": trainer_files("one_gpu")}
    losses = {}
    for name, options in ways.items():
        options += ["--model.network.init_args.dropout", "0", "--data.batch_size", "10", "--trainer.max_epochs", "1"]
        weights = fit(name, *options)["state_dict"].values()
        assert {value.dtype for value in weights if value.is_floating_point()} == {torch.float32}
        (row,) = [row for row in read_rows(tmp_path / name / "metrics.csv") if row["val/num_videos"]]
        losses[name] = float(row["train/loss"])
    assert losses["half"] == pytest.approx(losses["full"], rel=0.02)
    assert losses["half"] != losses["full"]


def test_scales_are_fitted_and_lazy_evaluation_is_a_full_one(
    fit: Callable[..., dict[str, Any]],
    streamkd: Streamkd,
    trainer_files: Files,
    write_fusion_config: Callable[..., Path],
    tmp_path: Path,
) -> None:
    networks = {}
    for stream in ("residual", "iframe"):
        fit(stream, *trainer_files("one_gpu"), "--model.stream", stream, "--data.streams", f"[{stream}]")
        networks[stream] = str(tmp_path / stream / "checkpoints/best.ckpt")
    command = ("--config", write_fusion_config(networks), "--run_dir", tmp_path / "fusion")
    double = (*trainer_files("one_gpu"), "--trainer.precision", "64-true")
    assert streamkd("fit", *command, *double, "--trainer.max_epochs", 1) == 0
    found = []
    for reading in (("true", "0"), ("true", "1"), ("false", "0")):
        options = ("--data.lazy", reading[0], "--data.num_workers", reading[1])
        assert streamkd("test", *command, *double, "--model.threshold", "0.65", *options) == 0
        found.append(json.loads((tmp_path / "fusion/test.json").read_text())["metrics"])
    lazy, by_worker, full = found
    assert lazy == by_worker == pytest.approx({key: full[key] for key in lazy}, abs=1e-6)
