"""Uploads: their names choose no path, their content decides where they lie."""

import io

import pytest

from specs import DataError
from ui.parts import uploads


@pytest.mark.parametrize(
    "name", ["../../etc/passwd.jsonl", "C:\\x.jsonl", "a/b.jsonl", ".jsonl", "<b>.jsonl", "x" * 999 + ".jsonl"]
)
def test_no_name_leaves_the_folder(tmp_path, name):
    path = uploads.kept(io.BytesIO(b"{}\n"), name, tmp_path / "uploads")
    assert path.parent == tmp_path / "uploads"
    assert path.stem.isalnum()
    assert path.read_bytes() == b"{}\n"


def test_a_table_of_tabs_is_taken(tmp_path):
    assert uploads.kept(io.BytesIO(b"prompt\tcompletion\na\tb\n"), "mine.TSV", tmp_path).suffix == ".tsv"
    assert [name for _, name in uploads.all_kept(tmp_path)] == ["mine.TSV"]


def test_the_same_content_is_kept_once(tmp_path):
    first = uploads.kept(io.BytesIO(b"a\n"), "one.txt", tmp_path)
    second = uploads.kept(io.BytesIO(b"a\n"), "two.txt", tmp_path)
    assert first == second
    assert [name for _, name in uploads.all_kept(tmp_path)] == ["one.txt"]


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        pytest.param(b"x", "virus.exe", "must be a", id="another kind"),
        pytest.param(b"x", "noending", "must be a", id="no kind"),
        pytest.param(b"", "empty.jsonl", "is empty", id="empty"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(tmp_path, content, name, words):
    with pytest.raises(DataError, match=words):
        uploads.kept(io.BytesIO(content), name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_broken_name_file_costs_the_name_only(tmp_path):
    path = uploads.kept(io.BytesIO(b"a\n"), "one.txt", tmp_path)
    path.with_suffix(".name.json").write_text("{")
    assert [name for _, name in uploads.all_kept(tmp_path)] == [path.name]


def test_columns_are_remembered_beside_the_upload_and_are_no_upload_themselves(tmp_path):
    path = uploads.kept(io.BytesIO(b"a\n"), "one.csv", tmp_path)
    uploads.keep_column_roles(path, {"prompt": "ask", "completion": "say"})
    assert uploads.column_roles(path) == {"prompt": "ask", "completion": "say"}
    assert [name for _, name in uploads.all_kept(tmp_path)] == ["one.csv"]


@pytest.mark.parametrize("noted", ["{", "[]", '{"prompt": 1}', "null"])
def test_broken_notes_on_columns_count_as_none(tmp_path, noted):
    path = uploads.kept(io.BytesIO(b"a\n"), "one.csv", tmp_path)
    path.with_suffix(".columns.json").write_text(noted)
    assert uploads.column_roles(path) == {}
