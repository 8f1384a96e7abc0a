"""Opens a container for reading, whatever its metadata say and however large a picture its headers claim."""

import os

import av
from av.container import InputContainer

# 8192 x 4096, more than 8K video: a few bytes of header must not claim gigabytes.
MAX_PIXELS = 2**25
DECODER_LIMITS = {"max_pixels": str(MAX_PIXELS)}


def open_container(path: str | os.PathLike[str]) -> InputContainer:
    """The container at `path`, to be used in a `with` block.

    Raises:
        FFmpegError: it cannot be opened.
    """
    # Without the protocol, what stands before a colon in a name is taken for one.
    return av.open(f"file:{os.fspath(path)}", metadata_errors="ignore", options=DECODER_LIMITS)


def limit_decoder(stream: av.VideoStream) -> av.VideoCodecContext:
    """The stream's decoder, not yet open: bound to `MAX_PIXELS`, and to one thread.

    Frame threads would delay frames, race on exported vectors and not survive a fork.
    """
    context = stream.codec_context
    context.options = DECODER_LIMITS
    context.thread_count = 1
    return context
