import logging
import subprocess
import sys

import pytest

from datamodules.failure import Failure
from datamodules.failure_ledger import FailureLedger, TooManyBadVideosError

TORN, GONE = Failure("b.mp4", "torn"), Failure("a.mp4", "gone")


def test_each_video_is_warned_of_once_and_counted_once(caplog):
    ledger = FailureLedger("train", 100, limit=2)
    ledger.add([TORN])
    ledger.add([TORN, TORN, TORN])
    ledger.add([GONE])
    assert caplog.messages == [f"unreadable video in split 'train': {failure}" for failure in (TORN, GONE)]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert ledger.failures == [GONE, TORN]


def test_a_warning_is_one_line_where_nobody_configures_logging():
    program = """
from datamodules.failure import Failure
from datamodules.failure_ledger import FailureLedger
FailureLedger("val", 9, limit=3).add([Failure("b.mp4", "torn")])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "unreadable video in split 'val': b.mp4: torn\n"


def test_more_than_the_limit_stop():
    ledger = FailureLedger("train", 50, limit=1, remedy="raise max_bad_videos")
    ledger.add([TORN])
    message = r"2 of the 50 videos of split 'train' cannot be read, at most 1 may be; raise max_bad_videos; .*gone"
    with pytest.raises(TooManyBadVideosError, match=message):
        ledger.add([GONE])


def test_no_limit():
    ledger = FailureLedger("predict", 2, limit=None)
    ledger.add([TORN, GONE])
    assert len(ledger.failures) == 2
