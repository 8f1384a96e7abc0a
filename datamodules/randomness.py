"""Random numbers that depend on a key and on nothing else: not on worker, rank, or what was drawn before."""

import numpy as np


def generator(*key: int) -> np.random.Generator:
    """A counter-based generator that is a pure function of its key.

    Args:
        key: non-negative integers, such as (seed, epoch) for an order or (seed, epoch, sample, attempt) for a
            sample. Keys of different lengths never share a stream.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((len(key), *key))))
