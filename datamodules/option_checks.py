"""Checks of options; each message names the key, what was expected and what came."""

from collections.abc import Collection, Sequence


def check_choice(key: str, value: object, allowed: Collection[object]) -> None:
    """
    Raises:
        ValueError: it is none of those.
    """
    if value not in allowed:
        raise ValueError(f"{key}: expected one of {', '.join(map(str, allowed))}, got {value!r}")


def check_counts(**counts: int | None) -> None:
    for key, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{key}: expected at least 1, got {count}")


def check_fractions(**fractions: Sequence[float]) -> None:
    for key, values in fractions.items():
        if not values or min(values) < 0 or max(values) > 1:
            raise ValueError(f"{key}: expected numbers from 0 to 1, got {', '.join(map(str, values))}")
