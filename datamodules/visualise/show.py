"""The command `streamkd show`: a picture or an overlay video of what a compressed video holds."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress

from datamodules.bitstream import STREAMS, CompressedVideo, encode_frames
from datamodules.bitstream.frames import Reference
from datamodules.index_cache import IndexCache
from datamodules.video_source import ReencodeCache, VideoSource, default_reencode_dir
from datamodules.visualise.overlay import draw_overlay
from datamodules.visualise.sheet import draw_streams
from datamodules.whole_file import written_whole

_DPI = 160
_OVERLAY_SUFFIXES = (".mp4", ".mov")


def show(
    path: str,
    *,
    video: bool = False,
    gop: int | None = None,
    positions: int = 4,
    reference: Reference = "iframe",
    output: str | None = None,
) -> None:
    """Show what a compressed video holds: its frames, motion vectors and residuals, as a picture or a video.

    Args:
        path: the video; where its vectors cannot be read, it is re-encoded into the user's cache folder.
        video: write an MP4 that shows every frame, at the video's rate, instead of a picture of some of one GOP.
        gop: number of the GOP, from 0; if not given, the picture has the first one with P-frames, the MP4 has all.
        positions: P-frames in the picture, spread over the GOP.
        reference: what vectors and residuals refer to: the GOP's I-frame (accumulated), or the previous frame.
        output: the file to write, a picture of any kind that matplotlib saves or, with --video, an .mp4 or .mov;
            <name>_streams.png or .mp4 in the current folder if not given.

    Raises:
        UnreadableVideoError: the video cannot be decoded, or has one frame only.
        ValueError: an option out of range.
    """
    target = Path(output or f"{Path(path).stem}_streams{'.mp4' if video else '.png'}")
    _check_target(target, path, video)
    with _opened(path) as opened:
        if gop is not None and not 0 <= gop < len(opened.gops):
            raise ValueError(f"--gop: expected a number from 0 to {len(opened.gops) - 1}, got {gop}")
        name = Path(path).name if opened.path == path else f"{Path(path).name}, re-encoded"
        if video:
            _write_overlay(opened, target, gop=gop, reference=reference, name=name)
        else:
            figure = draw_streams(opened, gop=gop, num_positions=positions, reference=reference, name=name)
            with written_whole(target) as part:
                figure.savefig(part, dpi=_DPI)
    print(target, flush=True)


def _check_target(target: Path, path: str, video: bool) -> None:
    pictures = tuple(f".{kind}" for kind in Figure().canvas.get_supported_filetypes())
    suffixes = _OVERLAY_SUFFIXES if video else pictures
    if target.suffix.lower() not in suffixes:
        kind = "an overlay" if video else "a picture (--video makes an .mp4)"
        raise ValueError(f"--output {target}: expected for {kind} a name that ends in one of {', '.join(suffixes)}")
    if target.exists() and Path(path).exists() and target.samefile(path):
        raise ValueError(f"--output {target}: that is the video itself; choose another name")


@contextmanager
def _opened(path: str) -> Iterator[CompressedVideo]:
    """The video, or its re-encoding, of which one line tells."""
    indices = IndexCache()
    source = VideoSource(STREAMS, indices, ReencodeCache(default_reencode_dir()))
    console = Console(stderr=True)
    with console.status("reading"):
        video = source.open(path)
    if video.path != path:
        reason = indices.get(path).refusal(STREAMS)
        print(f"{path}: its vectors cannot be read ({reason}): shown from a re-encoding", file=sys.stderr, flush=True)
    with video:
        yield video


def _write_overlay(video: CompressedVideo, target: Path, *, gop: int | None, reference: Reference, name: str) -> None:
    gops = video.gops if gop is None else video.gops[gop : gop + 1]
    num_frames = sum(gop.length for gop in gops)
    rate = num_frames / sum(gop.duration for gop in gops)
    frames = draw_overlay(video, gop=gop, reference=reference, name=name)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        shown = progress.track(frames, total=num_frames, description=str(target))
        encode_frames(shown, target, frame_rate=rate, codec="h264")
