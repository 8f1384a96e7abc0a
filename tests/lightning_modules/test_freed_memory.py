"""Memory that is freed and asked for again costs no page faults; measured in a process of its own."""

import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import numpy as np
from lightning_modules.freed_memory import keep_freed_memory

if "keep" in sys.argv:
    keep_freed_memory()
megabytes = int(sys.argv[1])
def read_a_gop():
    return [np.ones(megabytes * 2**20, np.uint8) for _ in range(4)]

for _ in range(3):
    read_a_gop()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    read_a_gop()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's setting")
@pytest.mark.parametrize("megabytes", [4, 40])
def test_memory_comes_back_without_page_faults(megabytes: int):
    def page_faults(*options: str) -> int:
        command = [sys.executable, "-c", COUNT, str(megabytes), *options]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(run.stdout)

    assert page_faults("keep") * 10 < page_faults()
