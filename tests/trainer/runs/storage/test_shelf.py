"""Names, notes, archive and trash: what a person does with runs, beside workers that write to them."""

import os
import sqlite3
import time
import unicodedata
from contextlib import closing

import pytest

from specs import RunError
from trainer import __main__ as door
from trainer.data.source import DataSource
from trainer.failure import AttemptOverError
from trainer.runs import launcher, processes
from trainer.runs.contract import Metric, Place, State
from trainer.runs.storage import database, mirror, shelf
from trainer.runs.store import Store

DATA = DataSource(path="/data.jsonl")
CLICK = "one click"
UNSEEN = (
    *("\u3164", "\u2800", "\ufe0fa\u034f", "Best\u034frun", "a\u200db", "a\u115f", "a\ufe00", "a\U000e0100"),
    *("\u202egnp", "a\u00adb", "a\u2063b", "\ue000", "\u0378"),
)
"""Names with characters that do not show."""


@pytest.fixture
def over(store, plan_of):
    """A stopped run with a file of its own."""
    run = store.create(plan_of(), DATA, place=Place(token=CLICK))
    store.request_stop(run.id)
    store.add_metric(run.id, Metric(step=1, loss=2.0))
    (store.run_folder(run.id) / "weights").write_bytes(b"x" * 10_000)
    return store.run(run.id)


def on_disk(store):
    with closing(sqlite3.connect(store.folder / database.FILE)) as db:
        return {row[0] for row in db.execute("SELECT id FROM runs")}


def test_a_database_of_the_schema_before_opens_with_its_runs_unnamed_and_its_metrics_whole(tmp_path, plan_of):
    with closing(sqlite3.connect(tmp_path / database.FILE)) as old:
        old.executescript(";".join(database.MIGRATIONS[:3]) + ";PRAGMA user_version = 3;")
        old.execute(
            "INSERT INTO runs (id, state, phase, device, model_path, plan, data, created_at, queued_at)"
            " VALUES ('20261101-120000-abcd', 'failed', 'done', 'cpu', '', ?, ?, 1, 1)",
            (plan_of().to_json(), '{"path": "a", "prompts": []}'),
        )
        old.execute("INSERT INTO metrics (run_id, step, loss) VALUES ('20261101-120000-abcd', 1, 2.5)")
        old.commit()
    store = Store(tmp_path)
    (run,) = store.runs()
    assert (run.name, run.note, run.archived_at, run.deleted_at) == ("", "", None, None)
    assert store.metrics(run.id) == (Metric(step=1, loss=2.5),)
    assert store.describe(run.id, name="From before").name == "From before"


def test_what_a_person_says_of_a_run_is_kept_also_without_the_database(store, over):
    store.describe(over.id, name="  **Best**\n so far ", note="lr too high?\r\nTry\x1b half.\n")
    store.archive(over.id)
    (store.folder / database.FILE).unlink()
    run = Store(store.folder).run(over.id)
    assert (run.name, run.note) == ("**Best** so far", "lr too high?\nTry  half.")
    assert run.archived_at == pytest.approx(time.time(), abs=60)
    assert store.archive(run.id, archived=False).archived_at is None
    assert store.describe(run.id, name="").name == ""


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        pytest.param({"name": "x" * 81}, "must be one line of at most 80 characters, each", id="a long name"),
        pytest.param({"name": "a\x1b[2Jb"}, r"each of which is seen, got 'a\\x1b\[2Jb'", id="a command"),
        *(pytest.param({"name": name}, r"is seen, got '?[^']*\\", id=f"unseen: {name!a}") for name in UNSEEN),
        pytest.param({"name": "\u0301"}, "each of which is seen", id="a mark on nothing"),
        pytest.param({"name": "a\ufe0f"}, "each of which is seen", id="a letter as a picture"),
        pytest.param({"name": "\udcff"}, "must be valid Unicode", id="no Unicode"),
        pytest.param({"note": "x" * 2001}, "must have at most 2,000 characters", id="a long note"),
    ],
)
def test_a_name_that_cannot_be_kept_is_refused(store, over, said, rule):
    with pytest.raises(RunError, match=rule):
        store.describe(over.id, **said)
    assert store.run(over.id) == over


def test_a_name_of_any_script_is_kept_and_written_in_one_way(store, over):
    for name in ("Größe 8 ♥", "最好的", "दूसरा", "אַחֲרֵי", "❤\ufe0f 1\ufe0f⃣", "a. ~b", "<b>*x*</b>"):
        assert store.describe(over.id, name=name).name == unicodedata.normalize("NFC", name)
    assert store.describe(over.id, name="Cafe\u0301\u3000 2").name == "Caf\u00e9 2"
    assert store.describe(over.id, note="a\u3164b\u034f").note == "a b "


def test_a_deleted_run_is_gone_and_comes_back_whole(store, over):
    size = store.size_bytes(over.id)
    assert size >= 10_000
    store.delete(over.id)
    assert store.runs() == ()
    assert store.find(over.id) is None
    assert not (store.folder / over.id).exists()
    assert [run.id for run in store.deleted()] == [over.id]
    for ask in (store.request_resume, store.request_stop, store.delete, store.archive):
        with pytest.raises(RunError, match="must be the id of a stored run"):
            ask(over.id)
    back = store.take_back(over.id)
    assert (back.state, store.deleted()) == (State.STOPPED, ())
    assert (store.size_bytes(over.id), len(store.metrics(over.id))) == (size, 1)


