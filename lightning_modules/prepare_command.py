"""The command `streamkd prepare`: re-encodes and indexes the videos of an experiment before it trains."""

import json
import os
from dataclasses import asdict
from pathlib import Path

from datamodules.failure_ledger import TooManyBadVideosError
from datamodules.prepare import Prepared, folders_of, prepare_videos
from datamodules.shard import Shard
from datamodules.tolerance import check_tolerance, tolerated
from datamodules.video_data_module import VideoDataModule
from datamodules.whole_file import open_whole
from lightning_modules.data_command import data_parser, parse_data, print_failures

_DESCRIPTION = (
    "Index the videos of an experiment into `data.index_cache`, and re-encode those whose streams cannot be read as "
    "they are into `data.reencode_dir`. Continues where it was interrupted."
)


def prepare_data(args: list[str]) -> None:
    """Do what training would do when it opens each video for the first time; several machines share the work.

    Args:
        args: the command line, see `--help`.

    Raises:
        ValueError: the data have no cache, or an option is out of range.
        TooManyBadVideosError: more videos failed than are allowed; the report is written all the same.
    """
    parser = data_parser("prepare", _DESCRIPTION, VideoDataModule, splits="all")
    parser.add_argument(
        "--shard", type=str | None, default=None, help="i/n, i from 0. Default: by SLURM's or torchrun's environment."
    )
    parser.add_argument(
        "--max_failures", type=int | float, default=0, help="Videos that may fail, or (a float) a fraction of them."
    )
    options = parse_data(parser, args)
    check_tolerance("max_failures", options.max_failures)
    data: VideoDataModule = options.data
    source = data.reader.source
    if not folders_of(source):
        raise ValueError("data.index_cache, data.reencode_dir: expected a folder for one at least, got none")
    shard = Shard.parse(options.shard) if options.shard else Shard.from_environment(os.environ)
    splits = options.splits or ["train", "val", "test"]
    paths = sorted({record.path for split in splits for record in data.records(split)})
    mine = shard.of(paths)
    print(f"shard {shard}: {len(mine)} of {len(paths)} videos", flush=True)
    report = Path(folders_of(source)[0]) / f"prepare_{shard.index}_of_{shard.count}.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    prepared = prepare_videos(source, mine, num_workers=options.num_workers)
    _report(prepared, report)
    _check(prepared, len(mine), options.max_failures, report)


def _report(prepared: Prepared, file: Path) -> None:
    with open_whole(file) as stream:
        json.dump(asdict(prepared), stream, indent=1)
    print_failures(prepared.failures)
    print(
        f"{file}: {prepared.as_is} videos are read as they are, {prepared.made} re-encoded now, {prepared.kept} "
        f"before, {len(prepared.failures)} failed",
        flush=True,
    )


def _check(prepared: Prepared, total: int, limit: int | float, report: Path) -> None:
    failed, allowed = len(prepared.failures), tolerated(limit, total)
    if failed > allowed:
        raise TooManyBadVideosError(
            f"{failed} of {total} videos cannot be prepared, at most {allowed} may fail (--max_failures); see {report}"
        )
