"""Parquet files that are small on disk and huge in memory are refused; words that repeat are read as they are."""

import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from scripts.fuzz_doors import parquet_bombs
from specs import MIB, DataError
from trainer.data.files.reading import rows
from trainer.data.row import Finding

BOMBS = {
    "many-rows.parquet": "would have more values than the file has bytes",
    "long-rows.parquet": "has rows longer than 32 MiB",
    "repeated-page.parquet": "repeats its words to more than 1,000 times its size",
    "list.parquet": "would have more values than the file has bytes",
    "list-of-pages.parquet": "repeats its words to more than 1,000 times its size",
}


@pytest.fixture(scope="module")
def bombs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bombs")
    assert {path.name for path in parquet_bombs(folder)} == BOMBS.keys()
    return folder


@pytest.mark.parametrize(("name", "said"), BOMBS.items(), ids=BOMBS)
def test_a_parquet_file_that_decodes_to_far_more_than_it_holds_is_refused(bombs, name, said):
    assert (bombs / name).stat().st_size < 2 * MIB
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=said):
            for _ in rows(bombs / name):
                pass
        assert tracemalloc.get_traced_memory()[1] < 300 * MIB
    finally:
        tracemalloc.stop()


def test_one_row_that_is_too_long_once_its_words_are_repeated_is_a_finding(tmp_path):
    word = "a" * MIB
    words = pyarrow.array([word] * 42).dictionary_encode()
    texts = pyarrow.ListArray.from_arrays([0, 1, 41, 42], words)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "rows.parquet")
    read = [row for _, row in rows(tmp_path / "rows.parquet")]
    assert read == [{"text": [word]}, Finding(row=2, reason="is longer than 32 MiB"), {"text": [word]}]


def test_nested_words_that_repeat_are_read_as_they_are(tmp_path):
    written = [
        {"messages": [{"role": role, "content": f"{role} {number % 3}"} for role in ("user", "assistant")], "n": number}
        for number in range(2000)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(written), tmp_path / "rows.parquet")
    assert [row for _, row in rows(tmp_path / "rows.parquet")] == written


def test_a_page_that_would_take_too_much_memory_is_not_read(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"{number} {'a' * MIB}" for number in range(300)]}), path)
    with pytest.raises(DataError, match="text may take more than 256 MiB at once"):
        next(rows(path))
