"""How many of the videos that a list names may be missing on the disk."""

import logging
from collections.abc import Sequence

_log = logging.getLogger(__name__)


def accept_missing(missing: Sequence[str], total: int, limit: int | float, *, where: str) -> None:
    """Accept missing videos with a warning, up to a limit.

    Args:
        missing: names of those that are missing.
        total: number of videos looked for.
        limit: a number, or a fraction (float) of `total`; some video must be left in any case.
        where: where they were looked for.

    Raises:
        FileNotFoundError: more are missing.
    """
    if not missing:
        return
    shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    message = f"{where}: {len(missing)} of {total} listed videos are missing: {shown}"
    allowed = int(limit * total) if isinstance(limit, float) else limit
    if len(missing) > allowed or len(missing) == total:
        raise FileNotFoundError(
            f"{message}; get them, or go on without (config key: max_missing, a number or a fraction, now {limit}), "
            "or correct where they are (config keys: root, videos)"
        )
    _log.warning("%s; going on without (config key: max_missing)", message)


def check_max_missing(limit: int | float) -> None:
    """Raise ValueError where `limit` is neither a number of videos nor a fraction."""
    if limit < 0 or (isinstance(limit, float) and limit > 1):
        raise ValueError(f"max_missing: expected a number of videos, or a fraction from 0.0 to 1.0, got {limit}")
