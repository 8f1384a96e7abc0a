"""Which part of a list of work falls to this process, where several machines share it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

_Item = TypeVar("_Item")

_ARRAY = "SLURM_ARRAY_TASK_"


@dataclass(frozen=True)
class Shard:
    """Every `count`-th item from the one at `index` on: the shards of a list are disjoint and make it up.

    Args:
        index: 0 to `count` - 1.
        count: of shards.

    Raises:
        ValueError: there is no such shard.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard: expected i/n with i from 0 to n - 1, as 0/4 and 3/4, got {self}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard "i/n".

        Raises:
            ValueError: it is not one.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal()):
            raise ValueError(f"shard: expected i/n with i from 0 to n - 1, as 0/4 and 3/4, got {text!r}")
        return cls(int(index), int(count))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Shard":
        """That of a process of torchrun, else of a SLURM task; within that of its job, where a SLURM array has many.

        Raises:
            ValueError: the variables contradict each other.
        """
        job = _array_job(environment)
        process = _ranked(environment, "RANK", "WORLD_SIZE") or _ranked(environment, "SLURM_PROCID", "SLURM_NTASKS")
        return job.split(process or cls())

    def split(self, part: "Shard") -> "Shard":
        """The `part` of this shard, which is cut up further."""
        return Shard(self.index * part.count + part.index, self.count * part.count)

    def of(self, items: Sequence[_Item]) -> Sequence[_Item]:
        """This shard's items."""
        return items[self.index :: self.count]


def _ranked(environment: Mapping[str, str], index: str, count: str) -> Shard | None:
    if index not in environment or count not in environment:
        return None
    return Shard(_number(environment, index), _number(environment, count))


def _array_job(environment: Mapping[str, str]) -> Shard:
    if f"{_ARRAY}ID" not in environment:
        return Shard()
    job, first, last = (_number(environment, f"{_ARRAY}{name}") for name in ("ID", "MIN", "MAX"))
    step = _number(environment, f"{_ARRAY}STEP") if f"{_ARRAY}STEP" in environment else 1
    count = (last - first) // step + 1
    if (job - first) % step or environment.get(f"{_ARRAY}COUNT", str(count)) != str(count):
        raise ValueError(
            f"{_ARRAY}ID: expected an array of jobs {first}-{last}:{step}, got job {job} of "
            f"{environment.get(f'{_ARRAY}COUNT')}; say which part each job does by --shard i/n"
        )
    return Shard((job - first) // step, count)


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    if not value.isdecimal():
        raise ValueError(f"{name}: expected a number in this environment variable, got {value!r}; or give --shard i/n")
    return int(value)
