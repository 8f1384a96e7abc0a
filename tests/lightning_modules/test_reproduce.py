"""`streamkd reproduce`: which commands, in what order, what is left after a stop, and what is found before any runs."""

import fcntl
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import yaml

from lightning_modules.chain import Chain, read_chain
from lightning_modules.cli import main
from lightning_modules.reproduce import _alone, run_chain

ROOT = Path(__file__).parents[2]
COMMANDS = ["prepare a", "fit a", "test a", "fit b", "test b"]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    """Two experiments, the second on the network of the first; nothing is checked of them."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "configs/toy"
    folder.mkdir(parents=True)
    network = {"class_path": "lightning_modules.networks.resnet10", "init_args": {"num_classes": 2, "width": 4}}
    data = {"class_path": "datamodules.compressed_video.CompressedVideoDataModule"}
    data["init_args"] = {"size": 32, "index_cache": "data/toy_index"}
    for name, source in {"a": None, "b": "runs/toy/a/checkpoints/best.ckpt"}.items():
        model = {"init_args": {"stream": "iframe", "network": network, "teacher": source}}
        config = {"run_dir": f"runs/toy/{name}", "seed_everything": 0, "model": model, "data": data}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    (folder / "annotations.yaml").write_text("init_args: {root: data/toy}")
    (folder / "chain.yaml").write_text("a:\nb: {paper: 12.5, source: somebody}\n")
    monkeypatch.setattr("lightning_modules.chain_checks.check_steps", lambda steps: None)
    return Chain("toy", read_chain("toy"))


def test_where_nothing_prepared_is_kept_nothing_is_prepared(toy: Chain) -> None:
    assert first_command(toy) == "prepare"
    assert first_command(replace(toy, options={"data.index_cache": None})) == "fit"
    config = toy.experiments[0].config
    config.write_text(config.read_text().replace("index_cache: data/toy_index", "index_cache: null"))
    assert first_command(toy) == "fit"
    assert first_command(replace(toy, options={"data.reencode_dir": "data/toy_gop12"})) == "prepare"


def first_command(chain: Chain) -> str:
    return chain.steps()[0].command[0]


class Killed(BaseException):
    """In place of a SIGKILL."""


class Runner:
    """Leaves what commands leave; killed at one of them, before or after it has done its work."""

    def __init__(self, kill_at: int = -1, *, after: bool = False) -> None:
        self.kill_at, self.after = kill_at, after
        self.ran: list[str] = []

    def __call__(self, command: Sequence[str]) -> int:
        verb, config = command[0], Path(command[2])
        is_killed = len(self.ran) == self.kill_at
        if is_killed and not self.after:
            raise Killed
        self.ran.append(f"{verb} {config.stem}")
        folder = Path("runs/toy", config.stem)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(config, folder / "config.yaml")
        report = {"seconds": 90.0, "metrics": {"test/top1": 0.25}, "num_videos": 4}
        (folder / f"{verb}.json").write_text(json.dumps(report))
        if is_killed:
            raise Killed
        return 0


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("place", range(len(COMMANDS)))
def test_after_a_kill_it_continues_there(toy: Chain, place: int, after: bool) -> None:
    with pytest.raises(Killed):
        run_chain(toy, Runner(place, after=after))
    again = Runner()
    run_chain(toy, again)
    has_done_it = after and place > 0  # `prepare` itself knows what it has done
    assert again.ran == COMMANDS[place + has_done_it :]
    done = Runner()
    run_chain(toy, done)
    assert not done.ran


def test_it_ends_with_a_table(toy: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    run_chain(toy, Runner())
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    shown = [[cell.strip() for cell in row[1:7]] for row in rows]
    assert shown == [
        ["`toy/a`", "seed 0", "25.0", "", "", ""],
        ["`toy/b`", "seed 0", "25.0", "12.5", "+12.5", "somebody"],
    ]


def test_what_a_changed_file_says_is_asked_for_again(toy: Chain) -> None:
    run_chain(toy, Runner())
    path = Path("configs/toy/b.yaml")
    path.write_text(path.read_text().replace("width: 4", "width: 8"))
    again = Runner()
    run_chain(toy, again)
    assert again.ran == ["fit b", "test b"]


def test_a_test_is_repeated_where_its_network_is_newer(toy: Chain) -> None:
    run_chain(toy, Runner())
    Path("runs/toy/a/fit.json").touch()
    again = Runner()
    run_chain(toy, again)
    assert again.ran == ["test a"]


def test_runs_that_were_there_are_asked_for_once(toy: Chain) -> None:
    """A fit finds itself finished, and leaves its report as it is."""
    fit = ("fit", "--config", "configs/toy/a.yaml")
    Runner()(fit)
    run_chain(toy, lambda command: 0 if command == fit else Runner()(command))
    run_chain(toy, Runner(0))


def test_a_command_that_fails_is_named(toy: Chain) -> None:
    with pytest.raises(ChildProcessError, match=r"exit status 1 of `streamkd prepare --config configs/toy.*`; mend"):
        run_chain(toy, lambda command: 1)
    for status, expected in {130: 130, -15: 143}.items():
        with pytest.raises(SystemExit) as exit_:
            run_chain(toy, lambda command, status=status: status)  # type: ignore[misc]
        assert exit_.value.code == expected


def test_two_do_not_work_on_the_same_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, entered = tmp_path / "runs/.chain/lock", []

    def enter() -> None:
        with _alone(path):
            entered.append(True)

    path.parent.mkdir(parents=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = Thread(target=enter)
        thread.start()
        thread.join(0.3)
        assert not entered
    thread.join()
    assert entered
    assert "waiting for another process" in capsys.readouterr().out


def dry(capsys: pytest.CaptureFixture[str], *args: str) -> list[str]:
    """The commands that a dry run prints."""
    capsys.readouterr()
    main(["reproduce", *args, "--dry_run"])
    return capsys.readouterr().out.splitlines()


def test_a_dry_run_prints_what_is_left_and_runs_nothing(toy: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    b = "--config configs/toy/b.yaml"
    lines = ["streamkd prepare --config configs/toy/a.yaml --max_failures 0.05"]
    lines += ["lightning fit --config configs/toy/a.yaml", "lightning test --config configs/toy/a.yaml"]
    lines += [f"lightning fit {b}", f"lightning test {b}"]
    assert dry(capsys, "toy") == lines
    assert not Path("runs").exists()
    with pytest.raises(Killed):
        run_chain(toy, Runner(4))
    assert dry(capsys, "toy") == lines[4:]


def test_commands_for_a_split_and_a_seed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a user would type; networks come from the experiments before."""
    monkeypatch.chdir(ROOT)
    asked = ["ucf101", "--split", "2", "--seed", "7", "--data", "/my data", "--experiments", "[wise, ip_tsn_resnet152]"]
    prepare, *lines = dry(capsys, *asked, "--options", "{trainer.devices: 2, data.batch_size: 40}")
    run = "runs/ucf101/split2_seed7"
    seed = "--seed_everything 7 --data.seed 7"
    place = "--data.annotations.root '/my data' --data.annotations.split 2"
    given = f"{seed} {place} --trainer.devices 2 --data.batch_size 40"
    names = "mv residual iframe pkd wise flow p_stream iframe_resnet152 ip_tsn_resnet152"
    found = [line.partition(f"--run_dir {run}/")[2].partition(" ")[0] for line in lines]
    assert [name for name in found if name] == [name for name in names.split() for _ in range(2)]
    data = f"{place} --data.batch_size 40"
    assert prepare == f"streamkd prepare --config configs/ucf101/mv.yaml {data} --max_failures 0.05"
    assert lines.index(f"streamkd flow --config configs/ucf101/flow.yaml {data}") == 10
    assert lines[0] == f"lightning fit --config configs/ucf101/mv.yaml --run_dir {run}/mv {given}"
    networks = " ".join(f"--model.networks.{s} {run}/{s}/checkpoints/best.ckpt" for s in ("mv", "residual", "iframe"))
    assert lines[7] == f"lightning test --config configs/ucf101/pkd.yaml --run_dir {run}/pkd {networks} {given}"
    exits = f"--model.exits {run}/pkd/checkpoints/best.ckpt"
    assert lines[8] == f"lightning fit --config configs/ucf101/wise.yaml --run_dir {run}/wise {exits} {given}"
    assert f"--model.networks.iframe {run}/iframe_resnet152/checkpoints/best.ckpt" in lines[-1]
    assert f"--model.networks.mv+residual {run}/p_stream/checkpoints/best.ckpt" in lines[-1]
    assert "--model.network lightning_modules.networks.resnet152 --model.network.weights https" in lines[-4]


