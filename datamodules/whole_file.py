"""Files that are written whole or not at all, whatever kills the process."""

import hashlib
import os
import platform
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

PathLike = str | os.PathLike[str]

# machine, process and 2 random bytes, or "part"
_TEMPORARY = re.compile(r"\..*\.(?:([0-9a-f]{6})([0-9a-f]{6})[0-9a-f]{4}|part)(?:\.\w+)?")


@contextmanager
def written_whole(path: PathLike, *, shared: bool = True, synced: bool = True) -> Iterator[Path]:
    """Yields a path beside `path`: what is written there replaces `path` on success, and is removed on any exception.

    Args:
        path: the file to write; its folder is made when missing.
        shared: whether several processes may write `path` at a time. If not, the temporary name is fixed
            (`.part` behind the stem), so that killed processes leave one such file at most.
        synced: whether it is on the disk when this ends. If not, a crash of the machine may leave it torn.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    infix = f"{_machine()}{os.getpid() % 2**24:06x}{secrets.token_hex(2)}" if shared else "part"
    temporary = target.with_name(f".{target.stem}.{infix}{target.suffix}")
    try:
        yield temporary
        if synced:
            _sync(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if synced and os.name == "posix":  # elsewhere folders cannot be opened
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


def remove_leftovers(directory: PathLike, *, idle_seconds: float = 900) -> None:
    """Removes what `written_whole` left below a folder when its process was killed.

    Args:
        directory: it need not exist.
        idle_seconds: what was written to later than this ago may belong to a process that is alive, and stays, unless
            the process was one of this machine and has ended.
    """
    machine = _machine()
    for folder, _, names in os.walk(directory):
        for name, match in ((name, _TEMPORARY.fullmatch(name)) for name in names):
            if match is not None:
                is_left = match[1] == machine and _has_ended(int(match[2], 16))
                with suppress(FileNotFoundError):  # done, or removed by another
                    path = Path(folder, name)
                    if is_left or time.time() - path.stat().st_mtime > idle_seconds:
                        path.unlink()


def _machine() -> str:
    """Digest of where process ids are those of this process; a new one at each call where that is not known."""
    try:
        name = f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return secrets.token_hex(3)
    return hashlib.sha256(name.encode()).hexdigest()[:6]


def _has_ended(process: int) -> bool:
    """Whether there is no such process, or what is left of it waits for its parent."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    return state == "Z"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
