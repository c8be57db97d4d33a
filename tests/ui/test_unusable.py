"""A runs folder that cannot be used is one sentence on every page, never Streamlit's box for a crash."""

import io
import os

import pytest

from specs import FinetunePlan, RunError
from specs.errors import LONGEST
from tests.unusable import disk, each_kind, fill
from trainer.data.source import DataSource
from trainer.runs.storage import database
from trainer.runs.store import Store
from ui.parts import notices, uploads
from ui.runs.facts import run_data

PAGES = ("plan", "compare", "runs", "accuracy", "learn")


@each_kind
def test_an_unusable_runs_folder_is_one_sentence_on_the_page_of_runs(tmp_path, page, monkeypatch, kind):
    with kind(tmp_path) as (runs, said):
        monkeypatch.setenv("LORAFIT_RUNS", str(runs))
        (error,) = page("runs").error
        assert said in error.value.replace("\\", "")
        assert len(error.value.replace("\\", "")) <= LONGEST


@pytest.mark.parametrize("name", PAGES)
def test_no_page_crashes_without_a_runs_folder(tmp_path, page, monkeypatch, name):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LORAFIT_RUNS", str(tmp_path / "file"))
    parameters = {"proof": "Runs on this machine"} if name == "accuracy" else {}
    app = page(name, **parameters)
    said = [error.value for error in app.error]
    assert all("is not a folder" in words for words in said)
    assert bool(said) == (name in {"runs", "accuracy"})


def create_many(store, plan):
    """Create runs until the pages that the database has already are used up."""
    for _ in range(99):
        store.create(plan, DataSource(path="a.jsonl"))


def test_a_start_on_a_full_disk_is_one_sentence_and_nothing_is_begun(tmp_path, monkeypatch):
    with disk(tmp_path / "disk", "size=512k") as place:
        monkeypatch.setenv("LORAFIT_RUNS", str(place / "runs"))
        store = run_data.store()
        fill(place)
        plan = FinetunePlan.for_method("lora", "no/model")
        with pytest.raises(RunError, match="is on a full disk"):
            create_many(store, plan)
        (place / "ballast").unlink()
        assert all(run.step == 0 for run in store.runs())
        assert store.create(plan, DataSource(path="a.jsonl")).id


def test_an_upload_to_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    with disk(tmp_path / "disk", "size=64k") as place:
        with pytest.raises(OSError, match="space") as raised:
            uploads.kept(io.BytesIO(b"x" * 200_000), "a.jsonl", place / "uploads")
        assert list((place / "uploads").iterdir()) == []
        assert "is on a full disk" in notices.sentence(raised.value)


def test_uploads_are_this_users_alone(tmp_path):
    os.umask(os.umask(0o022))
    path = uploads.kept(io.BytesIO(b"x"), "a.jsonl", tmp_path / "runs" / database.UPLOADS)
    uploads.keep_column_roles(path, {"prompt": "a"})
    assert {entry.stat().st_mode & 0o777 for entry in path.parent.iterdir()} == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_runs_that_were_rebuilt_are_told_once_on_the_page_of_runs(runs_folder, page, finished):
    finished([2.0, 1.0])
    (runs_folder / database.FILE).write_bytes(b"no database at all")
    Store(runs_folder)
    (runs_folder / database.FILE).write_bytes(b"damaged again")
    run_data._store.cache_clear()
    (warning,) = page("runs").warning
    assert "was damaged and is kept as damaged\\-" in warning.value
    assert "1 runs were rebuilt" in warning.value
