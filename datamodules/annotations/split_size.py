"""Whether official lists have the official numbers of videos and classes, and if not, what is wrong with them."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence

REMEDY = "restore the official lists, or set check_sizes: false for a part of the data set"


def check_num_classes(classes: Collection[str], expected: int, *, where: str) -> None:
    """Raise ValueError where there are more or fewer classes than the official ones."""
    if len(classes) != expected:
        raise ValueError(f"{where}: expected {expected} classes, got {len(classes)}; {REMEDY}")


def check_split_size(
    listed: Sequence[tuple[str, Collection[str]]],
    expected: int,
    *,
    per_class: int | None,
    others: Callable[[], Sequence[str]],
    where: str,
) -> None:
    """Check the length of a list, and say what it lacks or has too many of.

    Args:
        listed: name and classes of each video.
        expected: official number of videos.
        per_class: official number of videos of each class, where it is the same for all.
        others: finds the videos that are on the disk and in no list; asked only where the number is wrong.
        where: the list.

    Raises:
        ValueError: the list is longer or shorter.
    """
    if len(listed) == expected:
        return
    findings = {
        "listed twice": [name for name, count in Counter(name for name, _ in listed).items() if count > 1],
        f"classes without {per_class} videos": _uneven(listed, per_class),
        "on the disk and in no list": others(),
    }
    told = [f"{what}: {_abridged(found)}; " for what, found in findings.items() if found]
    raise ValueError(f"{where}: expected {expected} videos, got {len(listed)}; {''.join(told)}{REMEDY}")


def _uneven(listed: Sequence[tuple[str, Collection[str]]], per_class: int | None) -> list[str]:
    counts = Counter(name for _, classes in listed for name in classes)
    return [f"{name} ({count})" for name, count in sorted(counts.items()) if count != per_class] if per_class else []


def _abridged(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f", ... ({len(names)} in all)" if len(names) > 10 else "")
