"""What GNU OpenMP says that it has read, in a process of its own."""

import os
import subprocess
import sys

import pytest

SHOW = "from lightning_modules.idle_threads import let_idle_threads_sleep as f; f(); import torch"


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch comes with GNU OpenMP on Linux")
@pytest.mark.parametrize(("set_by_user", "expected"), [({}, "10000"), ({"GOMP_SPINCOUNT": "77"}, "77")])
def test_threads_spin_briefly_unless_the_user_says_otherwise(set_by_user, expected):
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    environment |= {"OMP_DISPLAY_ENV": "verbose", **set_by_user}
    run = subprocess.run([sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{expected}'" in run.stderr
