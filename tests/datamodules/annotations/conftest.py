from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., None]:
    """Make empty files below `tmp_path`."""

    def make(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    return make


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Let folders hold these videos, thousands of them, without a file being made."""

    def pretend(names: list[str]) -> None:
        found = "datamodules.annotations.video_files.videos_below"
        monkeypatch.setattr(found, lambda folder: [str(Path(folder, name)) for name in names])

    return pretend


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a text file below `tmp_path`."""

    def make(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return make
