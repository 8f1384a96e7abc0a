"""Where a reader takes coded pictures from: slices of the file, or a container's packets where they are no slices."""

import os
from collections.abc import Iterator

from datamodules.bitstream.coded_pictures import coded_pictures
from datamodules.bitstream.container import open_container
from datamodules.bitstream.headers import PictureParser
from datamodules.bitstream.index import VideoIndex


class FilePictures:
    """Coded pictures as slices of the file."""

    def __init__(self, path: str, index: VideoIndex) -> None:
        self._offsets, self._sizes = index.offsets, index.sizes
        self._file = open(path, "rb")  # noqa: SIM115 (closed by close)

    def read(self, first: int, behind: int) -> Iterator[memoryview]:
        """The bytes of pictures `first` to `behind` - 1, from one read."""
        starts, ends = self._offsets[first:behind], (self._offsets + self._sizes)[first:behind]
        start, end = int(starts.min()), int(ends.max())
        data = memoryview(os.pread(self._file.fileno(), end - start, start))
        return (data[a - start : b - start] for a, b in zip(starts.tolist(), ends.tolist(), strict=True))

    def close(self) -> None:
        self._file.close()


class DemuxedPictures:
    """Coded pictures of a container that wraps them (MPEG-TS and the like), kept in memory after one pass."""

    def __init__(self, path: str, index: VideoIndex) -> None:
        with open_container(path) as container:
            parser = PictureParser(index.codec, index.extradata)
            self._data = [picture.data for picture in coded_pictures(container, parser)]

    def read(self, first: int, behind: int) -> Iterator[bytes]:
        """The bytes of pictures `first` to `behind` - 1."""
        return iter(self._data[first:behind])

    def close(self) -> None:
        self._data = []


def open_pictures(path: str, index: VideoIndex) -> FilePictures | DemuxedPictures:
    """The coded pictures of the video at `path`; close them."""
    return (FilePictures if index.is_sliceable else DemuxedPictures)(path, index)
