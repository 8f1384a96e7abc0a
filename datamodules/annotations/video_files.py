"""Which files are videos, and where they lie."""

import os
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

VIDEO_EXTENSIONS = frozenset(
    {".3gp", ".asf", ".avi", ".divx", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"}
    | {".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)


def find_videos(paths: Iterable[str]) -> list[str]:
    """The videos among files and folders, in order; folders are searched to any depth, in sorted order.

    A file that is named is taken whatever its extension, and a path without any video is kept as it is, so that
    whoever reads it can say what is wrong with it.
    """
    return [video for path in paths for video in (videos_below(path) or [path])]


def videos_below(folder: str | Path) -> list[str]:
    """The videos in a folder and its subfolders, links to folders followed, sorted; none where it is no folder."""
    found = (os.path.join(parent, name) for parent, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(video for video in found if is_video(video))


def is_video(path: str | Path) -> bool:
    """Whether a name has a video's extension and is not hidden."""
    name = os.path.basename(path)
    return os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS and not name.startswith(".")


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, one per class, sorted.

    Raises:
        FileNotFoundError: there is none.
    """
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    if not names:
        raise FileNotFoundError(f"{folder}: expected a folder per class, found none (config key: root)")
    return names


def class_videos(folder: Path) -> list[Path]:
    """The videos of a class's folder, sorted.

    Raises:
        ValueError: there is none.
    """
    videos = sorted(path for path in folder.iterdir() if is_video(path))
    if not videos:
        raise ValueError(
            f"{folder}: expected videos of the class, found none (extensions: {' '.join(sorted(VIDEO_EXTENSIONS))})"
        )
    return videos


def check_folder(folder: Path, key: str) -> None:
    """Raise FileNotFoundError where there is no such folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder (config key: {key})")


class VideoFolder:
    """The videos below a folder by their names, whatever their extensions and however deep they lie.

    Every folder is read once, when the first video is looked for: no file is asked for by itself.

    Args:
        folder: searched to any depth.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, names: Iterable[str]) -> str | None:
        """Path of the video that has one of some names.

        Args:
            names: without extension; one with a folder before it, `run/a`, is found in a folder of that name alone.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: several videos have these names.
        """
        paths = [path for name in names for path in self._named(name)]
        if len(paths) > 1:
            raise ValueError(
                f"{paths[0]} and {paths[1]}: expected one file per video; "
                "name the folder that is meant (config key: videos)"
            )
        return paths[0] if paths else None

    def others(self, names: Iterable[str]) -> list[str]:
        """Paths of the videos that have none of some names."""
        named = {os.path.basename(name) for name in names}
        return [path for name, paths in self._paths.items() if name not in named for path in paths]

    def _named(self, name: str) -> list[str]:
        paths = self._paths.get(os.path.basename(name), [])
        return [path for path in paths if os.path.splitext(path)[0].endswith(f"{os.sep}{name}")]

    @cached_property
    def _paths(self) -> dict[str, list[str]]:
        check_folder(self.folder, "videos")
        paths = defaultdict(list)
        for path in videos_below(self.folder):
            paths[os.path.splitext(os.path.basename(path))[0]].append(path)
        return dict(paths)
