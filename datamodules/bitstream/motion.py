"""Motion vectors and residuals as CoViAR defines them, from the vectors that a decoder exports.

Wu et al., "Compressed Video Action Recognition", CVPR 2018, section 3.1 and its public loader. One plane of source
coordinates is carried from frame to frame; motion vectors and residuals are derived from it only where asked:

    source[y, x] = (sy << 16) | sx        the pixel of the reference frame that (x, y) is predicted from
    mv[y, x]     = (x - sx, y - sy)
    residual     = frame[y, x] - reference[sy, sx]
"""

import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.frame import VideoFrame
from numba import njit

from datamodules.bitstream.memory_copy import copy_bytes

# FFmpeg's AVMotionVector as int16: width and height of a block (packed), its source's and its own centre.
_RECORD_INT16 = 20
_SIZE, _SOURCE_X, _SOURCE_Y, _X, _Y = 2, 3, 4, 5, 6
_PAGE = 4096 // 4  # of int32
_RUN = 16  # pixels: a macroblock's row


def vector_records(frame: VideoFrame) -> np.ndarray:
    """(N, 20) int16 view of the `MOTION_VECTORS` that a frame exports; N is 0 where it has none."""
    # Not `frame.side_data`: it ties frame and container into a cycle, and pictures pile up until it is collected.
    side_data = SideDataContainer(frame).get("MOTION_VECTORS")  # type: ignore[call-arg]  # its stub lacks __init__
    if side_data is None:
        return np.empty((0, _RECORD_INT16), np.int16)
    return np.frombuffer(memoryview(side_data), np.int16).reshape(-1, _RECORD_INT16)


