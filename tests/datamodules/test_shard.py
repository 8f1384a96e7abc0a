"""Shards partition a list, whoever says which is ours."""

import pytest

from datamodules.shard import Shard

TORCHRUN = {"RANK": "2", "WORLD_SIZE": "3"}
TASK = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}
ARRAY = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "7"}


def array_job(job: int) -> dict[str, str]:
    """Of `--array=1-7:2`: four jobs."""
    return ARRAY | {"SLURM_ARRAY_TASK_ID": str(job), "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "4"}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_shards_partition_the_items_evenly(count: int) -> None:
    items = [f"{number}.mp4" for number in range(17)]
    parts = [list(Shard.parse(f"{index}/{count}").of(items)) for index in range(count)]
    assert sorted(item for part in parts for item in part) == sorted(items)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["4/4", "-1/4", "1", "1/", "/4", "0/0", "a/b", "1/4/2", "0.5/1"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(ValueError, match="shard: expected i/n with i from 0 to n - 1"):
        Shard.parse(text)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "0/1"),
        (TASK, "1/4"),
        (TORCHRUN, "2/3"),
        (TORCHRUN | TASK, "2/3"),
        ({"RANK": "2"}, "0/1"),
        (ARRAY, "4/7"),
        (array_job(5), "2/4"),
        (array_job(5) | TASK, "9/16"),
        (array_job(5) | TORCHRUN, "8/12"),
    ],
)
def test_environments(environment: dict[str, str], expected: str) -> None:
    assert str(Shard.from_environment(environment)) == expected


def test_tasks_of_the_jobs_of_an_array_partition_the_items() -> None:
    items = list(range(50))
    tasks = [array_job(job) | TASK | {"SLURM_PROCID": str(task)} for job in (1, 3, 5, 7) for task in range(4)]
    assert sorted(item for task in tasks for item in Shard.from_environment(task).of(items)) == items


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (TORCHRUN | {"RANK": "two"}, "RANK: expected a number"),
        (TASK | {"SLURM_PROCID": "4"}, "got 4/4"),
        (ARRAY | {"SLURM_ARRAY_TASK_COUNT": "3"}, "SLURM_ARRAY_TASK_ID: expected an array of jobs 1-7:1"),
        (array_job(4), "got job 4 of 4; say which part"),
        ({"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_MIN: expected a number"),
    ],
)
def test_environments_that_say_nothing_sure(environment: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Shard.from_environment(environment)
