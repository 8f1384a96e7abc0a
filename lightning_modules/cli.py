"""The command `streamkd`, also called `lightning`: the Trainer's verbs, and plain commands beside them.

    streamkd fit|validate|test|predict --config configs/demo/mv.yaml [--key value ...]
    streamkd demo-data|report|show ...

Exit status: 0 done, 1 an error that is explained in one line, 130 interrupted, 143 terminated. An error nobody
foresaw keeps its traceback. STREAMKD_TRACEBACK=1 shows the traceback of every error. In a W&B sweep, an interrupted or
terminated run ends by the signal itself.
"""

import importlib
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from lightning_modules.freed_memory import keep_freed_memory
from lightning_modules.idle_threads import let_idle_threads_sleep
from lightning_modules.run_directory import RunFinished

EXPECTED = (ArgumentError, ValueError, OSError, ModuleNotFoundError)
# By name, to spare plain commands the imports.
EXPECTED_NAMES = {
    "MisconfigurationException",
    "UnreadableVideoError",
    "TooManyBadVideosError",
    "UsageError",
    "UnpicklingError",
}
# How jsonargparse begins a message around another.
PARSER_KEY = re.compile(r'Parser key "([^"]+)"')
WRAPPED = re.compile(r"Parser key |Does not validate against any of the Union subtypes|Problem with given class_path ")
VERBS = ("fit", "validate", "test", "predict")
OUR_PACKAGES = ("lightning_modules", "datamodules", "callbacks")
QUIET_WARNINGS = (
    r".*LeafSpec.*deprecated",
    r".*does not have many workers",
    r".*smaller than the logging interval",  # metrics are logged at the ends of epochs as well
    r"Found \d+ module\(s\) in eval mode",  # frozen networks are meant to be
    r".*callbacks used to create the checkpoint need to be provided",  # those of fit, at test
)
TRACEBACK = "STREAMKD_TRACEBACK"
SWEEP = "WANDB_SWEEP_ID"  # set by `wandb agent`
BY_SIGNAL = 128  # an exit status above it names a signal


@dataclass(frozen=True)
class Command:
    """A plain command: `function` is imported when it runs; its signature becomes the options.

    Args:
        function: module and name.
        summary: one line.
        is_positional: whether required parameters are given by their place instead of by name.
        takes_arguments: whether the function takes the list of arguments as it is, and parses it itself.
    """

    function: str
    summary: str
    is_positional: bool = False
    takes_arguments: bool = False

    def load(self) -> Callable[..., Any]:
        module, name = self.function.rsplit(".", 1)
        return getattr(importlib.import_module(module), name)


COMMANDS = {
    "attention": Command(
        "lightning_modules.visual_comparison.compare_attention",
        "Draw where in their frames networks are active, several runs side by side.",
    ),
    "cost": Command("lightning_modules.cost_command.print_cost", "Count what an experiment's networks compute."),
    "demo-data": Command("datamodules.demo.make_demo_data", "Make the demo's videos."),
    "export": Command(
        "lightning_modules.export_command.export_networks",
        "Write trained networks as files that other programs run: ONNX, torch.export.",
    ),
    "flatness": Command(
        "lightning_modules.flatness_comparison.compare_flatness", "Draw measured flatness of several runs side by side."
    ),
    "flow": Command(
        "lightning_modules.flow_command.fill_flow_cache",
        "Compute optical flow before an experiment trains.",
        takes_arguments=True,
    ),
    "kinetics-subset": Command(
        "datamodules.annotations.kinetics_subset.write_subset", "Write the list of a seeded part of Kinetics-400."
    ),
    "prepare": Command(
        "lightning_modules.prepare_command.prepare_data",
        "Re-encode and index an experiment's videos before it trains.",
        takes_arguments=True,
    ),
    "receptive-field": Command(
        "lightning_modules.visual_comparison.compare_receptive_fields",
        "Draw effective receptive fields of several runs side by side.",
    ),
    "reencode": Command("datamodules.reencode_video.reencode_video", "Re-encode a video whose vectors cannot be read."),
    "report": Command("lightning_modules.report.write_report", "Write one HTML page about finished runs."),
    "reproduce": Command(
        "lightning_modules.reproduce.reproduce",
        "Run the experiments on a data set in order, and compare them with what papers report.",
        is_positional=True,
    ),
    "resolutions": Command(
        "lightning_modules.resolution_comparison.compare_resolutions",
        "Draw accuracy over resolution and cost, of runs trained at several.",
    ),
    "results": Command("lightning_modules.results.write_results", "Write a table of finished runs into a README."),
    "show": Command("datamodules.visualise.show.show", "Show what a compressed video holds.", is_positional=True),
    "trade-off": Command(
        "lightning_modules.trade_off_comparison.compare_trade_offs",
        "Draw accuracy against cost of early exits, several tests side by side.",
    ),
}


