"""A runs folder that cannot be used is one sentence at every door; a damaged database is set aside and rebuilt."""

import dataclasses
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from specs import FinetunePlan
from specs.errors import LONGEST
from tests.unusable import NOBODY, each_kind
from trainer.data.source import DataSource
from trainer.runs.contract import Answer, Metric, Phase, Place, Run, State
from trainer.runs.storage import database, mirror
from trainer.runs.store import Store

CLICK = "click"


def trainer(runs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ended(runs, "-m", "trainer", *arguments)


def trainer_as_nobody(runs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same without rights; only once all is imported, since the project may lie where nobody else reads."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    code = (
        "import os, sys; from trainer import __main__ as trainer;"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); sys.exit(trainer.main(sys.argv[1:]))"
    )
    return ended(runs, "-c", code, *arguments)


def ended(runs: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LORAFIT_RUNS": str(runs)}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, check=False)


def assert_one_sentence(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert len(done.stderr) <= LONGEST + 1
    assert done.stderr.count(". ") == 1, "the sentence names a way out"


@each_kind
def test_an_unusable_runs_folder_is_one_sentence_on_the_command_line(tmp_path, kind):
    with kind(tmp_path) as (runs, said):
        assert_one_sentence(trainer(runs, "list"), said)


def test_a_runs_folder_of_somebody_else_is_one_sentence(tmp_path):
    Store(tmp_path / "runs")
    assert_one_sentence(trainer_as_nobody(tmp_path / "runs", "list"), "may not be read or written by this user")


def test_the_other_command_lines_need_no_runs_folder(tmp_path):
    (tmp_path / "runs").write_text("not a folder")
    (tmp_path / "cache").write_text("not a folder either")
    environment = {**os.environ, "LORAFIT_RUNS": str(tmp_path / "runs"), "LORAFIT_CACHE": str(tmp_path / "cache")}
    model = ["--model", "HuggingFaceTB/SmolLM2-135M-Instruct", "--gpu", "8 GiB"]
    for command in (
        ["catalog", "gpus", "8 GiB"],
        ["estimator", *model, "--method", "qlora", "--autocast"],
        ["advisor", *model],
    ):
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, env=environment)
        assert done.returncode == 0
        assert all(line.startswith("... ") for line in done.stderr.splitlines())


@pytest.fixture
def runs(store) -> list[Run]:
    """A finished run with all that a run can have, a waiting one, and one whose worker is at work."""
    plan = FinetunePlan.for_method("qlora", "no/model", target_modules=("q_proj",))
    data = DataSource(path="a.jsonl", prompts=("Why?",), columns={"prompt": "frage"})
    done = store.create(plan, data, {"used_bytes": 7}, place=Place(token=CLICK, model_path="/m"))
    store.claim_next("cpu")
    store.start_training(done.id)
    for step in (1, 2, 2, 3):
        store.add_metric(done.id, Metric(step=step, loss=1 / step, at=float(step)))
    store.add_metric(done.id, Metric(step=2, eval_loss=0.5))
    store.add_measured(done.id, peak_used_bytes=8)
    store.set_answers(done.id, [Answer(prompt="Why?", base="a", tuned="b"), Answer(prompt="Who?", base="c", tuned="d")])
    store.enter(done.id, State.FINISHED, phase=Phase.DONE, finished_at=9.0)
    working = store.create(plan, data)
    store.claim_next("cpu")
    store.start_training(working.id)
    waiting = store.create(plan, data, place=Place(parent_id=done.id))
    store.add_metric(working.id, Metric(step=1, loss=2.0))
    return [store.run(run.id) for run in (done, waiting, working)]


def known(store: Store, run: Run) -> tuple[object, ...]:
    fields = {entry.name: getattr(store.run(run.id), entry.name) for entry in dataclasses.fields(Run)}
    del fields["heartbeat_at"]
    texts = [event.text for event in store.events(run.id) if event.text.startswith("Rebuilt") is False]
    return fields, store.metrics(run.id), store.answers(run.id), texts


def damage_header(file: Path) -> None:
    file.write_bytes(b"no database" + file.read_bytes()[11:])


def damage_pages(file: Path) -> None:
    # Each page begins with its kind; the first with the header. https://www.sqlite.org/fileformat2.html
    whole = bytearray(file.read_bytes())
    for place in range(4096, len(whole), 4096):
        whole[place : place + 100] = b"\xff" * 100
    file.write_bytes(whole)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def settle(store: Store) -> Path:
    """Return the database after everything in its log is written into it, as after every ordinary end."""
    file = store.folder / database.FILE
    db = sqlite3.connect(file)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return file


@pytest.mark.parametrize("damage", [damage_header, damage_pages, truncate, empty, Path.unlink])
def test_a_damaged_database_is_set_aside_and_the_runs_are_rebuilt_from_their_folders(store, runs, damage):
    before = [known(store, run) for run in runs]
    file = settle(store)
    damage(file)
    bytes_then = file.read_bytes() if file.exists() else b""
    for _ in range(2):  # damage that only reading finds is told once, and repaired
        done = trainer(store.folder, "list")
        if done.returncode == 0:
            break
        assert_one_sentence(done, "is damaged")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 3
    again = Store(store.folder)
    assert [known(again, run) for run in runs] == before
    assert again.events(runs[0].id)[-1].text.startswith("Rebuilt from this run's folder")
    aside = list(store.folder.glob(f"{mirror.ASIDE}*.sqlite"))
    assert [path.read_bytes() for path in aside] == ([bytes_then] if bytes_then else [])


def test_a_database_that_is_damaged_while_it_is_used_is_rebuilt_for_the_next_question(store, runs):
    damage_pages(settle(store))
    with pytest.raises(sqlite3.DatabaseError, match="is damaged"):
        store.runs()
    assert {run.id for run in store.runs()} == {run.id for run in runs}
    assert "3 runs were rebuilt" in store.rebuilt


def test_a_database_that_is_removed_while_it_is_used_is_rebuilt_for_the_next_question(store, runs):
    settle(store).unlink()
    with pytest.raises(sqlite3.OperationalError, match="was removed or emptied"):
        store.runs()
    assert {run.id for run in store.runs()} == {run.id for run in runs}


def test_a_worker_goes_on_with_a_run_that_was_rebuilt(store, runs):
    settle(store).unlink()
    again = Store(store.folder)
    assert again.rebuilt == "The database of the runs was missing; 3 runs were rebuilt from their folders."
    working = runs[2]
    assert again.beat(working.id, working.attempt)
    again.add_metric(working.id, Metric(step=2, loss=1.0), attempt=working.attempt)
    assert [metric.step for metric in again.metrics(working.id)] == [1, 2]
    assert again.create(runs[0].plan, runs[0].data, place=runs[0].place).id == runs[0].id, "its token is known"


def test_a_record_that_cannot_be_read_hinders_no_other(store, runs):
    (store.folder / runs[1].id / mirror.RECORD).write_text('{"format": 3, "run": {"plan"')
    with (store.folder / runs[0].id / mirror.METRICS).open("a") as lines:
        lines.write('\n{"step": 9, "lo')
    settle(store).unlink()
    again = Store(store.folder)
    assert again.rebuilt.endswith("2 runs were rebuilt from their folders, 1 could not be read.")
    assert [metric.step for metric in again.metrics(runs[0].id)] == [1, 2, 3]


def test_records_of_an_older_version_are_rebuilt_by_the_same_migrations(tmp_path):
    folder = tmp_path / "runs" / "20260101-101010-abcd"
    folder.mkdir(parents=True)
    plan = {**FinetunePlan.for_method("lora", "no/model").to_dict(), "loss": "fused"}
    run = {"id": folder.name, "state": "stopped", "phase": "done", "device": "cpu", "model_path": "", "plan": plan}
    run |= {"data": {"path": "a.jsonl", "prompts": []}, "created_at": 1.0, "queued_at": 1.0}
    (folder / mirror.RECORD).write_text(mirror.json.dumps({"format": 1, "run": run, "answers": []}))
    assert Store(tmp_path / "runs").run(folder.name).plan.loss == "chunked"


def test_runs_from_before_there_were_records_get_them(store, runs):
    for run in runs:
        for file in (mirror.RECORD, mirror.METRICS, mirror.EVENTS):
            (store.folder / run.id / file).unlink(missing_ok=True)
    before = [known(store, run) for run in runs]
    Store(store.folder)
    settle(store).unlink()
    again = Store(store.folder)
    assert [known(again, run) for run in runs] == before


def test_the_runs_folder_and_what_is_in_it_are_this_users_alone(store, runs):
    uploads = store.folder / database.UPLOADS
    uploads.mkdir()
    (uploads / "a.jsonl").touch(0o644)
    (store.folder / database.FILE).chmod(0o644)
    store.folder.chmod(0o755)
    Store(store.folder)
    assert store.folder.stat().st_mode & 0o777 == 0o700
    files = [*store.folder.glob(f"{database.FILE}*"), uploads / "a.jsonl"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {(store.folder / run.id).stat().st_mode & 0o777 for run in runs} == {0o700}


def test_a_folder_that_others_use_too_stays_open_to_them(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    for name, mode in (("shared", 0o755), ("sticky", 0o1777)):
        folder = tmp_path / name
        folder.mkdir()
        folder.chmod(mode)
        (folder / "theirs").touch()
        os.chown(folder / "theirs", 65534, 65534)
        Store(folder)
        assert folder.stat().st_mode & 0o1777 == mode
        assert (folder / database.FILE).stat().st_mode & 0o777 == 0o600
