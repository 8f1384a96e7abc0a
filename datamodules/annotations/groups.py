"""Seeded choices of whole groups of videos, so that no person, scene or source stands on two sides of a split."""

import hashlib
import os
from collections.abc import Iterable, Sequence

from datamodules.randomness import generator


def shuffled(groups: Iterable[str], seed: int) -> list[str]:
    """The different groups in an order that depends on their names and the seed alone."""
    names = sorted(set(groups))
    return [names[i] for i in generator(seed).permutation(len(names))]


def ranked(names: Iterable[str], seed: int) -> list[str]:
    """The different names in the order of the SHA-256 of `<seed> <name>`, in which no name moves another."""
    return sorted(set(names), key=lambda name: hashlib.sha256(os.fsencode(f"{seed} {name}")).digest())


def first_share(order: Sequence[str], fraction: float) -> list[str]:
    """The first groups of an order, as many as a fraction stands for: at least one, unless it is 0."""
    return list(order[: max(round(fraction * len(order)), 1) if fraction else 0])


def check_fraction(key: str, fraction: float) -> None:
    """Raise ValueError where `fraction` is no share of groups that leaves some."""
    if not 0 <= fraction < 1:
        raise ValueError(f"{key}: expected a number from 0 to below 1, got {fraction}")


def check_share(key: str, share: float) -> None:
    """Raise ValueError where `share` is no share that has anything in it."""
    if not 0 < share <= 1:
        raise ValueError(f"{key}: expected a number above 0, up to 1, got {share}")
