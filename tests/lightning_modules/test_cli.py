"""The command line: verbs on a run directory, overrides, errors of one line, exit statuses."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from lightning_modules.cli import COMMANDS, VERBS, main

Streamkd = Callable[..., int | None]


@pytest.fixture(scope="module")
def fitted(
    write_tiny_config: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory, streamkd: Streamkd
) -> Path:
    """The configuration of a run that has finished one epoch."""
    config = write_tiny_config(tmp_path_factory.mktemp("fitted"))
    assert streamkd("fit", "--config", config, "--trainer.max_epochs", 1) == 0
    return config


def failing(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """Run in this process; the one line on stderr of a command that must fail with status 1."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main([str(arg) for arg in args])
    assert exit_.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "Warning" not in line]
    return line


def test_fit_leaves_the_files_of_a_run(fitted: Path) -> None:
    run = fitted.parent / "run"
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert names >= {"config.yaml", "metrics.csv", "fit.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt"}
    assert not [name for name in names if name.endswith(".part") or "version_" in name]
    report = json.loads((run / "fit.json").read_text())
    assert (report["epochs"], report["steps"], report["monitor"]) == (1, 5, "val/top1")
    assert report["best_score"] == report["metrics"]["val/top1"]
    assert report["seconds"] > 0


