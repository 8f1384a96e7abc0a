"""The command `streamkd flow`: computes the optical flow of an experiment's videos before it trains."""

import sys
from typing import Any, Literal

from jsonargparse import SUPPRESS, ActionConfigFile, ArgumentParser

from datamodules.compressed_video import CompressedVideoDataModule
from datamodules.fill_flow import FilledFlow, fill_flow

Split = Literal["train", "val", "test"]

# Keys of experiments that say nothing about data.
_OTHER_KEYS = (
    *("model", "trainer", "run_dir", "overwrite", "seed_everything", "monitor", "monitor_mode"),
    *("checkpoint_every_n_steps", "logger", "ckpt_path", "weights_only"),
)


def fill_flow_cache(args: list[str]) -> None:
    """Compute and keep the optical flow that an experiment's data need; continues where it was interrupted.

    Args:
        args: the command line, see `--help`.

    Raises:
        ValueError: the data read no flow, or have no cache for it.
        ModuleNotFoundError: OpenCV is not there.
    """
    options = _parser().parse_args(args)
    for key in _OTHER_KEYS:  # not to be built
        options.pop(key, None)
    data: CompressedVideoDataModule = _parser().instantiate(options).data
    splits = options.splits or _splits_with_flow(data)
    paths = [record.path for split in splits for record in data.records(split)]
    filled = fill_flow(data.reader, paths, num_workers=options.num_workers)
    _report(filled, data)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="streamkd flow",
        description="Compute the optical flow of an experiment's videos before it trains, into `data.flow.cache`.",
        parser_mode="omegaconf",
        exit_on_error=False,
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of the experiment.")
    parser.add_subclass_arguments(CompressedVideoDataModule, "data", required=True)
    parser.add_argument("--splits", type=list[Split] | None, default=None, help="Default: those that are read as flow.")
    parser.add_argument("--num_workers", type=int | None, default=None, help="Processes. Default: one per CPU.")
    for key in _OTHER_KEYS:
        parser.add_argument(f"--{key}", type=Any, help=SUPPRESS)
    return parser


def _splits_with_flow(data: CompressedVideoDataModule) -> list[Split]:
    """Privileged flow is read in fit alone."""
    return [data.fit_split] if "flow" in data.privileged else ["train", "val", "test"]


def _report(filled: FilledFlow, data: CompressedVideoDataModule) -> None:
    for failure in filled.failures:
        print(f"unreadable video: {failure}", file=sys.stderr, flush=True)
    print(
        f"{data.reader.flow.cache}: optical flow of {filled.made + filled.kept} videos, {filled.made} made now, "
        f"{len(filled.failures)} unreadable, {filled.num_bytes / 1e9:.3g} GB",
        flush=True,
    )
