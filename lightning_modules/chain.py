"""The experiments that reproduce what papers report on a data set, as the commands that a user would type.

`configs/<data set>/chain.yaml` names them in order, each with the paper's figure. The rest follows from their files:

    prepare --> for each experiment: fit --> test --> table
       ^           ^ flow, before the first that reads a cache of it
       where what is prepared has a folder

Whatever in a file names a run of the data set, `runs/<data set>/...`, is moved to the runs of the chain at hand, so
that each experiment finds the networks that those before it leave.
"""

import hashlib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.annotations.groups import check_share
from datamodules.whole_file import open_whole
from lightning_modules.cli import VERBS
from lightning_modules.configured_network import lookup
from lightning_modules.experiment_file import options_of, read_experiment
from lightning_modules.run_directory import RunDirectory

CONFIGS = Path("configs")
# Share of the videos that may be unreadable, as in training (`data.max_bad_videos`).
_MAX_FAILURES = 0.05
# Folders of what is prepared.
_PREPARED = ("index_cache", "reencode_dir")
# What a rehearsal has fewer of.
_EPOCHS = {"trainer.max_epochs", "trainer.check_val_every_n_epoch", "model.stages.lengths"}
_EPOCHS |= {"model.lr_scheduler.T_max", "model.lr_scheduler.milestones"}


@dataclass(frozen=True)
class Experiment:
    """One experiment of a chain.

    Args:
        name: of its run directory.
        config: its file; in chain.yaml its stem, which is the name if it is not given.
        options: in which it differs from the file, by their names on the command line.
        paper: what is reported for it in percent, if anything is.
        source: who reports it.
    """

    name: str
    config: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    paper: float | None = None
    source: str = ""


def read_chain(data_set: str, configs: Path = CONFIGS) -> list[Experiment]:
    """The experiments of `configs/<data_set>/chain.yaml`, in order.

    Raises:
        ValueError: there is no such file.
    """
    path = configs / data_set / "chain.yaml"
    if not path.is_file():
        known = ", ".join(sorted(found.parent.name for found in configs.glob("*/chain.yaml"))) or f"none in {configs}"
        raise ValueError(f"{path}: no such chain of experiments; expected a data set that has one: {known}")
    entries = {name: {"config": name, **(entry or {})} for name, entry in read_experiment(path).items()}
    return [Experiment(name, path.parent / f"{entry.pop('config')}.yaml", **entry) for name, entry in entries.items()]


@dataclass(frozen=True)
class Step:
    """One command of a chain, and how to see that it is done.

    Before it starts, `record` is written, unless it is there: its command, and what its files say. It is done as soon
    as `product` is no older than that.

    Args:
        command: without the program's name.
        product: the file whose presence says that the command has done its work.
        record: the file that tells what `product` was made by.
        files: digest of the files that the command reads its options from.
        after: what `product` must not be older than either.
    """

    command: tuple[str, ...]
    product: Path
    record: Path
    files: str
    after: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return shlex.join(["lightning" if self.command[0] in VERBS else "streamkd", *self.command])

    @property
    def is_done(self) -> bool:
        """Whether its product is there, whole and of this command."""
        paths = (self.product, self.record, *self.after)
        if not all(path.is_file() for path in paths) or self.record.read_text(encoding="utf-8") != self._description:
            return False
        product, *others = (path.stat().st_mtime_ns for path in paths)
        return product >= max(others)

    def begin(self) -> None:
        """To be called before the command runs."""
        if not self.record.is_file() or self.record.read_text(encoding="utf-8") != self._description:
            with open_whole(self.record) as file:
                file.write(self._description)

    def end(self) -> None:
        """To be called when the command has succeeded, which may have left nothing, or found its product there."""
        if self.product.is_file() or self.product.parent == self.record.parent:
            self.product.touch()

    @property
    def _description(self) -> str:
        return f"{self}\n{self.files}\n"


