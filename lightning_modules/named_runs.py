"""Run directories that a command compares by their names."""

from collections.abc import Sequence
from pathlib import Path


def check_named(runs: Sequence[Path]) -> Sequence[Path]:
    """The runs themselves, of which there must be one, and which names must tell apart.

    Raises:
        ValueError: no run, or two of one name.
    """
    if not runs or len({run.name for run in runs}) < len(runs):
        raise ValueError(
            f"expected one run directory or more, of different names, in --runs, came {list(map(str, runs))}"
        )
    return runs
