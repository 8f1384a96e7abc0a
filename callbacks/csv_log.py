"""One `metrics.csv` per run, appended to, that a killed and resumed run leaves equal to an undisturbed one's.

Lightning's CSVLogger starts its file anew on resume. Here a row holds all that was logged at one step, so logging a
value again is harmless, and the first value a resumed process logs drops every later row: those will come again.
"""

import csv
import io
import os
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from datamodules.whole_file import open_whole

Row = dict[str, str]


@dataclass
class MetricsTable:
    """A CSV file of one row per step; columns in order of first appearance.

    Every write is one system call or one rename, so a kill leaves whole rows. A torn last line (a full disk, a power
    cut) is dropped when the file is opened.
    """

    path: Path
    columns: list[str] = field(default_factory=lambda: ["step", "epoch"])
    last: Row = field(default_factory=dict)
    last_offset: int = 0

    @classmethod
    def open(cls, path: Path, step: int) -> "MetricsTable":
        """Open the table to write `step` next; rows of later steps are dropped."""
        table = cls(path)
        rows = read_rows(path)
        if rows:
            table.columns = list(rows[0])
        table._write_all([row for row in rows if int(row["step"]) <= step])
        return table

    def write(self, row: Row) -> None:
        """Add `row`, or its values to the last row if that is of the same step."""
        same_step = self.last.get("step") == row["step"]
        merged = {**self.last, **row} if same_step else row
        new_columns = [name for name in row if name not in self.columns]
        if new_columns:
            rows = [other for other in read_rows(self.path) if not same_step or other["step"] != row["step"]]
            self.columns += new_columns
            self._write_all([*rows, merged])
        else:
            self._write_last(merged, self.last_offset if same_step else os.path.getsize(self.path))

    def _write_last(self, row: Row, offset: int) -> None:
        line = self._line(row)
        descriptor = os.open(self.path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, line, offset)
            os.ftruncate(descriptor, offset + len(line))
        finally:
            os.close(descriptor)
        self.last, self.last_offset = row, offset

    def _write_all(self, rows: list[Row]) -> None:
        lines = [self._line({name: name for name in self.columns}), *map(self._line, rows)]
        with open_whole(self.path, "wb") as file:
            file.writelines(lines)
        self.last = rows[-1] if rows else {}
        self.last_offset = sum(map(len, lines[:-1]))

    def _line(self, row: Row) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row.get(name, "") for name in self.columns)
        return text.getvalue().encode()


def read_rows(path: Path) -> list[Row]:
    """The whole rows of a metrics file, empty cells as ""; [] when there is no file."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    header, *lines = csv.reader(io.StringIO(whole)) if whole else [[]]
    return [dict(zip(header, line, strict=True)) for line in lines if len(line) == len(header)]


class CsvLog(Logger):
    """Logs the metrics of fit into one appended CSV file; rank zero writes.

    Args:
        folder: the run directory.
        filename: the file in it.
    """

    def __init__(self, folder: Path | str, filename: str = "metrics.csv") -> None:
        super().__init__()
        self.path = Path(folder) / filename
        self._table: MetricsTable | None = None

    @property
    @override
    def name(self) -> str:
        return ""

    @property
    @override
    def version(self) -> str:
        return ""

    @property
    @override
    def save_dir(self) -> str:
        return str(self.path.parent)

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run directory holds the whole configuration."""

    @override
    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = 0 if step is None else step
        if self._table is None:
            self._table = MetricsTable.open(self.path, step)
        self._table.write({"step": str(step), **{name: str(value) for name, value in metrics.items()}})
