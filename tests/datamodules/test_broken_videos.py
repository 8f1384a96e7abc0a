"""A data set of which one video in a hundred is broken, through the command line with two workers."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from lightning_modules.cli import main

NUM_TRAIN = 400
Streamkd = Callable[..., int | None]


def truncated(path: Path) -> None:
    whole = path.read_bytes()
    path.unlink()  # it is a hard link
    path.write_bytes(whole[: len(whole) // 2])


def empty(path: Path) -> None:
    path.unlink()
    path.touch()


def garbage(path: Path) -> None:
    path.unlink()
    path.write_bytes(np.random.default_rng(0).bytes(5_000))


def audio_only(path: Path) -> None:
    path.unlink()
    with av.open(str(path), "w", format="mp4") as container:
        audio = container.add_stream("aac", rate=16_000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), "fltp", "mono")
        silence.sample_rate = 16_000
        container.mux([*audio.encode(silence), *audio.encode(None)])


BREAK = (truncated, empty, garbage, audio_only)


def large_data_set(tiny_videos: Path, root: Path) -> Path:
    """The tiny videos, those of the training split 40 times over."""
    for original in sorted(tiny_videos.rglob("*.mp4")):
        folder = root / original.relative_to(tiny_videos).parent
        folder.mkdir(parents=True, exist_ok=True)
        copies = 40 if "train" in original.parts else 1
        for number in range(copies):
            os.link(original, folder / f"{original.stem}_{number:02}.mp4")
    assert len(list((root / "train").rglob("*.mp4"))) == NUM_TRAIN
    return root


def options(root: Path, **data: object) -> list[str]:
    data = {"annotations.init_args.root": root, "batch_size": 8, "num_workers": 2} | data
    return ["--trainer.max_epochs=1", *(f"--data.init_args.{key}={value}" for key, value in data.items())]


@pytest.fixture(scope="module")
def broken(tiny_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """The data set, and the broken videos of each split: 4 of 400 in training."""
    root = large_data_set(tiny_videos, tmp_path_factory.mktemp("broken"))
    names = {}
    for split, ways in {"train": BREAK, "val": BREAK[:2], "test": BREAK[2:]}.items():
        videos = sorted((root / split).rglob("*.mp4"))
        chosen = videos[:: len(videos) // len(ways)][: len(ways)]
        for path, way in zip(chosen, ways, strict=True):
            way(path)
        names[split] = sorted(map(str, chosen))
    return root, names


@pytest.fixture(scope="module")
def fitted(
    broken: tuple[Path, dict[str, list[str]]],
    write_tiny_config: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
    streamkd: Streamkd,
) -> Path:
    config = write_tiny_config(tmp_path_factory.mktemp("fitted"))
    assert streamkd("fit", "--config", config, *options(broken[0])) == 0
    return config


def report(config: Path, verb: str) -> dict:
    return json.loads((config.parent / "run" / f"{verb}.json").read_text())


def test_training_finishes_and_names_them(fitted: Path, broken: tuple[Path, dict[str, list[str]]]) -> None:
    found = report(fitted, "fit")
    assert found["steps"] == NUM_TRAIN / 8, "substitutes fill the batches"
    assert sorted(failure["path"] for failure in found["failures"]) == sorted(broken[1]["train"] + broken[1]["val"])
    assert "train/loss" in (fitted.parent / "run" / "metrics.csv").read_text()
    assert all(failure["reason"] for failure in found["failures"])


@pytest.mark.parametrize(("verb", "split", "num_readable"), [("validate", "val", 4), ("test", "test", 3)])
def test_evaluation_leaves_them_out_and_lists_them(
    fitted: Path,
    broken: tuple[Path, dict[str, list[str]]],
    streamkd: Streamkd,
    verb: str,
    split: str,
    num_readable: int,
) -> None:
    assert streamkd(verb, "--config", fitted, *options(broken[0])[1:]) == 0
    found = report(fitted, verb)
    assert found["num_videos"] == num_readable
    assert sorted(failure["path"] for failure in found["failures"]) == broken[1][split]


def test_predict_lists_them_behind_the_others(
    fitted: Path, broken: tuple[Path, dict[str, list[str]]], streamkd: Streamkd
) -> None:
    root, names = broken
    paths = f"[{root / 'val'}, {root / 'test'}]"
    assert streamkd("predict", "--config", fitted, *options(root, predict_paths=paths)[1:]) == 0
    lines = [json.loads(line) for line in (fitted.parent / "run" / "predictions.jsonl").read_text().splitlines()]
    assert [("error" in line) for line in lines] == 7 * [False] + 4 * [True]
    assert [line["path"] for line in lines[7:]] == sorted(names["val"] + names["test"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    ("limit", "said"),
    [(0.05, "cannot be read, at most 20 may be; mend the data"), (1.0, "nor any other of its training batch")],
)
def test_all_broken_stop_before_the_first_epoch_ends(
    tiny_videos: Path,
    tiny_config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    num_workers: int,
    limit: float,
    said: str,
) -> None:
    root = large_data_set(tiny_videos, tmp_path / "videos")
    for number, path in enumerate(sorted((root / "train").rglob("*.mp4"))):
        BREAK[number % 3](path)
    chosen = options(root, num_workers=num_workers, max_bad_videos=limit)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(tiny_config), *chosen])
    assert stopped.value.code == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    run = tmp_path / "run"
    assert not (run / "fit.json").exists()
    assert not list(run.rglob("*.ckpt"))
    assert "loss" not in (run / "metrics.csv").read_text()
