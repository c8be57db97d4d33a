"""Rows are read from every kind of file that people save, and one bad row is one finding."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from specs import DataError
from trainer.data.files import reading
from trainer.data.files.reading import rows, splits
from trainer.data.row import Finding

PAIR = {"prompt": "Hi", "completion": "Yo"}


def read(path, **options):
    return [row for _, row in rows(path, **options)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.csv", b"prompt,completion\nHi,Yo\n", id="comma"),
        pytest.param("a.csv", b"prompt;completion\r\nHi;Yo\r\n", id="semicolon, as Excel writes in much of Europe"),
        pytest.param("a.csv", b"prompt\tcompletion\nHi\tYo\n", id="tab"),
        pytest.param("a.tsv", b"prompt\tcompletion\nHi\tYo\n", id="tsv"),
        pytest.param("a.csv", b"prompt|completion\nHi|Yo\n", id="bar"),
        pytest.param("a.csv", "prompt,completion\nHi,Yo\n".encode("utf-16"), id="UTF-16"),
        pytest.param("a.csv", b"\xef\xbb\xbfprompt,completion\nHi,Yo\n", id="UTF-8 with a mark"),
        pytest.param("a.jsonl", json.dumps(PAIR).encode("utf-16"), id="jsonl in UTF-16"),
        pytest.param("a.json", json.dumps({"prompt": ["Hi"], "completion": ["Yo"]}).encode(), id="column by column"),
        pytest.param("a.json", json.dumps({"prompt": {"0": "Hi"}, "completion": {"0": "Yo"}}).encode(), id="pandas"),
        pytest.param("a.json", json.dumps({"train": [PAIR], "test": []}).encode(), id="splits"),
        pytest.param("a.json", json.dumps({"data": [PAIR], "version": "1"}).encode(), id="a list under a name"),
        pytest.param("a.json", json.dumps(PAIR).encode(), id="a single row"),
        pytest.param("a.json", b'{"prompt": "Hi", "completion": "Yo"}\n{"prompt": 1}', id="jsonl by another name"),
    ],
)
def test_the_first_row_is_the_same_from_every_dialect(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert read(path)[0] == PAIR


def test_a_spreadsheet_in_windows_letters_keeps_them(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("prompt;completion\nGrüße;Café\n".encode("cp1252"))
    assert read(path) == [{"prompt": "Grüße", "completion": "Café"}]


def test_a_delimiter_inside_quotes_separates_nothing(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt;completion\n"Hello; you";"Hi, there"\n')
    assert read(path) == [{"prompt": "Hello; you", "completion": "Hi, there"}]


def test_a_split_is_read_by_its_name(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"train": [PAIR], "test": [{"prompt": "Ho"}]}))
    assert splits(path) == {"train": 1, "test": 1}
    assert read(path, split="test") == [{"prompt": "Ho"}]
    with pytest.raises(DataError, match="must have the split dev, got 'train, test'"):
        read(path, split="dev")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", json.dumps(PAIR)),
        ("a.json", json.dumps([PAIR])),
        ("a.json", json.dumps({"data": [PAIR]})),
        ("a.json", f"{json.dumps(PAIR)}\n{json.dumps(PAIR)}"),
        ("a.csv", "prompt,completion\nHi,Ho\n"),
    ],
    ids=["lines", "a list", "an object", "lines named json", "a table"],
)
def test_the_rows_of_a_file_without_splits_are_no_other_split(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert read(path)
    with pytest.raises(DataError, match=f"{name}: holds no splits to choose from, got test"):
        read(path, split="test")


@pytest.mark.parametrize("limit", ["_LARGEST_OBJECT"])
def test_a_long_list_is_read_entry_by_entry(tmp_path, monkeypatch, limit):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([PAIR, 7, {"prompt": 0.5}]))
    monkeypatch.setattr(reading, limit, 4)
    assert read(path) == [PAIR, Finding(row=2, reason="must be a JSON object, got int"), {"prompt": 0.5}]
    path.write_text("[{}, ")
    with pytest.raises(DataError, match="must be valid JSON"):
        read(path)
    path.write_text(json.dumps({"a": [1]}))
    with pytest.raises(DataError, match="Convert it to jsonl"):
        read(path)


@pytest.mark.parametrize(("name", "start"), [("a.jsonl", '{"text": "'), ("a.txt", "")])
def test_a_line_without_end_is_one_finding_and_the_next_row_is_read(tmp_path, monkeypatch, name, start):
    monkeypatch.setattr(reading, "LONGEST", 1000)
    path = tmp_path / name
    path.write_text(start + "x" * 5000 + '\n\n{"text": "ok"}\n')
    bad, good = read(path)
    assert isinstance(bad, Finding)
    assert "is longer than" in bad.reason
    assert "ok" in good["text"]


def test_a_date_beyond_pythons_is_one_finding(tmp_path):
    times = pyarrow.array([0, 2**62, 0], pyarrow.timestamp("us"))
    table = pyarrow.table({"text": ["a", "b", "c"], "at": times})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    first, bad, last = read(tmp_path / "a.parquet")
    assert (first["text"], last["text"]) == ("a", "c")
    assert bad.sentence.startswith("Row 2: has a value that cannot be read")


def test_empty_keys_that_a_table_adds_are_not_there(tmp_path):
    calls = [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {"b": 2}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"calls": calls}]), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [{"calls": calls}]


def test_a_csv_row_with_too_many_fields_is_a_finding(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion\nHi,Yo,more\nHi,Yo\n")
    assert read(path) == [Finding(row=2 - 1, reason="has more fields than the first line names"), PAIR]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('prompt,completion\na,b\n"c,d\ne,f\ng,h\n', "has a quote in line 3 that never closes"),
        ("prompt,completion,completion\na,b,c\n", "must give each column a name of its own, got completion"),
    ],
)
def test_a_csv_of_which_rows_or_columns_would_be_lost_is_refused(tmp_path, text, sentence):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=sentence):
        read(tmp_path / "a.csv")


def test_a_quoted_field_may_end_the_file(tmp_path):
    (tmp_path / "a.csv").write_text('prompt,completion\na,"b\nc"')
    assert read(tmp_path / "a.csv") == [{"prompt": "a", "completion": "b\nc"}]
