"""Areas of effective receptive fields as a table to read."""

from collections.abc import Mapping

from rich.table import Table

from lightning_modules.analysis.receptive_field import FieldArea


def table_of(areas: Mapping[str, FieldArea]) -> Table:
    """A row for each network.

    Args:
        areas: by the name to show.
    """
    table = Table("network", "stream", "depth", "frame", "threshold", "area, pixels", "side, pixels", "% of the frame")
    for name, area in areas.items():
        height, width = area.frame
        sizes = [f"{width} x {height}", f"{area.threshold:g}", f"{area.pixels:,}", f"{area.side:.1f}"]
        table.add_row(name, area.stream, area.depth, *sizes, f"{100 * area.fraction:.1f}")
    return table
