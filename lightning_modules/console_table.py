"""Tables for a person: as wide as the terminal, or as a file needs where there is none."""

from rich.console import Console
from rich.table import Table


def print_table(table: Table, *, width: int = 120) -> None:
    """Print on standard output.

    Args:
        table: what to print.
        width: in characters, where output goes to no terminal.
    """
    console = Console()
    (console if console.is_terminal else Console(width=width)).print(table)
