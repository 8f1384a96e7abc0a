"""Whole chains of `make ucf101` and `make activitynet` on miniatures of the data sets, in their official layouts."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import yaml

from lightning_modules.chain import Chain, Experiment, read_chain
from lightning_modules.reproduce import run_chain

ROOT = Path(__file__).parents[1]
Streamkd = Callable[..., int | None]
Run = Callable[[Sequence[str]], int | None]
TINY = {
    "data.size": 32,
    "data.batch_size": 4,
    "data.num_workers": 0,
    "data.test_segments": 2,
    "data.annotations.check_sizes": False,
}
TINY_NETWORK = {"width": 4, "num_classes": 2, "weights": None, "sha256": None}


@pytest.fixture
def configs(tmp_path: Path, trainer_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configurations in a user's working directory, with tiny networks and short runs."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    chains = {chain.parent for chain in (tmp_path / "configs").glob("*/chain.yaml")}
    for folder in chains - {tmp_path / "configs/demo"}:  # which is small
        for path in folder.glob("*.yaml"):
            config = yaml.safe_load(path.read_text())
            make_small(config)
            if "trainer" in config:
                config["trainer"] |= trainer_options
            path.write_text(yaml.safe_dump(config, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "configs"


def make_small(config: dict[str, Any]) -> None:
    """A file of a chain: an experiment, its data, or neither."""
    model, trainer = config.get("model", {}).get("init_args", {}), config.get("trainer", {})
    network = model.get("network", {"init_args": {}})["init_args"]
    for part in network.values():
        if isinstance(part, dict):  # of TEAM-Net
            part["init_args"] |= TINY_NETWORK | {"shift_div": 2}
    if "num_classes" in network:
        network |= TINY_NETWORK
    if "low_resolution" in config.get("init_args", {}):
        config["init_args"]["low_resolution"]["size"] = 16
    if "stages" in model:
        model["stages"]["init_args"]["lengths"] = [1] * len(model["stages"]["init_args"]["teachers"])
    if trainer:
        trainer["max_epochs"] = len(model["stages"]["init_args"]["teachers"]) if "stages" in model else 2
        trainer["check_val_every_n_epoch"] = 1


@pytest.fixture
def ucf101(configs: Path, tiny_videos: Path, tmp_path: Path) -> Path:
    """A UCF-101 of two classes, one clip a group."""
    root = tmp_path / "videos of mine"
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("1 Left\n2 Right\n")
    for label in ("left", "right"):
        list_clips(lists / "trainlist02.txt", label, 8, [*tiny_videos.glob(f"[tv][ra]*/{label}/*")])
        list_clips(lists / "testlist02.txt", label, 1, [*tiny_videos.glob(f"test/{label}/*")])
    return root


def list_clips(path: Path, label: str, first_group: int, videos: list[Path]) -> None:
    """Add videos of a class to an official list, and to the disk under the names of UCF-101."""
    name = label.title()
    number = f" {['left', 'right'].index(label) + 1}" if path.name.startswith("train") else ""
    with path.open("a") as file:
        for group, video in enumerate(sorted(videos), start=first_group):
            clip = path.parents[1] / f"UCF-101/{name}/v_{name}_g{group:02d}_c01"
            clip.parent.mkdir(parents=True, exist_ok=True)
            clip.with_suffix(".mp4").symlink_to(video)
            file.write(f"{name}/{clip.name}.avi{number}\n")


@pytest.fixture
def activitynet(configs: Path, tiny_videos: Path, tmp_path: Path) -> Path:
    """An ActivityNet of two labels; some videos have both."""
    root = tmp_path / "data/activitynet"
    root.mkdir(parents=True)
    database = {}
    for video in sorted(tiny_videos.glob("*/*/*.mp4")):
        subset = {"train": "training", "val": "training", "test": "validation"}[video.parts[-3]]
        labels = {video.parts[-2], *(["left"] if video.stem.endswith("0") else [])}
        database[video.stem] = {"subset": subset, "annotations": [{"label": label} for label in labels]}
        (root / f"v_{video.name}").symlink_to(video)
    (root / "activity_net.v1-3.min.json").write_text(json.dumps({"database": database}))
    return root


def metrics_of(run: Path) -> dict[str, float]:
    return json.loads((run / "test.json").read_text())["metrics"]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def results(printed: str) -> dict[str, dict[str, str]]:
    """The table that a chain ends with, by experiment."""
    header, _, *rows = [cells(line) for line in printed.splitlines() if line.startswith("|")]
    return {row[0].strip("`"): dict(zip(header, row, strict=True)) for row in rows}


@pytest.fixture
def run(streamkd: Streamkd) -> Run:
    """Runs a command of a chain, in processes that are quick to start."""

    def start(command: Sequence[str]) -> int | None:
        return streamkd(*command, *(["--num_workers", "0"] if command[0] in ("flow", "prepare") else []))

    return start


def test_the_chain_of_ucf101(ucf101: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """PKD, WISE and IP TSN, with all that they are made of."""
    pytest.importorskip("cv2")
    chain = Chain("ucf101", read_chain("ucf101"), data=str(ucf101), split=2, options=TINY)
    chain = chain.only(["fusion", "wise", "ip_tsn"])
    run_chain(chain, run)
    table, runs = results(capsys.readouterr().out), Path("runs/ucf101/split2")
    names = ["mv", "residual", "iframe", "fusion", "pkd", "wise", "flow", "p_stream", "ip_tsn"]
    assert list(table) == [f"ucf101/{name}" for name in names]
    papers = {"mv": 70, "residual": 80, "wise": 92.77}
    for name in names:
        row, metrics = table[f"ucf101/{name}"], metrics_of(runs / name)
        assert metrics["test/num_videos"] == 5
        assert row["test, %"] == f"{100 * metrics['test/top1']:.1f}"
        difference = 100 * metrics["test/top1"] - papers[name] if name in papers else None
        assert row["difference"] == ("" if difference is None else f"{difference:+.1f}")
        assert row["runs"] == "split 2; seed 0"
        assert float(row["G a video"]) > 0
        assert "CPUs" in row["hardware"]
    exits = [value for name, value in metrics_of(runs / "wise").items() if name.startswith("test/exited/")]
    assert len(exits) == 12
    assert sum(exits) == pytest.approx(1)
    assert len(list(Path("data/ucf101_flow").rglob("*.zip"))) == 21, "of all splits: the teacher is tested"
    assert all(step.is_done for step in chain.steps())
    backbones = replace(chain, experiments=[Experiment("pkd_ip", Path("configs/ucf101/pkd_ip.yaml"))])
    (fit,) = (step.command for step in backbones.steps() if step.command[0] == "fit")
    assert run(fit) == 0, "the P-stream is a backbone too"
    check_ip_tsn_stands_alone(chain, run)


def check_ip_tsn_stands_alone(chain: Chain, run: Run) -> None:
    """Its checkpoint holds both networks, and no flow is read."""
    networks = set(chain.root.glob("*/checkpoints/best.ckpt")) - {chain.root / "ip_tsn/checkpoints/best.ckpt"}
    for network in networks:
        network.unlink()
    shutil.rmtree("data/ucf101_flow")
    (test,) = (step for step in chain.steps() if step.command[0] == "test" and step.product.parent.name == "ip_tsn")
    assert run(test.command) == 0
    assert not Path("data/ucf101_flow").exists()
    alone = {name for name in metrics_of(chain.root / "ip_tsn") if "top1_alone/" in name}
    assert alone == {"test/top1_alone/iframe/final", "test/top1_alone/mv+residual/final"}


def test_team_net_from_labels_to_early_exits(ucf101: Path, run: Run) -> None:
    """Its checkpoint is a backbone with teachers, and that of its exits one for weighted inference."""
    options = {key: value for key, value in TINY.items() if key != "data.test_segments"}  # exits are for 8
    chain = Chain("ucf101", read_chain("ucf101"), data=str(ucf101), split=2, options=options).only(["team_net_wise"])
    *_, test = steps = chain.steps()
    for step in steps:
        assert step.command[0] != "fit" or run(step.command) == 0
    assert run([*test.command, "--model.threshold", "chosen", "--data.lazy", "true"]) == 0
    tested = metrics_of(chain.root / "team_net_wise")
    assert tested["test/num_videos"] == 5
    exits = {name: value for name, value in tested.items() if name.startswith("test/exited/")}
    stream = "iframe+mv+residual"
    assert exits.keys() == {f"test/exited/{stream}/{name}" for name in ("stem", "layer1", "layer2", "final")}
    assert sum(exits.values()) == pytest.approx(1)


def test_the_chain_of_activitynet(activitynet: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A rehearsal on half of the videos."""
    chain = Chain("activitynet", read_chain("activitynet"), fraction=0.5, options=TINY)
    run_chain(chain, run)
    table = results(capsys.readouterr().out)
    assert [name.partition("/")[2] for name in table] == ["reskd_teacher", "reskd_baseline", "reskd"]
    for name, row in table.items():
        metrics = metrics_of(Path("runs/fraction_0.5", name))
        assert row["test, %"] == f"{100 * metrics['test/mAP']:.1f}"
        assert metrics["test/num_videos"] == 2
    assert not Path("runs/activitynet").exists()