def test_a_rehearsal_has_fewer_videos_and_epochs_and_runs_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    pkd = dry(capsys, "ucf101", "--fraction", "0.01", "--experiments", "[pkd]")[-1]
    assert "--run_dir runs/fraction_0.01/ucf101/split1/pkd" in pkd
    assert "--data.annotations.fraction 0.01" in pkd
    assert "--model.stages.lengths '[1, 1, 2]' --model.lr_scheduler.milestones '[2, 2, 2]'" in pkd
    assert "--trainer.max_epochs 4 --trainer.check_val_every_n_epoch 1" in pkd
    reskd = dry(capsys, "activitynet", "--fraction", "0.1")[-1]
    assert "--model.lr_scheduler.T_max 20 --trainer.max_epochs 20 --trainer.check_val_every_n_epoch 1" in reskd
    assert "--run_dir runs/fraction_0.1/activitynet/reskd --model.teacher runs/fraction_0.1/activitynet/" in reskd


@pytest.fixture
def miniature(ucf101_lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`ucf101_lists`, beside the configurations."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return ucf101_lists


def failing(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(["reproduce", *args])
    assert exit_.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "Warning" not in line]
    return line


ERRORS: dict[str, tuple[list[str], str]] = {
    "data set": (["ucf102"], r"chain\.yaml: no such chain .*: activitynet, demo, fcvid, .*, ucf101"),
    "experiment": (["ucf101", "--experiments", "[wize]"], r"--experiments: expected some of mv, .*, got wize"),
    "no splits": (["ssv2", "--split", "2"], "--split 2: ssv2 has one split alone; leave the option out"),
    "fraction": (["ucf101", "--fraction", "0"], "--fraction: expected a number above 0, up to 1, got 0"),
    "split": (["ucf101", "--split", "4"], r"data\.annotations\.split: .*1, 2, 3.*4"),
    "path": (["ucf101", "--data", "data/ucf"], r"data/ucf: no such folder; expected that of the data set \(--data"),
    "sizes": (["ucf101"], r"official split 'train': expected 9537 videos, got 36; .*check_sizes"),
    "list": (
        ["ucf101", "--split", "2", "--options", "{data.annotations.check_sizes: false}"],
        r"expected trainlist02\.txt, found none .*; expected the layout that configs/README\.md has",
    ),
    "classes": (
        ["ucf101", "--options", "{data.annotations.check_sizes: false}"],
        r"mv\.yaml: its network tells 101 classes apart, data/ucf101 has 2; correct `model\.network\.num_classes`",
    ),
    "option": (["ucf101", "--options", "{data.batchsize: 2}"], "batchsize"),
    "login": (["ucf101", "--options", "{logger: wandb}"], r"logger: wandb: .*WANDB_API_KEY or `wandb login`"),
}


@pytest.mark.usefixtures("miniature", "fresh_wandb", "no_video_opens")
@pytest.mark.parametrize("case", ERRORS)
def test_what_is_wrong_is_said_in_a_line_before_anything_runs(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    args, message = ERRORS[case]
    line = failing(capsys, *args, *(["--experiments", "[mv]"] if args[0] == "ucf101" and case != "experiment" else []))
    assert re.search(message, line), line
    assert not Path("runs").exists()


def test_a_missing_video_is_said_before_anything_runs(miniature: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (miniature.parent / "Left/v_Left_g01_c01.avi").unlink()
    options = "{data.annotations.check_sizes: false, model.network.num_classes: 2}"
    line = failing(capsys, "ucf101", "--experiments", "[mv]", "--options", options)
    assert "split 'test'" in line
    assert "1 of 14 listed videos are missing: v_Left_g01_c01" in line


def test_an_option_that_a_later_experiment_lacks_is_found_first(
    miniature: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "{data.annotations.check_sizes: false, model.network.num_classes: 2}"
    assert "network" in failing(capsys, "ucf101", "--experiments", "[fusion]", "--options", options)
    assert not Path("runs").exists()
