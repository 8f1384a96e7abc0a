"""The Trainer's verbs, fit, validate, test and predict, on one stable run directory per experiment."""

import atexit
import sys
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar, RichProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, Namespace
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.csv_log import CsvLog
from callbacks.efficiency import Efficiency
from callbacks.fit_report import FitReport
from callbacks.partial_epoch import PartialEpoch
from callbacks.plain_progress import PlainProgress
from callbacks.prediction_writer import PredictionWriter
from callbacks.preemption import Preemption
from callbacks.run_checkpoints import RunCheckpoints
from callbacks.step_seeds import StepSeeds
from callbacks.test_report import TestReport
from datamodules.whole_file import open_whole
from lightning_modules.checkpoints import check_model
from lightning_modules.exit_networks_module import ExitNetworksModule
from lightning_modules.loggers import LoggerName, check_loggers, make_logger
from lightning_modules.run_directory import RunDirectory, RunFinished


class TrainerCLI(LightningCLI):
    """LightningCLI with a run directory: fit resumes by itself, the other verbs find the checkpoint.

    Construction runs the command. Top-level keys it adds are documented by `--help` and in configs/README.md.

    Args:
        args: command line, or None for that of the process.
        epilog: what `--help` ends with.
    """

    def __init__(self, args: list[str] | None = None, *, epilog: str | None = None) -> None:
        self.epilog = epilog
        atexit.register(_leave_process_group)
        super().__init__(
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_defaults={"deterministic": "warn", "log_every_n_steps": 10, "enable_model_summary": False},
            args=args,
        )

    @override
    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        return super().init_parser(**{"parser_mode": "omegaconf", "exit_on_error": False, **kwargs})

    @override
    def setup_parser(self, *args: Any) -> None:
        super().setup_parser(*args)
        self.parser.description = "Train, validate, test and use networks on compressed video."
        self.parser.epilog = self.epilog

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Without Lightning's warning about arguments given from Python."""
        self.config = parser.parse_args(args)  # type: ignore[arg-type]

    @override
    def _parse_ckpt_path(self) -> None:
        """Lightning would put the checkpoint's model in the place of the configured one, options and all."""

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run_dir", type=str, default="runs/default", help="The experiment's directory.")
        parser.add_argument(
            "--overwrite", type=bool, default=False, help="fit: discard what run_dir holds and start anew."
        )
        parser.add_argument(
            "--monitor", type=str | None, default="val/top1", help="Metric that chooses best.ckpt; null: the last."
        )
        parser.add_argument("--monitor_mode", type=Literal["max", "min"], default="max", help="What is better.")
        parser.add_argument(
            "--checkpoint_every_n_steps",
            type=int,
            default=200,
            help="Optimizer steps between saves of last.ckpt within an epoch; 0: at epoch ends only.",
        )
        parser.add_argument(
            "--logger",
            type=LoggerName | list[LoggerName] | None,
            default=None,
            help="Loggers beside metrics.csv: tensorboard, wandb, wandb+checkpoints (and best.ckpt), or a list.",
        )

    def option(self, name: str) -> Any:
        """A value of the configuration of the verb that runs, by its dotted key."""
        return self.config[self.subcommand][name]

    @override
    def before_instantiate_classes(self) -> None:
        """Settle run directory and checkpoint from the configuration alone, before data or networks are touched."""
        self.run_directory = RunDirectory(Path(self.option("run_dir")).expanduser())
        check_loggers(self._logger_names())
        if self.subcommand != "fit":
            which = self.option("ckpt_path")
            self.config[self.subcommand].ckpt_path = str(self.run_directory.checkpoint(which))
        elif not self.option("trainer.fast_dev_run"):
            self._prepare_fit()
        if (checkpoint := self.option("ckpt_path")) is not None:
            check_model(checkpoint, self.option("model"))

    def _prepare_fit(self) -> None:
        """Refuse another experiment's directory, stop if this one is finished, and choose where to resume from.

        Every rank comes to the same conclusions; rank zero alone writes.
        """
        options, run, text = self.config.fit, self.run_directory, self._config_to_save()
        if run.last.is_file() and not options.overwrite:
            run.check_same(yaml.safe_load(text))
            if run.is_finished(options.trainer.max_epochs):
                raise RunFinished(
                    f"{run.path} is finished; more --trainer.max_epochs continue it, --overwrite true redoes it"
                )
        self._claim_run_directory(text)
        if options.ckpt_path is not None:
            options.ckpt_path = str(run.checkpoint(options.ckpt_path))
        elif run.last.is_file() and not options.overwrite:
            options.ckpt_path = str(run.last)
            rank_zero_only(print)(f"resuming from {run.last}", flush=True)

    @rank_zero_only
    def _claim_run_directory(self, config: str) -> None:
        if self.option("overwrite"):
            self.run_directory.clear()
        self.run_directory.fit_report.unlink(missing_ok=True)
        with open_whole(self.run_directory.config) as file:
            file.write(config)

    def _config_to_save(self) -> str:
        """The whole configuration of the verb as YAML, but for what concerns one process of the run only."""
        config = self.config[self.subcommand].clone()
        config.overwrite, config.ckpt_path = False, None
        return self._parser(self.subcommand).dump(config, skip_none=False)

    def before_fit(self) -> None:
        """Networks of other runs are read before DistributedDataParallel, which refuses a module that has none yet."""
        if isinstance(self.model, ExitNetworksModule) and self.option("ckpt_path") is None:
            self.model.load_sources()

    @override
    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        given = self._get(self.config_init, "trainer")
        # Deterministic mode also fills new memory, which guards against faulty kernels and takes 8 % of a demo step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        trainer = super().instantiate_trainer(
            default_root_dir=str(self.run_directory.path),
            logger=self._loggers(given["logger"]),
            callbacks=[*as_list(given["callbacks"]), *self._callbacks(given)],
            **kwargs,
        )
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer

    def _loggers(self, given: Any) -> list[Logger]:
        """metrics.csv for fit, those of the key `logger`, and the Trainer's own."""
        if self.option("trainer.fast_dev_run"):
            return []
        own: list[Logger] = [CsvLog(self.run_directory.path)] if self.subcommand == "fit" else []
        names = self._logger_names()
        config = yaml.safe_load(self._config_to_save()) if names else {}
        named = [make_logger(name, self.run_directory, config) for name in names]
        return [*own, *named, *(as_list(given) if not isinstance(given, bool) else [])]

    def _logger_names(self) -> list[LoggerName]:
        """Those of the key `logger`; `predict` and a trial by `trainer.fast_dev_run` log nothing."""
        is_silent = self.subcommand == "predict" or self.option("trainer.fast_dev_run")
        return [] if is_silent else as_list(self.option("logger"))

    def _callbacks(self, trainer: Namespace) -> list[pl.Callback]:
        """The callbacks every run has, beside those of `trainer.callbacks`."""
        run = self.run_directory
        callbacks: list[pl.Callback] = []
        if trainer["enable_progress_bar"] is not False and not _has_progress_bar(trainer["callbacks"]):
            callbacks.append(RichProgressBar() if sys.stdout.isatty() else PlainProgress())
        if trainer["fast_dev_run"]:
            return [*callbacks, StepSeeds(self.option("seed_everything"))]
        if self.subcommand == "fit":
            return [*callbacks, *self._fit_callbacks()]
        if self.subcommand == "predict":
            return [*callbacks, PredictionWriter(run.predictions)]
        return [*callbacks, TestReport(run.path), Efficiency(run.path)]

    def _fit_callbacks(self) -> list[pl.Callback]:
        run = self.run_directory
        checkpoints = RunCheckpoints(
            run.checkpoints,
            monitor=self.option("monitor"),
            mode=self.option("monitor_mode"),
            every_n_steps=self.option("checkpoint_every_n_steps"),
        )
        seeds = StepSeeds(self.option("seed_everything"))
        report = FitReport(run.fit_report)
        return [seeds, LearningRateMonitor(), PartialEpoch(), report, checkpoints, Preemption(checkpoints)]

    def predict(self, **kwargs: Any) -> None:
        """Predict without keeping the outputs in memory: PredictionWriter has them."""
        self.trainer.predict(**{**kwargs, "return_predictions": False})


def _leave_process_group() -> None:
    """Lightning does so for NCCL alone; threads of gloo may abort a process that ends with them."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def as_list(value: Any) -> list[Any]:
    """Of an option that is one thing, several or none."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _has_progress_bar(callbacks: Any) -> bool:
    return any(isinstance(callback, ProgressBar) for callback in as_list(callbacks))
