"""What studies over several seeds share: running commands, mean and spread, a table that is written whole."""

import csv
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.whole_file import open_whole


def command(*arguments: object, log: Path | None = None) -> None:
    """Runs `streamkd` with these arguments; raises if it fails.

    Args:
        arguments: of the command line.
        log: file that its output is appended to; None: this program's own output.
    """
    program = [str(Path(sys.executable).with_name("streamkd")), *map(str, arguments)]
    if log is None:
        subprocess.run(program, check=True)
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        subprocess.run(program, check=True, stdout=file, stderr=subprocess.STDOUT)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, e.g. `46.3 ± 1.2`."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes dictionaries of the same keys as CSV, whole or not at all."""
    with open_whole(path) as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
