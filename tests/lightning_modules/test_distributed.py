"""Two processes on one machine, by the command line: what they compute is what one computes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from callbacks.csv_log import read_rows
from lightning_modules.cli import main

STREAMKD = Path(sys.executable).with_name("streamkd")
TWO_RANKS = ("--trainer.strategy", "ddp", "--trainer.devices", "2")


def run(*args: object, timeout: int = 300) -> str:
    """Run the installed command as a user would; it must succeed. Returns what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [str(STREAMKD), *map(str, args)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


def weights(run_dir: Path, name: str = "last") -> dict[str, torch.Tensor]:
    checkpoint: dict[str, Any] = torch.load(run_dir / "checkpoints" / f"{name}.ckpt")
    return checkpoint["state_dict"]


BF16 = ("--trainer.precision", "bf16-mixed")


def test_two_ranks_fit_in_bf16_and_validate_each_video_once(tiny_config: Path, tmp_path: Path) -> None:
    run("fit", "--config", tiny_config, *TWO_RANKS, *BF16, "--trainer.max_epochs", 1)
    (row,) = [row for row in read_rows(tmp_path / "run" / "metrics.csv") if row["val/num_videos"]]
    assert float(row["val/num_videos"]) == 6
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 2  # five videos a rank


@pytest.mark.slow
@pytest.mark.parametrize(("per_class", "ranks"), [((2, 3), 2), ((1, 1), 3)], ids=["uneven", "a rank without"])
def test_fusion_fits_and_tests_on_ranks_that_share_videos_unevenly(
    tiny_config: Path,
    write_fusion_config: Callable[..., Path],
    tiny_videos: Path,
    tmp_path: Path,
    per_class: tuple[int, int],
    ranks: int,
) -> None:
    """Scales, metrics and trade-off are those of one rank; batches of two, and a checkpoint after every step."""
    networks = {}
    for stream in ("residual", "iframe"):
        options = ("--model.init_args.stream", stream, "--data.init_args.streams", f"[{stream}]")
        run("fit", "--config", tiny_config, "--trainer.max_epochs", 1, "--run_dir", tmp_path / stream, *options)
        networks[stream] = str(tmp_path / stream / "checkpoints" / "best.ckpt")
    root = few_videos(tiny_videos, tmp_path / "videos", per_class)
    config = write_fusion_config(networks, l1=0.01, l1_from=2)
    few = ("--data.annotations.root", root, "--checkpoint_every_n_steps", 1)
    results, trade_offs = [], []
    trade_off = ("--trainer.callbacks+=callbacks.trade_off.TradeOff", "--trainer.callbacks.timed_videos=0")
    for name, options in {"one": (), "more": ("--trainer.strategy", "ddp", "--trainer.devices", ranks)}.items():
        command = ("--config", config, *few, "--run_dir", tmp_path / name, *options)
        run("fit", *command, "--trainer.max_epochs", 1, timeout=60)
        run("test", *command, *trade_off, timeout=60)
        trade_offs.append(json.loads((tmp_path / name / "trade_off.json").read_text()))
        results.append(json.loads((tmp_path / name / "test.json").read_text())["metrics"])
    torch.testing.assert_close(weights(tmp_path / "more")["scales"], weights(tmp_path / "one")["scales"])
    assert results[1] == pytest.approx(results[0], abs=1e-6)
    assert trade_offs[1] == trade_offs[0]


def few_videos(source: Path, target: Path, per_class: tuple[int, int]) -> Path:
    """Links to the first few videos of either class, of every split."""
    for split in ("train", "val", "test"):
        for label, count in zip(("left", "right"), per_class, strict=True):
            folder = target / split / label
            folder.mkdir(parents=True)
            for video in sorted((source / split / label).iterdir())[:count]:
                (folder / video.name).symlink_to(video)
    return target


@pytest.mark.slow
def test_two_ranks_compute_features_in_shares(
    tiny_config: Path, tmp_path: Path, save_network: Callable[..., str]
) -> None:
    """A fit from them equals one from videos bit for bit, and a second one finds them."""
    config = yaml.safe_load(tiny_config.read_text())
    config["model"] = {
        "class_path": "lightning_modules.progressive_distillation.ProgressiveDistillationModule",
        "init_args": {
            "networks": {"residual": save_network(tmp_path, "residual")},
            "stages": {"class_path": "callbacks.ProgressiveStages", "init_args": {"teachers": ["own", "labels"]}},
        },
    }
    config["data"]["init_args"] |= {"augment": False, "size": 32}
    path = tmp_path / "pkd.yaml"
    path.write_text(yaml.safe_dump(config))
    store = ("--trainer.callbacks+=callbacks.frozen_features.FrozenFeatures", "--trainer.callbacks.folder", "store")
    printed = []
    for name, options in {"videos": (), "features": store, "again": store}.items():
        command = ("fit", "--config", path, "--run_dir", tmp_path / name, *TWO_RANKS)
        printed.append(run(*command, *(str(tmp_path / o) if o == "store" else o for o in options)))
    assert ["features: 100 % of 10 videos" in text for text in printed] == [False, True, False]
    for name in ("features", "again"):
        torch.testing.assert_close(weights(tmp_path / name), weights(tmp_path / "videos"), rtol=0, atol=0)
        assert (tmp_path / name / "metrics.csv").read_text() == (tmp_path / "videos" / "metrics.csv").read_text()


@pytest.mark.slow
def test_two_ranks_resume_where_they_were(tiny_config: Path, tmp_path: Path) -> None:
    """Extended from one epoch to two, a run equals one of two epochs: sums of both ranks are in the checkpoint."""
    command = ("fit", "--config", tiny_config, *TWO_RANKS)
    run(*command, "--trainer.max_epochs", 1)
    assert "resuming from" in run(*command)
    run(*command, "--run_dir", tmp_path / "undisturbed")
    torch.testing.assert_close(weights(tmp_path / "run"), weights(tmp_path / "undisturbed"), rtol=0, atol=0)
    texts = [(tmp_path / name / "metrics.csv").read_text() for name in ("run", "undisturbed")]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_one_rank_and_two_test_and_validate_alike(tiny_config: Path, tmp_path: Path) -> None:
    """Five test videos: two ranks share them three to two."""
    run("fit", "--config", tiny_config)
    reports: dict[str, list[dict[str, Any]]] = {"test": [], "validate": []}
    for verb, ranks in ((verb, ranks) for verb in reports for ranks in ((), TWO_RANKS)):
        run(verb, "--config", tiny_config, *ranks)
        reports[verb].append(json.loads((tmp_path / "run" / f"{verb}.json").read_text()))
    for one, two in reports.values():
        assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-6)
        assert two["num_videos"] == one["num_videos"]
        assert two["confusion"] == one["confusion"]