class SourcePlane:
    """Where every pixel of a frame comes from in the reference frame; at first, from its own place.

    Args:
        height, width: of the frames, pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        self._planes = _two_planes(height, width)
        self.reset()

    def reset(self) -> None:
        """Makes the current frame the reference frame."""
        self._pending: list[np.ndarray] = []
        _write_identity(self._planes[0])

    def copy(self) -> "SourcePlane":
        """The sources as they are now."""
        copied = SourcePlane(*self._sources.shape)
        np.copyto(copied._sources, self._sources)
        return copied

    def advance(self, records: np.ndarray) -> None:
        """Carries the sources over a P-frame's vectors, (N, 20) int16, see `vector_records`.

        Pixels that no vector moves keep their source (intra and skipped blocks). Of a block that leaves the frame,
        or comes from outside it, the pixels inside on both sides are carried.
        """
        # Only when sources are asked for: decoder and planes push one another out of the processor's cache.
        self._pending.append(records.copy())

    @property
    def _sources(self) -> np.ndarray:
        """(H, W) int32, packed coordinates."""
        sources, moved = self._planes
        for records in self._pending:
            _take_blocks(records, sources, moved)
            _put_blocks(records, moved, sources)
        self._pending.clear()
        return sources

    def motion_vectors(self, mv: np.ndarray) -> None:
        """Writes displacements into `mv`, (H, W, 2) int16, contiguous, whole pixels, dst - src, x before y."""
        _write_displacements(self._sources, mv.view(np.int32)[..., 0])

    def residuals(self, frame: np.ndarray, reference: np.ndarray, residual: np.ndarray) -> None:
        """Writes `frame` minus the warped `reference` into `residual`, (H, W, 3) int16, contiguous.

        Args:
            frame, reference: (H, S) uint8, rows of interleaved RGB, S >= 3 W with whatever padding the decoder left.
        """
        height, width, _ = residual.shape
        _write_residuals(frame, reference, self._sources, residual.reshape(height, 3 * width))


def _two_planes(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Two (H, W) int32, half a page out of step: reads that share a page offset with a late write wait for it."""
    behind = height * width
    second = -(-behind // _PAGE) * _PAGE + _PAGE // 2
    memory = np.empty(second + behind, np.int32)
    return memory[:behind].reshape(height, width), memory[second:].reshape(height, width)


@njit(cache=True, nogil=True)
def _write_identity(sources: np.ndarray) -> None:
    height, width = sources.shape
    for y in range(height):
        for x in range(width):
            sources[y, x] = (y << 16) | x


@njit(inline="always")
def _block(record: np.ndarray, height: int, width: int) -> tuple[int, int, int, int, int, int]:
    """A block's displacement (dx, dy), and the pixels from (left, top) to before (right, bottom) that it moves."""
    dx, dy = int(record[_X]) - int(record[_SOURCE_X]), int(record[_Y]) - int(record[_SOURCE_Y])
    block_width, block_height = int(record[_SIZE]) & 0xFF, (int(record[_SIZE]) >> 8) & 0xFF
    left, top = int(record[_X]) - block_width // 2, int(record[_Y]) - block_height // 2
    right, bottom = min(left + block_width, width, width + dx), min(top + block_height, height, height + dy)
    if dx == 0 and dy == 0:
        right = left
    return dx, dy, max(left, 0, dx), max(top, 0, dy), right, bottom


@njit(inline="always")
def _copy_block(source: np.ndarray, first: int, target: np.ndarray, place: int, columns: int, rows: int) -> None:
    """Copies rows of pixels between two planes; `first` and `place` are the numbers of their first pixels."""
    step = 4 * source.shape[1]
    from_address, to_address = source.ctypes.data + 4 * first, target.ctypes.data + 4 * place
    for row in range(rows):
        if columns == 16:  # the same, of a size that the compiler knows: one load and one store
            copy_bytes(to_address + row * step, from_address + row * step, 64)
        else:
            copy_bytes(to_address + row * step, from_address + row * step, 4 * columns)


@njit(cache=True, nogil=True)
def _take_blocks(records: np.ndarray, sources: np.ndarray, moved: np.ndarray) -> None:
    """Writes what moves to its new place in `moved`."""
    height, width = sources.shape
    for n in range(records.shape[0]):
        dx, dy, left, top, right, bottom = _block(records[n], height, width)
        if left < right:
            first, place = (top - dy) * width + left - dx, top * width + left
            _copy_block(sources, first, moved, place, right - left, bottom - top)


@njit(cache=True, nogil=True)
def _put_blocks(records: np.ndarray, moved: np.ndarray, sources: np.ndarray) -> None:
    """Copies what moved back from `moved`."""
    height, width = sources.shape
    for n in range(records.shape[0]):
        _, _, left, top, right, bottom = _block(records[n], height, width)
        if left < right:
            place = top * width + left
            _copy_block(moved, place, sources, place, right - left, bottom - top)


@njit(cache=True, nogil=True)
def _write_displacements(sources: np.ndarray, packed: np.ndarray) -> None:
    # Both components in one store, x in the low half (little-endian): this loop becomes vector instructions.
    height, width = sources.shape
    for y in range(height):
        for x in range(width):
            source = sources[y, x]
            packed[y, x] = ((y - (source >> 16)) << 16) | ((x - (source & 0xFFFF)) & 0xFFFF)


@njit(cache=True, nogil=True)
def _write_residuals(frame: np.ndarray, reference: np.ndarray, sources: np.ndarray, residual: np.ndarray) -> None:
    # A warped row first, then the difference of whole rows, which becomes vector instructions.
    height, values = residual.shape
    warped = np.empty(values, np.uint8)
    for y in range(height):
        _warp_row(reference, sources[y], warped)
        for i in range(values):
            residual[np.uintp(y), np.uintp(i)] = np.int16(frame[np.uintp(y), np.uintp(i)]) - np.int16(
                warped[np.uintp(i)]
            )


@njit(inline="always")
def _warp_row(reference: np.ndarray, sources: np.ndarray, warped: np.ndarray) -> None:
    """Writes the pixels of `reference` that a row's `sources`, (W,), name into `warped`, (3 W,)."""
    width = sources.shape[0]
    x = 0
    while x < width:
        if x + _RUN <= width and _is_run(sources, x):
            _copy_pixels(reference, sources[x], warped, x, _RUN)
            x += _RUN
        else:
            for column in range(x, min(x + _RUN, width)):
                _copy_pixels(reference, sources[np.uintp(column)], warped, column, 1)
            x += _RUN


@njit(inline="always")
def _is_run(sources: np.ndarray, x: int) -> bool:
    """Whether 16 pixels from `x` come from 16 pixels side by side."""
    first = sources[np.uintp(x)]
    if sources[np.uintp(x + _RUN - 1)] != first + _RUN - 1:
        return False
    difference = np.int32(0)
    for k in range(_RUN):
        difference |= sources[np.uintp(x + k)] ^ (first + np.int32(k))
    return difference == 0


@njit(inline="always")
def _copy_pixels(reference: np.ndarray, source: int, warped: np.ndarray, x: int, count: int) -> None:
    offset = (source >> 16) * reference.shape[1] + 3 * (source & 0xFFFF)
    copy_bytes(warped.ctypes.data + 3 * x, reference.ctypes.data + offset, 3 * count)
