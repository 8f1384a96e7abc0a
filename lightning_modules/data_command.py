"""Commands that prepare an experiment's data before it trains: they take the file and the options of `fit`."""

import sys
from collections.abc import Iterable
from typing import Any, Literal

from jsonargparse import SUPPRESS, ActionConfigFile, ArgumentParser, Namespace

from datamodules.failure import Failure
from datamodules.video_data_module import VideoDataModule

Split = Literal["train", "val", "test"]

# Keys of experiments that say nothing about data.
OTHER_KEYS = (
    *("model", "trainer", "run_dir", "overwrite", "seed_everything", "monitor", "monitor_mode"),
    *("checkpoint_every_n_steps", "logger", "ckpt_path", "weights_only"),
)


def data_parser(command: str, description: str, data: type[VideoDataModule], *, splits: str) -> ArgumentParser:
    """A parser of an experiment's data, to which a command adds options of its own.

    Args:
        command: its name.
        description: what it does.
        data: the data modules that it is for.
        splits: what the default of the option `splits`, None, means.
    """
    parser = ArgumentParser(
        prog=f"streamkd {command}", description=description, parser_mode="omegaconf", exit_on_error=False
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of the experiment.")
    parser.add_subclass_arguments(data, "data", required=True)
    parser.add_argument("--splits", type=list[Split] | None, default=None, help=f"Default: {splits}.")
    parser.add_argument("--num_workers", type=int | None, default=None, help="Processes. Default: one per CPU.")
    for key in OTHER_KEYS:
        parser.add_argument(f"--{key}", type=Any, help=SUPPRESS)
    return parser


def parse_data(parser: ArgumentParser, args: list[str]) -> Namespace:
    """The options, `data` as a data module; nothing else is built."""
    options = parser.parse_args(args)
    for key in OTHER_KEYS:
        options.pop(key, None)
    return parser.instantiate(options)


def print_failures(failures: Iterable[Failure]) -> None:
    """One line each, on stderr."""
    for failure in failures:
        print(f"unreadable video: {failure}", file=sys.stderr, flush=True)