@pytest.mark.slow
def test_one_rank_and_two_train_alike_at_equal_global_batch(tiny_config: Path, tmp_path: Path) -> None:
    """Ten steps without dropout and with BatchNorm in eval: two videos on one rank, one on each of two."""
    alike = ("--model.init_args.network.init_args.dropout", 0, "--model.init_args.freeze_batch_norm", "true")
    for name, ranks, batch_size in (("one", (), 2), ("two", TWO_RANKS, 1)):
        options = ("--run_dir", tmp_path / name, "--data.init_args.batch_size", batch_size)
        run("fit", "--config", tiny_config, *alike, *ranks, *options)
    assert torch.load(tmp_path / "two" / "checkpoints" / "last.ckpt")["global_step"] == 10
    torch.testing.assert_close(weights(tmp_path / "two"), weights(tmp_path / "one"), rtol=0, atol=1e-5)


def distillation_config(tiny_config: Path, networks: dict[str, str]) -> Path:
    """Exits without BatchNorm on networks of both streams, an epoch by either teacher."""
    config = yaml.safe_load(tiny_config.read_text())
    stages = {"class_path": "callbacks.ProgressiveStages", "init_args": {"teachers": list(networks)}}
    config["model"] = {
        "class_path": "lightning_modules.progressive_distillation.ProgressiveDistillationModule",
        "init_args": {"networks": networks, "exits": "linear", "stages": stages},
    }
    config["data"]["init_args"]["streams"] = list(networks)
    tiny_config.write_text(yaml.safe_dump(config))
    return tiny_config


