"""Changes the resolution of what was read, after it was computed at full size."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_OWNER = os.getpid()


def resize(frames: np.ndarray, resolution: tuple[int, int]) -> np.ndarray:
    """Bilinear, antialiased: (N, H, W, C) -> (N, height, width, C) of the same type, integers rounded.

    Args:
        frames: uint8, int16 or float32.
        resolution: (height, width) in pixels.
    """
    # Here, since it takes more than a second: processes that prepare videos begin without.
    import torch
    from torch.nn import functional as F

    planes = torch.from_numpy(frames).permute(0, 3, 1, 2)
    # In float32 whatever the type: PyTorch's uint8 kernel rounds its weights, and it has none for int16.
    with _one_thread_if_forked():
        scaled = F.interpolate(planes.float(), size=resolution, mode="bilinear", antialias=True)
    result = scaled.permute(0, 2, 3, 1).numpy()
    return result if frames.dtype == np.float32 else np.rint(result).astype(frames.dtype)


def resize_vectors(mv: np.ndarray, resolution: tuple[int, int]) -> np.ndarray:
    """Vectors in pixels of the new resolution: (N, H, W, 2) int16 or float16 -> (N, height, width, 2) float32."""
    height, width = resolution
    scale = np.array([width / mv.shape[2], height / mv.shape[1]], np.float32)
    return resize(mv.astype(np.float32), resolution) * scale


@contextmanager
def _one_thread_if_forked() -> Iterator[None]:
    """A child would wait for ever for the OpenMP threads of its parent."""
    if os.getpid() == _OWNER:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
