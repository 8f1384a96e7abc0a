"""A file is the old one or the new one, never something between."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.checkpoint_io import AtomicCheckpointIO
from datamodules.whole_file import open_whole, remove_leftovers, written_whole


def test_file_is_replaced_when_the_block_ends_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    for text in ("one", "zwei ü"):
        with open_whole(path) as file:
            file.write(text)
        assert path.read_text(encoding="utf-8") == text
    assert os.listdir(path.parent) == ["file.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(TypeError), open_whole(path) as file:
        file.writelines(["new", 1])
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


class Killer:
    """Kills the process that pickles it."""

    def __reduce__(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_old_one(tmp_path: Path) -> None:
    path, writer = tmp_path / "last.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"step": 1}, path)
    child = os.fork()
    if child == 0:
        writer.save_checkpoint({"step": 2, "data": torch.zeros(10), "killer": Killer()}, path)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert torch.load(path) == {"step": 1}
    writer.save_checkpoint({"step": 3}, path)
    assert torch.load(path) == {"step": 3}
    assert os.listdir(tmp_path) == ["last.ckpt"]


def write_until_killed(folder: Path) -> None:
    with written_whole(folder / "a.mp4") as outer, written_whole(outer) as inner:
        inner.touch()
        outer.touch()
        with open_whole(folder / "a.json"):
            os.kill(os.getpid(), signal.SIGKILL)


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """At once where the name tells the process, and later otherwise."""
    others = [tmp_path / name for name in ("clip.mp4", ".hidden.mp4", ".clip.0123456.mp4", "clip.0123456789abcdef.mp4")]
    foreign = [tmp_path / "long ago/.clip.0123456789abcdef.mp4", tmp_path / "now/.clip.0123456789abcdef.mp4"]
    child = os.fork()
    if child == 0:
        write_until_killed(tmp_path / "dead")
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert len(os.listdir(tmp_path / "dead")) == 3
    for path in (*others, *foreign):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    for path in (*others, foreign[0]):
        os.utime(path, (time.time() - 1000, time.time() - 1000))
    with written_whole(tmp_path / "alive/a.mp4") as outer, written_whole(outer) as inner:
        inner.touch()
        remove_leftovers(tmp_path)
        remove_leftovers(tmp_path / "none")
        assert [path.name for path in (tmp_path / "dead").iterdir()] == [".a.part.json"], "of any process"
        assert inner.exists()
    os.waitpid(child, 0)
    assert [path.exists() for path in foreign] == [False, True]
    assert all(path.exists() for path in others)
    part = tmp_path / "dead/.a.part.json"
    os.utime(part, (time.time() - 1000, time.time() - 1000))
    remove_leftovers(tmp_path)
    assert not part.exists()