@pytest.mark.slow
def test_one_rank_and_two_distil_alike_at_equal_global_batch(
    tiny_config: Path, tmp_path: Path, save_network: Callable[..., str]
) -> None:
    networks = {stream: save_network(tmp_path, stream) for stream in ("residual", "iframe")}
    config = distillation_config(tiny_config, networks)
    for name, ranks, batch_size in (("one", (), 2), ("two", TWO_RANKS, 1)):
        options = ("--run_dir", tmp_path / name, "--data.init_args.batch_size", batch_size)
        run("fit", "--config", config, *ranks, *options)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert not torch.equal(one["networks.networks.iframe.classifiers.layer1.head.fc.bias"], torch.zeros(2))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_one_rank_and_two_learn_alike_from_a_teacher(
    tiny_config: Path, tmp_path: Path, save_network: Callable[..., str]
) -> None:
    """At equal global batch, with the student's BatchNorm in eval."""
    config = yaml.safe_load(tiny_config.read_text())
    config["model"]["class_path"] = "lightning_modules.cross_resolution.CrossResolutionModule"
    matching = {"class_path": "lightning_modules.losses.FeatureMatching", "init_args": {"weight": 1.0}}
    teacher = save_network(tmp_path, "iframe")
    config["model"]["init_args"] |= {"stream": "iframe", "teacher": teacher, "matching": matching}
    config["data"]["init_args"] |= {"streams": ["iframe"], "low_resolution": {"size": 16}}
    tiny_config.write_text(yaml.safe_dump(config))
    alike = ("--model.init_args.network.init_args.dropout", 0, "--model.init_args.freeze_batch_norm", "true")
    # From rounding that SGD keeps small; Adam would turn the signs of the smallest gradients into steps.
    sgd = ("--model.init_args.optimizer", '{"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}')
    for name, ranks, batch_size in (("one", (), 2), ("two", TWO_RANKS, 1)):
        options = ("--run_dir", tmp_path / name, "--data.init_args.batch_size", batch_size)
        run("fit", "--config", tiny_config, *alike, *sgd, *ranks, *options)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(value.isfinite().all() for value in one.values())
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)


def test_a_missing_teacher_is_named_before_other_ranks_start(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = distillation_config(tiny_config, {"residual": str(tmp_path / "gone.ckpt")})
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(config), *TWO_RANKS])
    assert "gone.ckpt; train the network first, or correct `model.init_args.networks`" in capsys.readouterr().err


@pytest.mark.slow
def test_predictions_of_two_ranks_are_one_list(tiny_config: Path, tiny_videos: Path, tmp_path: Path) -> None:
    run("fit", "--config", tiny_config, "--trainer.max_epochs", 1)
    paths = f"[{tiny_videos / 'test'}]"
    predictions = tmp_path / "run" / "predictions.jsonl"
    written = []
    for ranks in ((), TWO_RANKS):
        run("predict", "--config", tiny_config, *ranks, "--data.init_args.predict_paths", paths)
        written.append([json.loads(line) for line in predictions.read_text().splitlines()])
    one, two = written
    assert [line["path"] for line in two] == [line["path"] for line in one]
    assert len(one) == 5
    for ours, theirs in zip(two, one, strict=True):
        first, second = ours["top"][0], theirs["top"][0]
        assert first["class"] == second["class"]
        assert first["probability"] == pytest.approx(second["probability"], abs=1e-5)
