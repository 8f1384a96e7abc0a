"""Motion vectors and residuals as CoViAR defines them, from the vectors that a decoder exports.

Wu et al., "Compressed Video Action Recognition", CVPR 2018, section 3.1 and its public loader. One plane of source
coordinates is carried from frame to frame; motion vectors and residuals are derived from it only where asked:

    source[y, x] = (sy << 16) | sx        the pixel of the reference frame that (x, y) is predicted from
    mv[y, x]     = (x - sx, y - sy)
    residual     = frame[y, x] - reference[sy, sx]
"""

import numpy as np
from numba import njit

# FFmpeg's AVMotionVector as int16: width and height of a block (packed), its source's and its own centre.
_RECORD_INT16 = 20
_SIZE, _SOURCE_X, _SOURCE_Y, _X, _Y = 2, 3, 4, 5, 6


def vector_records(side_data: bytes | memoryview | None) -> np.ndarray:
    """(N, 20) int16 view of a frame's exported `MOTION_VECTORS`; N is 0 where the frame has none."""
    if side_data is None:
        return np.empty((0, _RECORD_INT16), np.int16)
    return np.frombuffer(side_data, np.int16).reshape(-1, _RECORD_INT16)


def identity_sources(height: int, width: int) -> np.ndarray:
    """(H, W) int32: every pixel is its own source."""
    return (np.arange(height, dtype=np.int32)[:, None] << 16) | np.arange(width, dtype=np.int32)


def advance_sources(records: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
    """Carries the source plane `before` over one P-frame's vectors, into `after`.

    Pixels that no vector moves keep the source of the same place (intra and skipped blocks). Of a block that leaves
    the frame, or comes from outside it, the pixels inside on both sides are carried.

    Args:
        records: (N, 20) int16, see `vector_records`.
        before, after: (H, W) int32, packed source coordinates.
    """
    np.copyto(after, before)  # not in the kernel: numba would copy element by element
    _carry_blocks(records, before, after)


@njit(cache=True, nogil=True)
def _carry_blocks(records: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
    height, width = before.shape
    for n in range(records.shape[0]):
        dx = int(records[n, _X]) - int(records[n, _SOURCE_X])
        dy = int(records[n, _Y]) - int(records[n, _SOURCE_Y])
        if dx == 0 and dy == 0:
            continue
        block_width, block_height = int(records[n, _SIZE]) & 0xFF, (int(records[n, _SIZE]) >> 8) & 0xFF
        left, top = int(records[n, _X]) - block_width // 2, int(records[n, _Y]) - block_height // 2
        first_x, behind_x = max(left, 0, dx), min(left + block_width, width, width + dx)
        first_y, behind_y = max(top, 0, dy), min(top + block_height, height, height + dy)
        for y in range(first_y, behind_y):
            for x in range(first_x, behind_x):
                after[np.uintp(y), np.uintp(x)] = before[np.uintp(y - dy), np.uintp(x - dx)]


def motion_vectors(sources: np.ndarray, mv: np.ndarray) -> None:
    """Writes displacements into `mv`, (H, W, 2) int16, contiguous, whole pixels, dst - src, x before y."""
    _write_displacements(sources, mv.view(np.int32)[..., 0])


@njit(cache=True, nogil=True)
def _write_displacements(sources: np.ndarray, packed: np.ndarray) -> None:
    # Both components in one store, x in the low half (little-endian): this loop becomes vector instructions.
    height, width = sources.shape
    for y in range(height):
        for x in range(width):
            source = sources[y, x]
            packed[y, x] = ((y - (source >> 16)) << 16) | ((x - (source & 0xFFFF)) & 0xFFFF)


@njit(cache=True, nogil=True)
def residuals(frame: np.ndarray, reference: np.ndarray, sources: np.ndarray, residual: np.ndarray) -> None:
    """Writes `frame` minus `reference` warped by `sources` into `residual`, (H, W, 3) int16.

    Args:
        frame, reference: (H, S) uint8, rows of interleaved RGB, S >= 3 W with whatever padding the decoder left.
        sources: (H, W) int32, packed source coordinates.
    """
    height, width = sources.shape
    for y in range(height):
        for x in range(width):
            source = sources[np.uintp(y), np.uintp(x)]
            row, column = np.uintp(source >> 16), np.uintp(3 * (source & 0xFFFF))
            for channel in range(3):
                residual[np.uintp(y), np.uintp(x), np.uintp(channel)] = np.int16(
                    frame[np.uintp(y), np.uintp(3 * x + channel)]
                ) - np.int16(reference[row, column + np.uintp(channel)])
