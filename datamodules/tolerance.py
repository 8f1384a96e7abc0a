"""How many of many may be missing or bad: a number, or a fraction of all."""


def check_tolerance(key: str, limit: int | float) -> None:
    """
    Raises:
        ValueError: `limit` is neither a number nor a fraction.
    """
    if limit < 0 or (isinstance(limit, float) and limit > 1):
        raise ValueError(f"{key}: expected a number of videos, or a fraction from 0.0 to 1.0, got {limit}")


def tolerated(limit: int | float, total: int) -> int:
    """How many of `total` a limit allows: itself, or where it is a float that fraction, rounded down."""
    return int(limit * total) if isinstance(limit, float) else limit
