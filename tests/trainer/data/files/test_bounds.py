"""No file makes its reader take much memory: what is too long is one finding, and the rest is read."""

import json

import pytest

from specs import DataError
from trainer.data.files import bounds, reading
from trainer.data.files.reading import rows
from trainer.data.row import Finding

ROW = {"text": "short"}


@pytest.fixture
def little(monkeypatch):
    """Bounds that small files reach."""
    for module in (bounds, reading):
        monkeypatch.setattr(module, "LONGEST", 4_000)
    monkeypatch.setattr(bounds, "_CHUNK", 1_000)
    monkeypatch.setattr(reading, "_LARGEST_OBJECT", 100)
    previous = reading.csv.field_size_limit(4_000)
    yield
    reading.csv.field_size_limit(previous)


def read(path):
    return [row for _, row in rows(path)]


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize("character", ["a", "é", "漢", "\\\\"], ids=["one byte", "two bytes", "three bytes", "escaped"])
@pytest.mark.parametrize("offset", range(4))
def test_a_text_without_end_in_a_long_list_is_one_finding(tmp_path, character, offset):
    path = tmp_path / "a.json"
    path.write_text(f'[{{"text": "short"}}, {{"text": "{"x" * offset}{character * 9_000}"}}, {{"text": "short"}}]')
    assert read(path) == [ROW, Finding(row=2, reason="is longer than 0 MiB"), ROW]


@pytest.mark.usefixtures("little")
def test_a_long_text_within_the_bound_is_read_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([ROW, {"text": "é" * 1_700}, ROW], ensure_ascii=False))
    assert read(path)[1] == {"text": "é" * 1_700}


@pytest.mark.usefixtures("little")
def test_a_field_without_end_in_a_csv_is_one_finding(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f'text\nshort\n"{"a" * 20_000}"\nshort\n')
    before, found, after = read(path)
    assert (before, after) == (ROW, ROW)
    assert found.reason.startswith("cannot be read: field larger than field limit")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        pytest.param("a.jsonl", '{"a": [' + "{}," * 3_000_000 + "{}]}", "holds too many values for one row", id="line"),
        pytest.param("a.json", '{"a": [' + "[]," * 7_000_000 + "[]]}", "holds too many values for json", id="object"),
        pytest.param("a.json", "[" * 8_000_000, "lists hold each other too deep", id="depth"),
    ],
)
def test_values_that_would_take_too_much_memory_are_not_made(tmp_path, name, text, sentence):
    path = tmp_path / name
    path.write_text(text)
    try:
        (found,) = read(path)
    except DataError as error:
        found = Finding(row=1, reason=str(error))
    assert sentence in found.reason


def test_a_list_with_many_values_is_read_entry_by_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "_FEW", 100)
    monkeypatch.setattr(bounds, "MOST_BYTES", 1_000)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([ROW] * 50))
    assert read(path) == [ROW] * 50
