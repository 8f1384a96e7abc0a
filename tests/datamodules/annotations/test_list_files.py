import pytest

from datamodules.annotations.list_files import Line, first_file, read_classes, read_csv, read_json, read_lines


def test_lines_know_where_they_stand(write):
    path = write("a.txt", "\ufefffirst \n\n  third\n")
    assert read_lines(path, "lists") == [(f"{path}:1", "first"), (f"{path}:3", "third")]


def test_bytes_that_are_no_utf8_survive_as_in_file_names(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9.avi 1\n")
    (line,) = read_lines(tmp_path / "a.txt", "lists")
    assert line.text.encode(errors="surrogateescape") == b"caf\xe9.avi 1"


@pytest.mark.parametrize(
    ("text", "parts"), [("a b.avi 1", ("a b.avi", "1")), ("a.avi\t 1", ("a.avi", "1")), ("1", ("", "1"))]
)
def test_what_stands_last(text, parts):
    assert Line("a.txt:1", text).split_last() == parts


@pytest.mark.parametrize("read", [read_lines, read_classes])
def test_no_such_file(read, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.txt: no such list file \(config key: lists\)"):
        read(tmp_path / "gone.txt", "lists")


def test_classes_with_and_without_numbers(write):
    assert read_classes(write("a", "2 Archery\n1 Apply Eye\n"), "k") == [("1", "Apply Eye"), ("2", "Archery")]
    assert read_classes(write("b", "zebra\nant walk\n"), "k") == [("0", "zebra"), ("1", "ant walk")]


@pytest.mark.parametrize(("text", "what"), [("1 a\n1 b\n", "number"), ("a\na\n", "name"), ("", "number")])
def test_classes_that_are_none(write, text, what):
    with pytest.raises(ValueError, match=rf"a\.txt: expected a line per class, each with a {what} .*config key: k"):
        read_classes(write("a.txt", text), "k")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", r"a\.csv:3: expected 2 columns as in the header"),
        ("a,b\n1,2,3\n", r"a\.csv:2: expected 2 columns as in the header"),
        ("a\n1\n", r"a\.csv: expected columns a, b, got \['a'\] \(config key: k\)"),
        ("", r"a\.csv: expected columns a, b, got None"),
        ('a,b\n1,"2" 3\n', r"a\.csv:2: no CSV .*config key: k"),
    ],
)
def test_csv_that_is_none(write, text, message):
    with pytest.raises(ValueError, match=message):
        list(read_csv(write("a.csv", text), "k", ("a", "b")))


def test_csv_rows_by_column(write):
    path = write("a.csv", 'b,a,c\n1,"x, y",\n')
    assert list(read_csv(path, "k", ("a", "b"))) == [(f"{path}:2", {"b": "1", "a": "x, y", "c": ""})]


def test_json_that_is_none(write):
    with pytest.raises(ValueError, match=r"a\.json:2: no JSON \(.*config key: k\)"):
        read_json(write("a.json", '{"a":\n 1,}'), "k", dict)
    with pytest.raises(ValueError, match=r"a\.json: expected a JSON list, got a dict \(config key: k\)"):
        read_json(write("a.json", "{}"), "k", list)


def test_first_of_several_names(write, tmp_path):
    write("b.csv", "")
    assert first_file(tmp_path, ("a.csv", "b.csv"), "k") == tmp_path / "b.csv"
    with pytest.raises(FileNotFoundError, match=r"expected c\.csv or d\.csv, found none \(config key: k\)"):
        first_file(tmp_path, ("c.csv", "d.csv"), "k")
