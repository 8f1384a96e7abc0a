"""Where a reader takes coded pictures from: slices of the file, or a container's packets where they are no slices."""

import os
from collections.abc import Iterator

import av

from datamodules.bitstream.coded_pictures import coded_pictures
from datamodules.bitstream.container import open_container
from datamodules.bitstream.headers import PictureParser
from datamodules.bitstream.index import VideoIndex


class FilePictures:
    """Coded pictures as slices of the file."""

    def __init__(self, path: str, index: VideoIndex) -> None:
        self._offsets, self._sizes = index.offsets, index.sizes
        self._file = open(path, "rb")  # noqa: SIM115 (closed by close)

    def read(self, first: int, behind: int) -> Iterator[av.Packet]:
        """Pictures `first` to `behind` - 1, each read when it is taken.

        Raises:
            OSError: the file ends before a picture does.
        """
        for offset, size in zip(self._offsets[first:behind].tolist(), self._sizes[first:behind].tolist(), strict=True):
            packet = av.Packet(size)
            if os.preadv(self._file.fileno(), [packet], offset) != size:
                raise OSError("the file has become shorter since it was indexed")
            yield packet

    def close(self) -> None:
        self._file.close()


class DemuxedPictures:
    """Coded pictures of a container that wraps them (MPEG-TS and the like), kept in memory after one pass."""

    def __init__(self, path: str, index: VideoIndex) -> None:
        with open_container(path) as container:
            parser = PictureParser(index.codec, index.extradata)
            self._data = [picture.data for picture in coded_pictures(container, parser)]

    def read(self, first: int, behind: int) -> Iterator[av.Packet]:
        """Pictures `first` to `behind` - 1."""
        return (_padded_packet(data) for data in self._data[first:behind])

    def close(self) -> None:
        self._data = []


def _padded_packet(data: bytes) -> av.Packet:
    # av.Packet(data) would lack the padding that decoders read past the end.
    packet = av.Packet(len(data))
    packet.update(data)
    return packet


def open_pictures(path: str, index: VideoIndex) -> FilePictures | DemuxedPictures:
    """The coded pictures of the video at `path`; close them."""
    return (FilePictures if index.is_sliceable else DemuxedPictures)(path, index)
