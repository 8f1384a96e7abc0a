"""Makes videos readable in the compressed domain: I- and P-frames, one reference, GOPs of a fixed length."""

from rich.progress import Progress

from datamodules.bitstream.encode import Codec, reencode


def reencode_video(
    source: str,
    target: str,
    *,
    codec: Codec = "mpeg4",
    gop_size: int = 12,
    size: tuple[int, int] | None = None,
    quality: int | None = None,
) -> None:
    """Re-encode one video so that its motion vectors can be read; timestamps are kept, sound is not.

    Args:
        source: any video that PyAV decodes.
        target: the .mp4 or .mov file to write.
        codec: mpeg4 (part 2) or h264.
        gop_size: frames from one I-frame to the next.
        size: width and height in pixels, both even; that of the source if not given.
        quality: less is better: quantiser 1..31 for mpeg4, CRF 0..51 for h264.

    Raises:
        UnreadableVideoError: `source` cannot be opened or decoded to its end.
        ValueError: an option out of range.
    """
    with Progress(transient=True) as progress:
        task = progress.add_task(target)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        reencode(source, target, codec=codec, gop_size=gop_size, size=size, quality=quality, progress=show)
    print(target, flush=True)
