"""What is wrong with a chain of experiments that would show only when long work has been done."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser
from typing_extensions import override

from datamodules.annotations import SPLITS, Annotations
from lightning_modules.chain import Step
from lightning_modules.loggers import check_loggers
from lightning_modules.trainer_cli import TrainerCLI, as_list


def check_steps(steps: Sequence[Step]) -> None:
    """Check options, data, classes and loggers of the fits among some steps; nothing is trained, no video opened.

    Raises:
        ArgumentError: an option that an experiment does not have, or a wrong value.
        FileNotFoundError: the data set, one of its lists or too many of its videos are not there.
        ValueError: lists of other sizes than the official ones, or networks that tell other classes apart.
        ModuleNotFoundError: OpenCV, which computes flow, is not there.
        RunError: a logger's package is not there, or W&B knows no key.
    """
    if any(step.command[0] == "flow" for step in steps) and find_spec("cv2") is None:
        raise ModuleNotFoundError(
            "optical flow needs OpenCV: `pip install 'streamkd[flow]'`, or name others than what learns from flow in "
            "--experiments"
        )
    configs = {step: _parse(step.command) for step in steps if step.command[0] == "fit"}
    check_loggers(sorted({name for config in configs.values() for name in as_list(config.logger)}))
    known: dict[str, int] = {}
    for step, config in configs.items():
        _check_classes(step, config, known)


def _check_classes(step: Step, config: Namespace, known: dict[str, int]) -> None:
    """`known`: number of classes by annotations, each of which is read once."""
    annotations = config.data.init_args.annotations
    if str(annotations) not in known:
        known[str(annotations)] = _num_classes(annotations)
    came, expected = known[str(annotations)], config.model.init_args.get("network.init_args.num_classes", None)
    if expected not in (None, came):
        raise ValueError(
            f"{step.command[2]}: its network tells {expected} classes apart, {annotations.init_args.root} has {came}; "
            "correct `model.network.num_classes` there, or the data"
        )


def _num_classes(config: Namespace) -> int:
    """Of annotations that list something for every split."""
    root = config.init_args.root
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected that of the data set (--data, make's DATA)")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--annotations", type=Annotations)
    options = {"class_path": config.class_path, "init_args": config.init_args.as_dict()}
    annotations = parser.instantiate(parser.parse_object({"annotations": options})).annotations
    try:
        for split in SPLITS:
            annotations.records(split)
    except FileNotFoundError as error:
        layout = "expected the layout that configs/README.md has under `Data sets`"
        raise FileNotFoundError(f"{error}; {layout}, below {root} (--data, make's DATA)") from error
    return len(annotations.classes)


class _Parsed(Exception):
    """Carries a configuration out of a command that stops there."""


class _OptionsAlone(TrainerCLI):
    """Parses the command line of a fit, and stops."""

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        raise _Parsed(self.config.fit)


def _parse(command: Sequence[str]) -> Any:
    try:
        _OptionsAlone(list(command))
    except _Parsed as parsed:
        return parsed.args[0]