def test_a_finished_run_says_so_and_is_left_alone(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fitted.parent / "run"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    main(["fit", "--config", str(fitted), "--trainer.max_epochs", "1"])
    assert "is finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before


def test_saved_configuration_is_the_same_experiment(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config", str(fitted.parent / "run" / "config.yaml")])
    assert "is finished" in capsys.readouterr().out


def test_another_experiment_in_the_same_directory_is_refused(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = failing(capsys, "fit", "--config", fitted, "--seed_everything", 3, "--trainer.max_epochs", 1)
    assert line.startswith("error: run_dir")
    assert "seed_everything: 0 -> 3" in line
    assert "--overwrite true" in line


def test_test_and_validate_take_the_best_checkpoint_and_write_reports(fitted: Path, streamkd: Streamkd) -> None:
    run = fitted.parent / "run"
    for verb, videos in {"test": 5, "validate": 6}.items():
        assert streamkd(verb, "--config", fitted) == 0
        report = json.loads((run / f"{verb}.json").read_text())
        assert report["checkpoint"].endswith("best.ckpt")
        assert report["num_videos"] == videos
        assert report["classes"] == ["left", "right"]
        assert sum(map(sum, report["confusion"])) == videos
        split = {"test": "test", "validate": "val"}[verb]
        right = sum(report["confusion"][i][i] for i in range(2))
        assert report["metrics"][f"{split}/top1"] == pytest.approx(right / videos)
    assert streamkd("test", "--config", fitted, "--ckpt_path", "last") == 0
    assert json.loads((run / "test.json").read_text())["checkpoint"].endswith("last.ckpt")


def test_predict_lists_every_file(fitted: Path, tiny_videos: Path, tmp_path: Path, streamkd: Streamkd) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not a video")
    folder = tiny_videos / "test" / "left"
    paths = f"[{folder}, {bad}]"
    assert streamkd("predict", "--config", fitted, "--data.init_args.predict_paths", paths) == 0
    lines = [json.loads(line) for line in (fitted.parent / "run" / "predictions.jsonl").read_text().splitlines()]
    assert {line["path"] for line in lines} == {str(path) for path in [*folder.iterdir(), bad]}
    assert "error" in lines[-1]
    for line in lines[:-1]:
        assert sorted(top["class"] for top in line["top"]) == ["left", "right"]
        assert sum(top["probability"] for top in line["top"]) == pytest.approx(1, abs=1e-5)
        assert line["seconds"] > 0


def test_options_override_the_file_and_print_config_shows_it(
    tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", "--config", str(tiny_config), "--trainer.max_epochs", "7", "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["trainer"]["max_epochs"] == 7
    assert shown["model"]["init_args"]["network"]["init_args"]["width"] == 4
    assert shown["seed_everything"] == 0


def test_help_lists_verbs_and_plain_commands(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    text = "".join(capsys.readouterr().out.split())  # lines break at hyphens of names
    assert all(name in text for name in [*VERBS, *COMMANDS])


@pytest.mark.parametrize("name", COMMANDS)
def test_plain_commands_have_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([name, "--help"])
    assert f"streamkd {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "expected a command, one of fit, validate"),
        (["fitt"], "got fitt"),
        (["fit", "--config", "none.yaml"], "none.yaml"),
        (["fit", "--config", "CONFIG", "--trainer.max_epochs", "many"], "trainer.max_epochs"),
        (["fit", "--config", "CONFIG", "--trainer.epochs", "3"], "trainer.epochs"),
        (["fit", "--config", "CONFIG", "--data.init_args.annotations.init_args.root", "nowhere"], "nowhere"),
        (["fit", "--config", "CONFIG", "--model.init_args.network.init_args.num_classes", "3"], "3"),
        (["fit", "--config", "CONFIG", "--logger", "paper"], "tensorboard"),
        (["test", "--config", "CONFIG"], "run fit with --run_dir"),
        (["predict", "--config", "CONFIG", "--ckpt_path", "no.ckpt"], "no.ckpt"),
        (["report", "--runs", "nowhere"], "nowhere"),
        (["predict", "--config", "CONFIG", "--ckpt_path", "CONFIG"], "config.yaml: expected a whole Lightning"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else None,
)
def test_expected_errors_are_one_line(
    tiny_config: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    line = failing(capsys, *[str(tiny_config) if option == "CONFIG" else option for option in options])
    assert line.startswith("error: ")
    assert said in line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["--data.init_args.streams", "[depth]"],
            "streams: expected one of iframe, rgb, mv, residual, flow, got 'depth'",
        ),
        (
            ["--model.init_args.parameter_rules", "[{pattern: '('}]"],
            "parameter_rules: '(' is no regular expression (missing ), unterminated subpattern at position 0); "
            "write .* for any characters",
        ),
        (
            ["--model.init_args.network.init_args.weights", "CONFIG"],
            "CONFIG: expected weights saved by PyTorch, came a file that is damaged, of another kind or holds code; "
            "fetch or train it again, or choose another",
        ),
        (
            ["--model.init_args.network.init_args.num_classes", "two"],
            "model.network.num_classes: Expected a <class 'int'>. Got value: two",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_errors_within_the_configuration_say_the_reason_alone(
    tiny_config: Path, capsys: pytest.CaptureFixture[str], options: list[str], line: str
) -> None:
    options = [option.replace("CONFIG", str(tiny_config)) for option in options]
    assert failing(capsys, "fit", "--config", tiny_config, *options) == "error: " + line.replace(
        "CONFIG", str(tiny_config)
    )


def test_a_checkpoint_of_another_model_is_refused(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = fitted.parent / "run" / "checkpoints" / "best.ckpt"
    other = yaml.safe_load(fitted.read_text())
    other["run_dir"] = str(tmp_path / "run")
    other["model"] = {
        "class_path": "lightning_modules.weighted_inference.WeightedInferenceModule",
        "init_args": {"networks": {"residual": str(checkpoint)}},
    }
    config = tmp_path / "fusion.yaml"
    config.write_text(yaml.safe_dump(other))
    for verb in ("test", "fit"):
        line = failing(capsys, verb, "--config", config, "--ckpt_path", checkpoint)
        assert line.startswith(
            f"error: {checkpoint}: expected a checkpoint of model lightning_modules.weighted_inference"
        )
        assert "came one of lightning_modules.recognition.RecognitionModule; choose another --ckpt_path" in line
    line = failing(capsys, "test", "--config", fitted, "--model.init_args.stream", "mv", "--ckpt_path", checkpoint)
    assert "expected a checkpoint of stream mv, as the configuration has, came one of residual" in line
    assert not (tmp_path / "run" / "test.json").exists()


def test_the_configuration_counts_not_what_the_checkpoint_was_trained_with(
    fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = fitted.parent / "run" / "checkpoints" / "best.ckpt"
    options = ["--model.init_args.network.init_args.width", 8, "--ckpt_path", checkpoint]
    assert "size mismatch" in failing(capsys, "test", "--config", fitted, *options)


def test_damaged_checkpoints_are_named(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (fitted.parent / "run" / "checkpoints" / "last.ckpt").read_bytes()
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    options = ("--config", fitted, "--run_dir", run)
    for verb, name in {"fit": "last.ckpt", "test": "best.ckpt"}.items():
        path = run / "checkpoints" / name
        for content in (whole[:-100], b"", b"notes"):
            path.write_bytes(content)
            line = failing(capsys, verb, *options)
            assert line.startswith(f"error: {path}: expected a whole Lightning checkpoint (--ckpt_path), came a file")
        torch.save({"weights": torch.ones(1)}, path)
        line = failing(capsys, verb, *options)
        assert line.startswith(f"error: {path}: expected a whole Lightning checkpoint with")
        assert "came a dict with keys ['weights']; train again, or choose another with --ckpt_path" in line


def test_traceback_is_shown_on_demand(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMKD_TRACEBACK", "1")
    with pytest.raises(SystemExit):
        main(["fitt"])
    assert "Traceback" in capsys.readouterr().err


def test_unexpected_errors_keep_their_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_modules.cli._run", lambda args: {}["missing"])
    with pytest.raises(SystemExit) as exit_:
        main(["fit"])
    assert exit_.value.code == 1
    assert "KeyError: 'missing'" in capsys.readouterr().err


def test_weights_of_another_network_are_explained(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fitted.parent / "run"
    line = failing(capsys, "test", "--config", fitted, "--model.init_args.network.init_args.width", 8, "--run_dir", run)
    assert "size mismatch" in line


SIGNALLED = """
import os, signal, sys
from lightning.pytorch import Callback

class Signal(Callback):
    def __init__(self, number: int, environment: dict[str, str]):
        self.number = number
        os.environ.update(environment)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 1:
            os.kill(os.getpid(), self.number)
"""


# An agent of a sweep takes a positive status for a failure, and gives up after five.
@pytest.mark.parametrize(
    ("number", "status", "environment"),
    [
        (signal.SIGINT, 130, {}),
        (signal.SIGTERM, 143, {}),
        (signal.SIGTERM, -signal.SIGTERM, {"WANDB_SWEEP_ID": "sweep"}),
    ],
)
def test_interrupted_and_terminated_runs_are_told_from_done_ones(
    tiny_config: Path,
    tmp_path: Path,
    streamkd: Streamkd,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    status: int,
    environment: dict[str, str],
) -> None:
    (tmp_path / "signalled.py").write_text(SIGNALLED)
    monkeypatch.syspath_prepend(tmp_path)
    config = yaml.safe_load(tiny_config.read_text())
    arguments = {"number": int(number), "environment": environment}
    config["trainer"]["callbacks"] = [{"class_path": "signalled.Signal", "init_args": arguments}]
    tiny_config.write_text(yaml.safe_dump(config))
    assert streamkd("fit", "--config", tiny_config) == status
    assert not (tmp_path / "run" / "fit.json").exists()
