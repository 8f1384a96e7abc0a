"""Files that are written whole or not at all, whatever kills the process."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

PathLike = str | os.PathLike[str]


@contextmanager
def written_whole(path: PathLike, *, shared: bool = True) -> Iterator[Path]:
    """Yields a path beside `path`: what is written there replaces `path` on success, and is removed on any exception.

    Args:
        path: the file to write; its folder is made when missing.
        shared: whether several processes may write `path` at a time. If not, the temporary name is fixed
            (`.part` behind the stem), so that killed processes leave one such file at most.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    infix = secrets.token_hex(4) if shared else "part"
    temporary = target.with_name(f".{target.stem}.{infix}{target.suffix}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere folders cannot be opened
        _sync(target.parent)


@contextmanager
def open_whole(path: PathLike, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a file that takes the place of `path` when the block ends without an error; one process at a time.

    Args:
        path: the file to write; its folder is made when missing.
        mode: "w" (UTF-8, newlines as given) or "wb".
    """
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "")
    with written_whole(path, shared=False) as part, open(part, mode, encoding=encoding, newline=newline) as file:
        yield file


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
