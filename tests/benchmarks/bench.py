"""One table of how fast everything is end to end: CSV, Markdown and a chart, with hardware and versions.

Each part runs in a process of its own, on one thread as the runs of `make demo`; every row is a ratio within the rounds
of one interleaved run there. `make bench` measures all parts and writes the table; `make bench PARTS=loader` measures
some, and shows them alone.
"""

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context, set_start_method
from pathlib import Path

import torch
from bench_chart import draw
from bench_rows import Effort, Row, markdown, table, write_csv
from rich.console import Console

from lightning_modules.analysis.hardware import hardware
from lightning_modules.cli import quiet_loggers, quiet_warnings
from lightning_modules.freed_memory import keep_freed_memory

PARTS = ("loader", "training", "inference", "scaling")
NO_DEMO = "expected the demo's videos and runs in data/demo and runs/demo, came none: run `make demo` first"


def measured(part: str, effort: Effort) -> list[Row]:
    """The rows of a part, as they come on the console too."""
    set_start_method(None, force=True)  # the system's for loader workers, not the one that started this process
    keep_freed_memory()  # as the command line does
    torch.set_num_threads(1)
    quiet_warnings()
    quiet_loggers()
    rows, console = [], Console(width=160)
    for found in import_module(f"bench_{part}").measure(effort):
        console.print(" | ".join([part, *found.cells]), highlight=False)
        rows.append(found)
    return rows


def in_own_process(part: str, effort: Effort) -> list[Row]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measured, part, effort).result()


def conditions(seconds: float) -> str:
    """What the figures depend on, in a line."""
    found = hardware(torch.device("cpu"))
    return f"{found['devices']}; {found['versions']}; {seconds / 60:.0f} minutes in all"


def write(rows: Sequence[Row], note: str, folder: Path) -> None:
    """All three files."""
    write_csv(rows, folder / "bench.csv")
    (folder / "bench.md").write_text(markdown(rows, note), encoding="utf-8")
    draw(rows, note).savefig(folder / "bench.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all if none")
    parser.add_argument("--effort", type=float, default=1.0, help="what numbers of rounds are multiplied by")
    parser.add_argument("--output", type=Path, help="folder for the table; default: results, if all parts are measured")
    parser.add_argument("--cpu-time", action="store_true", help="not wall-clock time: for a machine that is busy")
    given = parser.parse_args()
    effort = Effort(given.effort, time.process_time if given.cpu_time else time.perf_counter)
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"expected parts of {', '.join(PARTS)}, came {', '.join(sorted(unknown))}")
    if not (Path("data/demo/manifest.json").is_file() and Path("runs/demo/wise/fit.json").is_file()):
        parser.error(NO_DEMO)
    folder = given.output or (None if given.parts else Path(__file__).parent / "results")
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    began, rows = time.monotonic(), []
    for part in given.parts or PARTS:
        rows += in_own_process(part, effort)
    note, console = conditions(time.monotonic() - began), Console(width=160)
    for part in given.parts or PARTS:
        console.print(table(part, [each for each in rows if each.part == part]))
    console.print(note)
    if folder:
        write(rows, note, folder)


if __name__ == "__main__":
    main()
