"""Text, CSV and JSON files that list videos or classes; whatever is wrong with one is said with its file and line."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Line(NamedTuple):
    """A line of a list file.

    Args:
        where: `file:line`, for messages.
        text: without white space around it.
    """

    where: str
    text: str

    def split_last(self) -> tuple[str, str]:
        """What stands before the last white space (perhaps nothing) and after: `"a b.avi 1" -> ("a b.avi", "1")`."""
        first, *rest = self.text.rsplit(maxsplit=1)
        return (first, rest[0]) if rest else ("", first)


def read_lines(path: Path, key: str) -> list[Line]:
    """The lines of a file that are not blank.

    Args:
        path: the file, UTF-8; other bytes in it survive, as in file names.
        key: the config key that names it.

    Raises:
        FileNotFoundError: there is no such file.
    """
    lines = enumerate(_read(path, key).splitlines(), start=1)
    return [Line(f"{path}:{number}", text.strip()) for number, text in lines if text.strip()]


def read_classes(path: Path, key: str) -> list[tuple[str, str]]:
    """(number, name) of each class, in order of number, from lines `name` (counted from 0) or `number name`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, or a number or a name occurs twice.
    """
    lines = read_lines(path, key)
    pairs = [line.text.split(maxsplit=1) for line in lines]
    if all(len(pair) == 2 and pair[0].isdigit() for pair in pairs):
        classes = sorted(((number, name) for number, name in pairs), key=lambda pair: int(pair[0]))
    else:
        classes = [(str(number), line.text) for number, line in enumerate(lines)]
    for what, values in (("number", [number for number, _ in classes]), ("name", [name for _, name in classes])):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{path}: expected a line per class, each with a {what} of its own (config key: {key})")
    return classes


def read_csv(path: Path, key: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(`file:line`, columns by name) of each row below the header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it lacks one of `columns`, a row has more or fewer columns than the header, or it is no CSV.
    """
    rows = csv.DictReader(_read(path, key).splitlines(keepends=True), strict=True)
    try:
        missing = [name for name in columns if name not in (rows.fieldnames or [])]
        if missing:
            raise ValueError(
                f"{path}: expected columns {', '.join(columns)}, got {rows.fieldnames} (config key: {key})"
            )
        for row in rows:
            where = f"{path}:{rows.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{where}: expected {len(rows.fieldnames or [])} columns as in the header, got {row}")
            yield where, row
    except csv.Error as error:
        raise ValueError(f"{path}:{rows.reader.line_num}: no CSV ({error}; config key: {key})") from error


def read_json(path: Path, key: str, kind: type) -> Any:
    """The value of a JSON file, whose outermost value is of `kind` (list or dict).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, or its value is of another kind.
    """
    try:
        value = json.loads(_read(path, key))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: no JSON ({error.msg}; config key: {key})") from error
    if not isinstance(value, kind):
        raise ValueError(f"{path}: expected a JSON {kind.__name__}, got a {type(value).__name__} (config key: {key})")
    return value


def fields_of(entry: Any, kinds: Mapping[str, type], where: str) -> list[Any]:
    """Some fields of a JSON object.

    Args:
        entry: the object.
        kinds: type of each field, by its name.
        where: `file, entry`, for messages.

    Raises:
        ValueError: it lacks one, one is of another type, or it is no object.
    """
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), kind) for name, kind in kinds.items()):
        expected = ", ".join(f"{name} ({kind.__name__})" for name, kind in kinds.items())
        raise ValueError(f"{where}: expected an object with {expected}, got {str(entry)[:100]}")
    return [entry[name] for name in kinds]


def first_file(folder: Path, names: Sequence[str], key: str) -> Path:
    """The first of some files that a folder has.

    Raises:
        FileNotFoundError: it has none of them.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder}: expected {' or '.join(names)}, found none (config key: {key})")


def _read(path: Path, key: str) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list file (config key: {key})")
    return path.read_text(encoding="utf-8-sig", errors="surrogateescape")
