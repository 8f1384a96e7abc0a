import warnings

import pytest

from datamodules.clip import Failure
from datamodules.failure_ledger import FailureLedger, TooManyBadVideosError

TORN, GONE = Failure("b.mp4", "torn"), Failure("a.mp4", "gone")


def test_each_video_is_warned_of_once_and_counted_once():
    ledger = FailureLedger("train", 100, limit=2)
    with pytest.warns(UserWarning, match=r"unreadable video in split 'train': b\.mp4: torn"):
        ledger.add([TORN])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ledger.add([TORN, TORN, TORN])
    with pytest.warns(UserWarning, match="gone"):
        ledger.add([GONE])
    assert ledger.failures == [GONE, TORN]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_more_than_the_limit_stop():
    ledger = FailureLedger("train", 50, limit=1, remedy="raise max_bad_videos")
    ledger.add([TORN])
    message = r"2 of the 50 videos of split 'train' cannot be read, at most 1 may be; raise max_bad_videos; .*gone"
    with pytest.raises(TooManyBadVideosError, match=message):
        ledger.add([GONE])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_limit():
    ledger = FailureLedger("predict", 2, limit=None)
    ledger.add([TORN, GONE])
    assert len(ledger.failures) == 2