Clips = list[tuple[Path, str, bool]]  # video, class, whether it is tested on


def lay_out_hmdb51(root: Path, clips: Clips) -> None:
    for video, label, is_tested in clips:
        append(root / f"testTrainMulti_7030_splits/{label}_test_split1.txt", f"{video.stem}.avi {1 + is_tested}\n")
        link(root / "hmdb51_org" / label, video)


def lay_out_kinetics(root: Path, clips: Clips) -> None:
    for side in ("train", "val"):
        append(root / f"annotations/{side}.csv", "label,youtube_id,time_start,time_end,split\n")
    for video, label, is_tested in clips:
        side = "val" if is_tested else "train"
        append(root / f"annotations/{side}.csv", f"{label},{video.stem},0,10,{side}\n")
        link(root / side, video)


def lay_out_ssv2(root: Path, clips: Clips) -> None:
    lists: dict[str, Any] = {"train": [], "validation": [], "labels": {"left": "0", "right": "1"}}
    for video, label, is_tested in clips:
        lists["validation" if is_tested else "train"].append({"id": video.stem, "template": label})
        link(root / "videos", video)
    for name, entries in lists.items():
        append(root / f"labels/{name}.json", json.dumps(entries))


def lay_out_fcvid(root: Path, clips: Clips) -> None:
    for video, label, is_tested in clips:
        line = f"{label}/{video.name} {'test' if is_tested else 'train'}\n"
        append(root / "materials/FCVID_VideoName_TrainTestSplit.txt", line)
        append(root / "materials/FCVID_Label.txt", f"{int(label == 'left')} {int(label == 'right')}\n")
        link(root / label, video)


