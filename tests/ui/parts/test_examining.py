"""Long files: their first rows at once, the rest in the background."""

import json
import time

import pytest

from specs import DataError
from tests.patience import PATIENCE
from trainer.data.readers import reader
from trainer.data.source import DataSource
from ui.parts import examining
from ui.parts.examining import FIRST_ROWS, report_of

READER = reader(None, model_type="qwen3", name="Qwen/Qwen3-8B", counted_by=None)


def written(path, rows):
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return DataSource(path=str(path))


def good(number):
    return {"prompt": f"Question {number}?", "completion": "word " * 200}


def test_a_short_file_is_read_whole(tmp_path):
    report, running = report_of(written(tmp_path / "a.jsonl", map(good, range(FIRST_ROWS))), READER)
    assert (report.rows, report.whole, running) == (FIRST_ROWS, True, None)


def test_a_long_file_shows_its_first_rows_and_is_read_on(tmp_path, monkeypatch):
    monkeypatch.setattr(examining, "_WITHIN_SECONDS", 0)
    source = written(tmp_path / "a.jsonl", map(good, range(20_000)))
    report, running = report_of(source, READER)
    assert (report.rows, report.whole) == (FIRST_ROWS, False)
    deadline = time.monotonic() + PATIENCE
    while not running.is_over and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running.rows_read >= 15_000
    report, running = report_of(source, READER)
    assert (report.rows, report.whole, running) == (20_000, True, None)


def test_what_is_asked_reads_no_file_again_and_a_changed_file_is_read_anew(tmp_path):
    source = written(tmp_path / "a.jsonl", map(good, range(5)))
    first, _ = report_of(source, READER)
    asked = DataSource(path=source.path, prompts=("Why?",))
    assert report_of(asked, READER)[0] is first
    time.sleep(0.01)
    assert report_of(written(tmp_path / "a.jsonl", map(good, range(6))), READER)[0].rows == 6


def test_bad_rows_at_the_beginning_do_not_make_a_bad_file(tmp_path):
    rows = [*({"prompt": "Hi?", "completion": None} for _ in range(200)), *map(good, range(5_000))]
    report, running = report_of(written(tmp_path / "a.jsonl", [good(0), *rows]), READER)
    assert (report.rows, report.skipped, running) == (5_001, 200, None)


def test_a_bad_file_is_refused(tmp_path, monkeypatch):
    rows = [*map(good, range(FIRST_ROWS)), *({"prompt": "Hi?", "completion": None} for _ in range(2_000))]
    source = written(tmp_path / "a.jsonl", rows)
    monkeypatch.setattr(examining, "_WITHIN_SECONDS", 60)
    with pytest.raises(DataError, match="rows cannot be trained on"):
        report_of(source, READER)
