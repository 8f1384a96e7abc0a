"""Opens a container for reading, whatever its metadata say and however large a picture its headers claim."""

import os

import av
from av.container import InputContainer

# 8192 x 4096, more than 8K video: a few bytes of header must not claim gigabytes.
MAX_PIXELS = 2**25
DECODER_LIMITS = {"max_pixels": str(MAX_PIXELS)}
# MP4 files whose first box names one of these are nothing else: FFmpeg need not try all the formats it knows.
_MP4_BRANDS = {b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"M4V "}


def open_container(path: str | os.PathLike[str], *, for_times: bool = False) -> InputContainer:
    """The container at `path`, to be used in a `with` block.

    Args:
        path: the file.
        for_times: only the times of packets matter: of MP4, whose tables tell them, none is decoded to find out more.

    Raises:
        FFmpegError: it cannot be opened.
    """
    # Without the protocol, what stands before a colon in a name is taken for one.
    name, known = f"file:{os.fspath(path)}", _known_format(path)
    options = DECODER_LIMITS | ({"skip_frame": "all"} if for_times and known else {})
    return av.open(name, format=known, metadata_errors="ignore", options=options)


def _known_format(path: str | os.PathLike[str]) -> str | None:
    """FFmpeg's name of the format where the first bytes tell it; None: it has to find out."""
    try:
        with open(path, "rb", buffering=0) as file:
            start = file.read(12)
    except OSError:
        return None
    return "mov" if start[4:8] == b"ftyp" and start[8:] in _MP4_BRANDS else None


def limit_decoder(stream: av.VideoStream) -> av.VideoCodecContext:
    """The stream's decoder, not yet open: bound to `MAX_PIXELS`, and to one thread.

    Frame threads would delay frames, race on exported vectors and not survive a fork.
    """
    context = stream.codec_context
    context.options = DECODER_LIMITS
    context.thread_count = 1
    return context
