import os
import signal
import time
from pathlib import Path

import pytest

from datamodules.parallel import mapped


@pytest.mark.parametrize("num_workers", [0, 2])
def test_results_keep_the_order_of_the_items(num_workers: int) -> None:
    assert list(mapped(abs, range(-200, 0), num_workers, label="numbers")) == list(range(200, 0, -1))


def test_a_log_has_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    list(mapped(time.sleep, [0.01] * 4, 0, label="naps", interval=0))
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split(",")[0] for line in lines] == ["naps: 1/4", "naps: 2/4", "naps: 3/4", "naps: 4/4"]
    rate = float(lines[-1].split(", ")[1].removesuffix("/s"))
    assert 0 < rate <= 100
    assert lines[-2].endswith(" left")


def test_a_killed_process_is_an_error_that_says_so() -> None:
    with pytest.raises(ChildProcessError, match="kills: a process was killed, for want of memory"):
        list(mapped(signal.raise_signal, [signal.SIGKILL] * 2, 2, label="kills"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux to list child processes")
def test_workers_die_with_their_parent() -> None:
    parent = os.fork()
    if parent == 0:
        list(mapped(time.sleep, [60] * 2, 2, label="naps"))
        os._exit(0)
    children = Path(f"/proc/{parent}/task/{parent}/children")
    workers: list[Path] = []
    while len(workers) < 2 or not all(is_at_work(worker) for worker in workers):
        time.sleep(0.05)
        workers = [Path("/proc", child) for child in children.read_text().split() if is_worker(Path("/proc", child))]
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    deadline = time.monotonic() + 30
    while any(worker.exists() for worker in workers):
        assert time.monotonic() < deadline, "they wait for ever"
        time.sleep(0.05)


def is_worker(process: Path) -> bool:
    return b"spawn_main" in (process / "cmdline").read_bytes()


def is_at_work(process: Path) -> bool:
    """The thread that watches the parent is there."""
    return len(list((process / "task").iterdir())) > 1
