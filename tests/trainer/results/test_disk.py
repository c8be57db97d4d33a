"""What takes disk space is told in parts that sum to the whole, and what is removed is used by nobody."""

import json
import os
from pathlib import Path

import pytest

from estimator import cached
from specs import RunError
from specs.taken import Taken, size_bytes
from trainer import __main__ as door
from trainer.data.source import DataSource
from trainer.results import disk
from trainer.runs import processes
from trainer.runs.contract import Place, State
from trainer.runs.storage import private

WEIGHTS = b"x" * 50_000


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Point everything at a cache and a runs folder of its own."""
    monkeypatch.setenv("LORAFIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LORAFIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "shared"))
    return tmp_path / "cache"


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(WEIGHTS)
    return path


@pytest.fixture
def upload(store):
    """Keep a file as an upload under a name."""

    def kept(name: str) -> Path:
        private.make_folder(store.folder / "uploads")
        path = write(store.folder / "uploads" / f"{name}.jsonl")
        path.with_suffix(".name.json").write_text('"mine.jsonl"')
        return path

    return kept


@pytest.fixture
def left(store, plan_of):
    """Leave a run as workers do: in a state, with a checkpoint, a merged model, and a result if it was saved."""

    def made(state: State, data: Path = Path("/data.jsonl"), **where: str) -> Path:
        run = store.create(plan_of(), DataSource(path=str(data)), place=Place(**where))
        store.claim_next(run.place.device)
        store.enter(run.id, State.RUNNING)
        folder = store.run_folder(run.id)
        write(folder / "checkpoints" / "checkpoint-2" / "optimizer.safetensors")
        write(folder / "merged-2" / "model.safetensors")
        if state in {State.FINISHED, State.STOPPED}:
            write(folder / "adapter" / "adapter_model.safetensors")
        if state is not State.RUNNING:
            store.enter(run.id, state)
        return folder

    return made


def kinds(store) -> dict[str, Taken]:
    return {one.kind: one for one in disk.found(store, cached.kept())}


def test_the_parts_sum_to_what_both_folders_take(store, left, upload, cache):
    for state in (State.FINISHED, State.FAILED, State.STOPPED):
        left(state, upload(f"{state}"))
    store.delete(store.runs()[0].id)
    upload("spare")
    for name in (
        "tapes/old/a.tape",
        "speed/a.json",
        "wheels/a.whl",
        "models/demo/model.safetensors",
        "hub/x",
        "fault.txt",
    ):
        write(cache / name)
    found = kinds(store)
    assert sum(one.num_bytes for one in found.values()) == size_bytes(store.folder) + size_bytes(cache)
    assert all(one.num_bytes > 0 for one in found.values())
    assert found["trash"].number == 1
    assert found["uploads"].number == 1
    assert found["used-uploads"].number == 3, "a deleted run can come back to its data"


def test_each_kind_that_is_offered_is_removed_and_frees_what_it_said(store, left, upload, cache):
    finished, failed = left(State.FINISHED), left(State.FAILED)
    store.delete(left(State.STOPPED).name)
    spare = upload("spare")
    for name in ("tapes/old/a.tape", "datasets/a.parquet", "wheels/a.whl", "models/demo/model.safetensors", "hub/x"):
        write(cache / name)
    for one in kinds(store).values():
        if not one.is_removable:
            with pytest.raises(RunError, match="is not removed by its kind"):
                disk.remove(store, one)
            continue
        assert one.kind in disk.KINDS
        before = size_bytes(store.folder) + size_bytes(cache)
        assert disk.remove(store, one).num_bytes == one.num_bytes
        # Only the database and the records of runs may grow meanwhile.
        assert before - size_bytes(store.folder) - size_bytes(cache) == pytest.approx(one.num_bytes, abs=100_000)
    assert not any(one.is_removable for one in kinds(store).values())
    assert sorted(path.name for path in finished.iterdir() if path.is_dir()) == ["adapter"]
    assert (failed / "checkpoints" / "checkpoint-2").is_dir(), "it is all that a failed run has learned"
    assert "begin anew" in store.events(finished.name)[-1].text
    assert not spare.with_suffix(".name.json").exists()
    assert store.deleted() == ()


def test_nothing_is_removed_that_a_run_at_work_or_an_evaluation_uses(store, left, upload, cache):
    model = write(cache / "models" / "demo" / "model.safetensors").parent
    data, other = upload("data"), upload("other")
    working = left(State.RUNNING, data, device="cuda:0", model_path=str(model))
    judged = left(State.FINISHED)
    (judged / "evaluation").mkdir()
    (judged / "evaluation" / "process").write_text(processes.identity(os.getpid()))
    (judged / "evaluation" / "wanted.json").write_text(
        json.dumps({"rows": 1, "answers": 0, "data": {"path": str(other), "prompts": []}})
    )
    for one in kinds(store).values():
        if one.is_removable:
            disk.remove(store, one)
    for folder in (working, judged):
        assert {"checkpoints", "merged-2"} <= {path.name for path in folder.iterdir()}
    assert model.is_dir()
    assert data.exists()
    assert other.exists()


def test_what_begins_to_be_used_after_it_was_found_stays_and_says_so(store, left, upload, plan_of):
    folder, data = left(State.STOPPED), upload("data")
    found = kinds(store)
    store.request_resume(folder.name)
    store.create(plan_of(), DataSource(path=str(data)))
    (sentence,) = disk.remove(store, found["checkpoints"]).left
    assert "can be tidied only once it is over" in sentence
    freed = disk.remove(store, found["uploads"])
    assert (freed.num_bytes, len(freed.left)) == (0, 1)
    assert (folder / "checkpoints" / "checkpoint-2").is_dir()
    assert data.exists()


def test_a_result_that_is_the_base_model_of_a_run_at_work_stays(store, left, plan_of):
    one, other = left(State.FINISHED), left(State.FINISHED)
    before = kinds(store)
    store.create(plan_of(), DataSource(path="/data.jsonl"), place=Place(model_path=str(one / "merged-2")))
    assert kinds(store)["merged"].paths == (other / "merged-2",)
    assert kinds(store)["used-merged"].number == 1
    (sentence,) = disk.remove(store, before["merged"]).left
    assert "holds the base model of a run at work" in sentence
    assert (one / "merged-2").is_dir()
    assert not (other / "merged-2").exists()


def test_what_lies_in_the_trash_and_is_no_run_is_not_offered(store, left):
    store.delete(left(State.FINISHED).name)
    loose = write(store.folder / "trash" / "note.txt")
    found = kinds(store)["trash"]
    assert found.number == 1
    assert disk.remove(store, found).num_bytes == found.num_bytes
    assert "trash" not in kinds(store)
    assert loose.is_file()


def test_links_are_neither_followed_nor_removed(store, left, tmp_path, cache):
    elsewhere = write(tmp_path / "elsewhere" / "checkpoint-2" / "precious").parent.parent
    run, within = left(State.FINISHED), left(State.FINISHED)
    disk.remove(store, kinds(store)["checkpoints"])
    (run / "checkpoints").symlink_to(elsewhere)
    (within / "checkpoints").mkdir()
    (within / "checkpoints" / "checkpoint-4").symlink_to(elsewhere)
    cache.mkdir(exist_ok=True)
    (cache / "wheels").symlink_to(elsewhere)
    found = kinds(store)
    assert found["links"].number == 2
    assert found["checkpoints"].paths == (within / "checkpoints",)
    assert "wheels" not in found
    disk.remove(store, found["checkpoints"])
    assert (elsewhere / "checkpoint-2" / "precious").read_bytes() == WEIGHTS
    assert (run / "checkpoints").is_symlink()


def test_the_command_tells_tries_and_removes(left, capsys):
    folder = left(State.FINISHED)
    assert door.main(["disk", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    size = next(one["bytes"] for one in told["kinds"] if one["kind"] == "checkpoints")
    assert size >= len(WEIGHTS)
    assert told["bytes"] == sum(one["bytes"] for one in told["kinds"])
    assert door.main(["disk", "--remove", "checkpoints", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("checkpoints: would free 5")
    assert (folder / "checkpoints").is_dir()
    assert door.main(["disk", "--remove", "checkpoints", "trash", "--json"]) == 0
    freed = json.loads(capsys.readouterr().out)["freed"]
    assert [(one["kind"], one["bytes"]) for one in freed] == [("checkpoints", size), ("trash", 0)]
    assert not (folder / "checkpoints").exists()
    assert door.main(["disk"]) == 0
    assert "Merged and quantized models, exports (1)" in capsys.readouterr().out
    assert door.main(["disk", "--dry-run"]) == 2
    with pytest.raises(SystemExit, match="2"):
        door.main(["disk", "--remove", "finished"])