def test_a_deleted_run_comes_back_also_where_its_folder_exists_again(store, over):
    for number in (1, 2):
        store.delete(over.id)
        (store.folder / over.id).mkdir()
        (store.folder / over.id / "weights").write_text(f"new {number}")
        assert store.take_back(over.id).state is State.STOPPED
        assert (store.folder / over.id / "weights").stat().st_size == 10_000
    store.delete(over.id)
    (store.folder / over.id).write_text("no folder")
    store.take_back(over.id)
    beside = sorted((store.folder / over.id).glob(f"{shelf.IN_ITS_PLACE}*"))
    assert [(one if one.is_file() else one / "weights").read_text() for one in beside] == [
        "new 1",
        "new 2",
        "no folder",
    ]
    assert store.deleted() == ()


def test_the_click_that_made_a_deleted_run_can_make_another(store, over):
    store.delete(over.id)
    again = store.create(over.plan, DATA, place=Place(token=CLICK))
    assert again.id != over.id


def test_what_is_not_in_the_trash_cannot_be_taken_back(store, over):
    for run_id in (over.id, "20200101-000000-abcd", "../../etc", "\udcff"):
        with pytest.raises(RunError, match="must be the id of a deleted run"):
            store.take_back(run_id)


def test_a_run_that_waits_or_works_is_not_deleted(store, plan_of):
    run = store.create(plan_of(), DATA)
    for claim in (lambda: None, lambda: store.claim_next("cpu"), lambda: store.start_training(run.id)):
        claim()
        with pytest.raises(RunError, match=r"can be deleted only once it is over, got \w+. Stop it first"):
            store.delete(run.id)
    assert store.run(run.id).state is State.RUNNING


def test_a_silent_worker_that_lives_keeps_its_run_from_being_deleted(store, plan_of):
    run = store.create(plan_of(), DATA)
    attempt = store.claim_next("cpu").attempt
    store.started(run.id, attempt, processes.identity(os.getpid()), 0)
    store.enter(run.id, State.LOST)
    with pytest.raises(RunError, match=f"may still be written by process {os.getpid()}"):
        store.delete(run.id)


def test_a_worker_whose_run_was_deleted_writes_nothing_and_does_not_take_it_back(store, plan_of):
    run = store.create(plan_of(), DATA)
    attempt = store.claim_next("cpu").attempt
    store.start_training(run.id)
    store.enter(run.id, State.LOST, error="silent", error_kind="lost")
    store.delete(run.id)
    assert not store.beat(run.id, attempt)
    with pytest.raises(AttemptOverError):
        store.add_metric(run.id, Metric(step=1, loss=1.0), attempt=attempt)
    assert not (store.folder / run.id).exists()


def test_the_trash_is_swept_after_a_week_and_not_before(store, over, monkeypatch):
    store.delete(over.id)
    launcher.start_waiting(store)
    assert on_disk(store) == {over.id}
    monkeypatch.setattr(shelf, "TRASH_DAYS", -1)
    launcher.start_waiting(store)
    assert on_disk(store) == set()
    assert list((store.folder / shelf.TRASH).iterdir()) == []
    with pytest.raises(RunError, match="must be the id of a deleted run"):
        store.take_back(over.id)


def test_files_that_moved_before_their_process_was_killed_are_put_back(store, over):
    (store.folder / shelf.TRASH).mkdir()
    (store.folder / over.id).rename(store.folder / shelf.TRASH / over.id)
    store.sweep()
    assert (store.folder / over.id / mirror.RECORD).is_file()


def test_the_command_line_keeps_runs_in_order(store, over, monkeypatch, capsys):
    monkeypatch.setenv("LORAFIT_RUNS", str(store.folder))

    def said(*arguments):
        assert door.main(arguments) == 0
        return capsys.readouterr().out

    assert "Best so far" in said("rename", over.id, "Best so far")
    assert "half the rate" in said("note", over.id, "half the rate")
    assert "archived" in said("archive", over.id)
    assert said("list") == "In the archive: 1. See list --archived.\n"
    assert "Best so far" in said("list", "--archived")
    assert said("delete", over.id).startswith(f"Deleted {over.id} (")
    assert over.id in said("list", "--deleted")
    assert "Best so far" in said("delete", over.id, "--undo")
    assert door.main(["delete", "20200101-000000-abcd"]) == 2
    assert "must be the id of a stored run" in capsys.readouterr().err


def test_a_copy_of_a_named_run_says_that_it_is_one(store, plan_of, chat_data, place, monkeypatch, capsys):
    monkeypatch.setenv("LORAFIT_RUNS", str(store.folder))
    run = store.create(plan_of(), chat_data, place=place)
    store.request_stop(run.id)
    store.describe(run.id, name="x" * shelf.LONGEST_NAME)
    store.create(plan_of(), chat_data)
    store.claim_next("cpu")  # holds the device, so that no worker starts
    assert door.main(["duplicate", run.id, "--detach"]) == 0, capsys.readouterr().err
    again = store.runs()[0]
    assert (again.plan, again.place.parent_id) == (run.plan, run.id)
    assert again.name == "x" * 73 + " (copy)"


def test_what_lies_in_the_trash_without_a_row_goes_after_a_week_and_hinders_nothing(store, over):
    left = store.folder / shelf.TRASH / over.id
    left.mkdir(parents=True)
    (left / "old").touch()
    store.delete(over.id)
    assert not (left / "old").exists()
    assert (left / "weights").exists()
    forgotten = store.folder / shelf.TRASH / "20200101-000000-abcd"
    forgotten.mkdir()
    store.sweep()
    assert forgotten.exists()
    os.utime(forgotten, (0, 0))
    store.sweep()
    assert not forgotten.exists()
    (store.folder / over.id).mkdir()
    ((store.folder / over.id) / "taken").touch()
    store.sweep()
    assert left.is_dir()