@dataclass(frozen=True)
class Chain:
    """The experiments of a data set, with the options that one run of them has.

    Args:
        data_set: folder in `configs`.
        experiments: in order, each behind those whose networks it takes.
        data: the folder of the data set; None: as its annotations have it.
        split: its official split; None: as its annotations have it, where there are several.
        seed: of weights, order and augmentation.
        fraction: below 1, a rehearsal with that share of the videos and epochs, and with runs of its own.
        options: further ones of every command that knows them, by their names on the command line.

    Raises:
        ValueError: the data set has no splits, or `fraction` is no share.
    """

    data_set: str
    experiments: Sequence[Experiment]
    data: str | None = None
    split: int | None = None
    seed: int = 0
    fraction: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_share("--fraction", self.fraction)
        if self.split is not None and "split" not in self._annotations:
            raise ValueError(f"--split {self.split}: {self.data_set} has one split alone; leave the option out")

    @cached_property
    def root(self) -> Path:
        """Where its runs go: `runs/ucf101/split1`, in a rehearsal `runs/fraction_0.01/ucf101/split1`."""
        runs = Path("runs", f"fraction_{self.fraction:g}" if self.fraction < 1 else "")
        split = [f"split{self._split}"] if self._split else []
        return runs / self.data_set / "_".join([*split, *([f"seed{self.seed}"] if self.seed else [])])

    def only(self, names: Iterable[str]) -> "Chain":
        """The chain of some experiments, and of those whose networks they take.

        Raises:
            ValueError: there is no experiment of such a name.
        """
        wanted, known = set(names), [experiment.name for experiment in self.experiments]
        if not wanted.issubset(known):
            raise ValueError(f"--experiments: expected some of {', '.join(known)}, got {', '.join(sorted(wanted))}")
        for experiment in reversed(self.experiments):
            wanted |= self.sources(experiment) if experiment.name in wanted else set()
        return replace(self, experiments=[each for each in self.experiments if each.name in wanted])

    def sources(self, experiment: Experiment) -> set[str]:
        """Names of the experiments whose networks one takes."""
        values = (dict(options_of(read_experiment(experiment.config))) | {**experiment.options}).items()
        runs = [value.removeprefix(self._prefix) for key, value in values if self._is_run(value) and key != "run_dir"]
        return {run.partition("/")[0] for run in runs}

    def steps(self) -> list[Step]:
        """All commands, in order."""
        return list(self._steps())

    def _steps(self) -> Iterator[Step]:
        if self._keeps_prepared(self.experiments[0]):
            yield self._data_step("prepare", self.experiments[0], max_failures=_MAX_FAILURES)
        caches = set()
        for experiment in self.experiments:
            cache = lookup(read_experiment(experiment.config), "data", "init_args", "flow", "cache")
            if cache is not None and cache not in caches:
                caches.add(cache)
                yield self._data_step("flow", experiment)
            yield from self._verbs(experiment)

    def _keeps_prepared(self, experiment: Experiment) -> bool:
        """Whether there is a folder for what `streamkd prepare` makes."""
        data = lookup(read_experiment(experiment.config), "data", "init_args") or {}
        return any(self.options.get(f"data.{key}", data.get(key)) for key in _PREPARED)

    def _data_step(self, command: str, experiment: Experiment, **own: Any) -> Step:
        options = {key: value for key, value in self.options.items() if key.startswith("data.")}
        arguments = _arguments({"config": experiment.config, **self._of_annotations, **options, **own})
        record = self._records / f"{command}_{experiment.name}"
        return Step((command, *arguments), Path(f"{record}.done"), record, _digest(read_experiment(experiment.config)))

    def _verbs(self, experiment: Experiment) -> Iterator[Step]:
        file, run = read_experiment(experiment.config), RunDirectory(self.root / experiment.name)
        arguments, files = _arguments({"config": experiment.config, **self._options(experiment, file)}), _digest(file)
        records = [self._records / f"{verb}_{experiment.name}" for verb in ("fit", "test")]
        yield Step(("fit", *arguments), run.fit_report, records[0], files)
        yield Step(("test", *arguments), run.report("test"), records[1], files, after=(run.fit_report,))

    def _options(self, experiment: Experiment, file: Mapping[str, Any]) -> dict[str, Any]:
        """In which an experiment of the chain differs from its file."""
        written, run_dir = dict(options_of(file)), {"run_dir": f"{self._prefix}{experiment.name}"}
        # Those of the experiment behind the others, in their order: a class stands before its options.
        kept = {key: value for key, value in written.items() if key not in experiment.options}
        values = {key: self._fitted(key, value) for key, value in (kept | run_dir | {**experiment.options}).items()}
        if (lengths := values.get("model.stages.lengths")) and self.fraction < 1:
            values["trainer.max_epochs"] = sum(lengths)
        changed = {key: value for key, value in values.items() if value != written.get(key)}
        seeds = {"seed_everything": self.seed, "data.seed": self.seed} if self.seed else {}
        return changed | seeds | self._of_annotations | {**self.options}

    def _fitted(self, key: str, value: Any) -> Any:
        """A value of an experiment's file as the chain has it."""
        if self._is_run(value):
            return str(self.root / value.removeprefix(self._prefix))
        if key in _EPOCHS and self.fraction < 1:
            return [self._share(epochs) for epochs in value] if isinstance(value, list) else self._share(value)
        return value

    def _share(self, epochs: int) -> int:
        return max(round(self.fraction * epochs), 1)

    @property
    def _prefix(self) -> str:
        return f"runs/{self.data_set}/"

    def _is_run(self, value: Any) -> bool:
        return isinstance(value, str) and value.startswith(self._prefix)

    @property
    def _records(self) -> Path:
        return self.root / ".chain"

    @cached_property
    def _annotations(self) -> Mapping[str, Any]:
        return read_experiment(self.experiments[0].config.parent / "annotations.yaml")["init_args"]

    @property
    def _split(self) -> int | None:
        return self._annotations.get("split") if self.split is None else self.split

    @property
    def _of_annotations(self) -> dict[str, Any]:
        given = {"root": self.data, "split": self._split, "fraction": None if self.fraction == 1 else self.fraction}
        return {f"data.annotations.{key}": value for key, value in given.items() if value is not None}


def _arguments(options: Mapping[str, Any]) -> list[str]:
    return [part for key, value in options.items() for part in (f"--{key}", _text(value))]


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


def _digest(file: Any) -> str:
    return hashlib.sha256(json.dumps(file, sort_keys=True).encode()).hexdigest()
