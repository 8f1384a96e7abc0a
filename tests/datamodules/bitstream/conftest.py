"""Real recordings, where there are any."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_clips() -> Path:
    """A folder of real clips, for tests that skip without them."""
    shared = os.environ.get("STREAMKD_SHARED_DATA")
    if not shared:
        pytest.skip("STREAMKD_SHARED_DATA names no folder of real clips")
    return Path(shared, "clips")