def main(args: list[str] | None = None) -> None:
    """Run one command.

    Args:
        args: the command line without the program's name; None takes that of the process.
    """
    args = sys.argv[1:] if args is None else args
    sys.path.append(os.getcwd())
    try:
        _run(args)
    except BaseException as error:
        status = _explain(error)
        if status > BY_SIGNAL and SWEEP in os.environ:
            _end_by_signal(status)
        if status:
            sys.exit(status)


def _end_by_signal(status: int) -> None:
    """A run that its sweep stops is none that failed; an agent gives up after five with a positive exit status."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown(status)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    signal.signal(status - BY_SIGNAL, signal.SIG_DFL)
    os.kill(os.getpid(), status - BY_SIGNAL)


def _run(args: list[str]) -> None:
    name = next(iter(args), "")
    if not name.startswith("-") and name not in [*VERBS, *COMMANDS]:
        raise ValueError(f"expected a command, one of {', '.join([*VERBS, *COMMANDS])}; got {name or 'none'}")
    quiet_warnings()
    if name in COMMANDS:
        _run_plain(name, args[1:])
        return
    let_idle_threads_sleep()
    # Imported late: Lightning takes seconds that plain commands need not wait for.
    from lightning_modules.trainer_cli import TrainerCLI

    quiet_loggers()
    keep_freed_memory()
    TrainerCLI(args, epilog=f"plain commands, each with its own --help: {', '.join(COMMANDS)}")


def _run_plain(name: str, args: list[str]) -> None:
    command = COMMANDS[name]
    function = command.load()
    if command.takes_arguments:
        function(args)
        return
    parser = ArgumentParser(prog=f"streamkd {name}", description=command.summary, exit_on_error=False)
    parser.add_function_arguments(function, as_group=False, as_positional=command.is_positional, sub_configs=True)
    function(**parser.instantiate(parser.parse_args(_with_values(args, function))))


def _with_values(args: list[str], function: Callable[..., Any]) -> list[str]:
    """`--video` becomes `--video=true` where a parameter is a bool and no value follows."""
    flags = {f"--{name}" for name, parameter in signature(function).parameters.items() if parameter.annotation is bool}
    return [
        f"{arg}=true" if arg in flags and following not in ("true", "false") else arg
        for arg, following in pairwise([*args, ""])
    ]


def quiet_warnings() -> None:
    """Silence what Lightning and PyTorch warn of in every run, and what is meant to be so here."""
    for message in QUIET_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def quiet_loggers() -> None:
    """Silence what Lightning says of every run; when it is imported, it sets these levels itself."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _explain(error: BaseException) -> int:
    """Say what went wrong, in one line where the error explains itself; returns the exit status."""
    if isinstance(error, SystemExit):
        return _exit_status(error)
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, RunFinished):
        print(error, flush=True)
        return 0
    if os.environ.get(TRACEBACK) == "1" or not _is_expected(error):
        traceback.print_exception(error)
    else:
        print(f"error: {_one_line(error)}", file=sys.stderr, flush=True)
    return 1


def _exit_status(error: SystemExit) -> int:
    """Lightning exits with 1 on Ctrl-C and with 0 when terminated; shells expect 130 and 143."""
    if type(error).__name__ == "SIGTERMException":
        return 143
    if isinstance(error.__context__, KeyboardInterrupt):
        return 130
    if isinstance(error.code, str):
        print(error.code, file=sys.stderr, flush=True)
    return error.code if isinstance(error.code, int) else int(error.code is not None)


def _is_expected(error: BaseException) -> bool:
    """Errors about what the user gave: a configuration, a file, a missing package, another network's weights."""
    if isinstance(error, EXPECTED) or EXPECTED_NAMES.intersection(cls.__name__ for cls in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and str(error).startswith("Error(s) in loading state_dict")


def _one_line(error: BaseException) -> str:
    """The message without line breaks; where it was not written by us, with how to see more."""
    keys, reason = _reason(error)
    explained = isinstance(error, ArgumentError) or _raised_by_us(reason)
    hint = "" if explained else f" ({TRACEBACK}=1 shows where)"
    if isinstance(error, ArgumentError) and SWEEP in os.environ:
        hint = "; if it is a parameter of the sweep, correct it in the sweep's file (--print_config shows every key)"
    return " ".join([*keys, *str(reason).split()]) + hint


def _reason(error: BaseException) -> tuple[list[str], BaseException]:
    """What jsonargparse wraps in the whole configuration: ("model.lr_interval:", the innermost error)."""
    keys: list[str] = []
    while error.__cause__ is not None and WRAPPED.match(str(error)):
        match = PARSER_KEY.match(str(error))
        if match and match[1] not in keys[-1:]:
            keys.append(match[1])
        error = error.__cause__
    return [f"{'.'.join(keys)}:"] if keys else [], error


def _raised_by_us(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and not set(OUR_PACKAGES).isdisjoint(Path(frames[-1].filename).parts)