def append(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def link(folder: Path, video: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / video.name).symlink_to(video)


CLASS_NAMES = {"data.annotations.class_names": ["left", "right"]}
OTHERS: dict[str, tuple[Callable[[Path, Clips], None], dict[str, Any], list[str] | None]] = {
    "hmdb51": (lay_out_hmdb51, {}, ["fusion", "wise", "ip_tsn"]),
    "fcvid": (lay_out_fcvid, {}, None),
    "mini_kinetics": (lay_out_kinetics, {}, None),
    "ssv2": (lay_out_ssv2, {"model.network.shift_div": 2}, None),
    "kinetics400": (lay_out_kinetics, {}, ["reskd_baseline_slow_only", "reskd_slow_only"]),
    "kinetics_subset": (lay_out_kinetics, CLASS_NAMES, None),
}


@pytest.mark.slow
@pytest.mark.usefixtures("configs")
@pytest.mark.parametrize("data_set", OTHERS)
def test_the_chains_of_the_others(data_set: str, tiny_videos: Path, tmp_path: Path, run: Run) -> None:
    """All but ResNet-152 and Swin, which are not to be had at this scale."""
    lay_out, options, experiments = OTHERS[data_set]
    videos = sorted(tiny_videos.glob("*/*/*.mp4"))
    lay_out(tmp_path / "videos", [(video, video.parts[-2], video.parts[-3] == "test") for video in videos])
    chain = Chain(data_set, read_chain(data_set), data=str(tmp_path / "videos"), options=TINY | options)
    chain = chain if experiments is None else chain.only(experiments)
    run_chain(chain, run)
    for experiment in chain.experiments:
        assert metrics_of(chain.root / experiment.name)["test/num_videos"] == 5


@pytest.mark.slow
def test_a_chain_killed_at_random_ends_with_the_same_results(activitynet: Path, run: Run) -> None:
    """By SIGKILL, of the chain alone or with all that it has started; nothing that was whole is made again."""
    chain = Chain("activitynet", read_chain("activitynet"), data=str(activitynet), options=TINY)
    run_chain(chain, run)
    undisturbed = chain.root.rename("undisturbed")
    program = [Path(sys.executable).with_name("streamkd"), "reproduce", "activitynet", "--data", activitynet]
    random, whole, kills = Random(0), dict[Path, bytes](), 0
    while True:
        process = subprocess.Popen([*program, "--options", json.dumps(TINY)], start_new_session=True)
        try:
            assert process.wait(random.uniform(1, 25 + 5 * kills)) == 0  # later and later, so that a busy machine ends
            break
        except subprocess.TimeoutExpired:
            (os.killpg if kills % 2 else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
        kills += 1
        found = {path: path.read_bytes() for path in chain.root.glob("*/*.json")}
        assert whole.items() <= found.items()
        whole = found
    assert kills > 2
    for name in ("reskd_teacher", "reskd_baseline", "reskd"):
        assert metrics_of(chain.root / name) == metrics_of(undisturbed / name)
        weights = [
            torch.load(root / name / "checkpoints/best.ckpt")["state_dict"] for root in (chain.root, undisturbed)
        ]
        torch.testing.assert_close(*weights, rtol=0, atol=0)


@pytest.mark.slow
def test_a_chain_that_is_terminated_ends_its_command_first(activitynet: Path) -> None:
    program = [Path(sys.executable).with_name("streamkd"), "reproduce", "activitynet", "--data", activitynet]
    process = subprocess.Popen([*program, "--options", json.dumps(TINY | {"trainer.max_epochs": 1000})])
    last = Path("runs/activitynet/reskd_teacher/checkpoints/last.ckpt")
    while not last.is_file():
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    assert process.wait(60) == 143
    saved = last.stat().st_mtime_ns
    time.sleep(3)
    assert last.stat().st_mtime_ns == saved


FORKED_STEPS = """
import multiprocessing

from lightning_modules import cli, reproduce

context = multiprocessing.get_context("fork")


def run(command):
    data = ["--num_workers", "0"] if command[0] in ("flow", "prepare") else []
    process = context.Process(target=cli.main, args=([*command, *data],))
    process.start()
    process.join()
    return process.exitcode


reproduce._run = run
cli.main(args)
"""


@pytest.mark.slow
def test_the_chain_of_ucf101_killed_at_random_ends_with_the_same_results(
    ucf101: Path, killing: Callable[..., Any], stamps_of: Callable[..., Any], tmp_path: Path
) -> None:
    """All at once; runs that were finished, indices and flow that were whole stay as they are."""
    pytest.importorskip("cv2")
    runs, caches = Path("runs/ucf101/split2"), [tmp_path / "data/ucf101_index", tmp_path / "data/ucf101_flow"]
    experiments = ["mv", "residual", "iframe", "pkd", "wise", "flow", "p_stream", "ip_tsn"]

    def whole() -> dict[Path, Any]:
        finished = stamps_of(path.parent / "checkpoints/best.ckpt" for path in runs.glob("*/fit.json"))
        kept = stamps_of(path for cache in caches for path in cache.rglob("*") if path.is_file())
        return finished | kept | {path: path.read_bytes() for path in runs.glob("*/*.json")}

    def results() -> dict[str, Any]:
        assert sorted(path.parent.name for path in runs.glob("*/test.json")) == sorted(experiments)
        weights = {name: torch.load(runs / name / "checkpoints/best.ckpt")["state_dict"] for name in experiments}
        return {
            name: (metrics_of(runs / name), {key: value.numpy().tobytes() for key, value in state.items()})
            for name, state in weights.items()
        }

    options = json.dumps(TINY)
    command = ["reproduce", "ucf101", "--data", ucf101, "--split", 2, "--experiments", "[wise,ip_tsn]"]
    killing(
        [*command, "--options", options],
        [tmp_path / "runs", *caches],
        whole=whole,
        results=results,
        program=FORKED_STEPS,
    ).check(20, share=0.12)
