import pickle
from multiprocessing import get_context

import pytest

from datamodules.shared_records import SharedRecords


def key_of(writer: int, number: int) -> bytes:
    return bytes([writer]) * 8 + number.to_bytes(8, "big")


def record_of(writer: int, number: int) -> bytes:
    return bytes([writer, number % 256]) * (1 + 37 * number % 3000)


def write(records: SharedRecords, writer: int) -> None:
    for number in range(300):
        records.add(key_of(writer, number), record_of(writer, number))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_find_what_others_add_at_the_same_time(method):
    records, context = SharedRecords(), get_context(method)
    processes = [context.Process(target=write, args=(records, writer)) for writer in range(3)]
    for process in processes:
        process.start()
    write(records, 3)
    for process in processes:
        process.join()
    for writer in range(4):
        for number in range(300):
            assert records.get(key_of(writer, number)) == record_of(writer, number)
    assert records.get(key_of(5, 0)) is None


def test_the_last_under_a_key_counts():
    records = SharedRecords()
    for record in (b"one", b"another"):
        records.add(key_of(0, 0), record)
        assert records.get(key_of(0, 0)) == record


def test_it_grows_no_further_than_it_may():
    records = SharedRecords(max_bytes=100)
    for number in range(50):
        records.add(key_of(0, number), b"0123456789")
    assert [records.get(key_of(0, number)) for number in range(4)] == [b"0123456789"] * 3 + [None]


def test_a_torn_record_ends_what_is_found():
    records = SharedRecords()
    records.add(key_of(0, 0), b"whole")
    records._file.write(b"torn")
    records.add(key_of(0, 1), b"behind it, more than a header")
    assert records.get(key_of(0, 0)) == b"whole"
    assert records.get(key_of(0, 1)) is None


def test_it_cannot_be_kept():
    with pytest.raises(TypeError, match="cannot be kept"):
        pickle.dumps(SharedRecords())
