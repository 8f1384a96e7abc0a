"""How many of the videos that a list names may be missing on the disk."""

import logging
from collections.abc import Sequence

from datamodules.tolerance import tolerated

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
    if len(missing) > tolerated(limit, total) or len(missing) == total:
        raise FileNotFoundError(
            f"{message}; get them, or go on without (config key: max_missing, a number or a fraction, now {limit}), "
            "or correct where they are (config keys: root, videos)"
        )
    _log.warning("%s; going on without (config key: max_missing)", message)
