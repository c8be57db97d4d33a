import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from specs import DataError, PlanError, RunError
from specs.paths import REPO
from tests.trainer.waiting import over, waited
from trainer import files
from trainer.data.source import DataSource
from trainer.failure import DiskFullError, NotFiniteError, kind_and_sentence
from trainer.results import checkpoints
from trainer.runs import launcher
from trainer.runs.contract import Place, State
from trainer.runs.session import Session
from trainer.worker.loop import states
from trainer.worker.rows import tokenized_rows
from trainer.worker.splitting import held_out_rows


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        pytest.param(MemoryError(), "out_of_memory", "memory: the run needs more than the device has.", id="Python"),
        pytest.param(
            torch.OutOfMemoryError("CUDA out of memory."), "out_of_memory", "memory: the run needs more", id="CUDA"
        ),
        pytest.param(
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            "out_of_memory",
            "memory: the run needs more",
            id="torch on a CPU",
        ),
        pytest.param(
            OSError(errno.ENOSPC, "No space left on device"), "disk_full", "disk: no space is left", id="disk"
        ),
        pytest.param(
            RuntimeError("PytorchStreamWriter failed: No space left on device"),
            "disk_full",
            "disk: no space",
            id="torch",
        ),
        pytest.param(DiskFullError("disk", "needs more"), "disk_full", "disk: needs more.", id="foreseen"),
        pytest.param(NotFiniteError("loss", "must be finite", "nan"), "not_finite", "loss: must be finite", id="NaN"),
        pytest.param(DataError("d", "is empty"), "data", "d: is empty.", id="data"),
        pytest.param(PlanError("r", "is small"), "plan", "r: is small.", id="plan"),
        pytest.param(
            ValueError("<b>\nmore"), "unexpected", "run: ended with ValueError, got '<b>'.", id="anything else"
        ),
    ],
)
def test_every_failure_has_a_kind_and_a_sentence(error, kind, sentence):
    found, told = kind_and_sentence(error)
    assert found == kind
    assert told.startswith(sentence)
    assert "\n" not in told


def checkpoint(folder, step):
    target = folder / "checkpoints" / f"checkpoint-{step}"
    target.mkdir(parents=True)
    (target / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    save_file({"w": torch.ones(1000)}, target / "adapter_model.safetensors")
    for name in (checkpoints.OPTIMIZER, checkpoints.SCHEDULER):
        states.save({"state": torch.ones(1000)}, target / name)
    states.save({"cpu": torch.random.get_rng_state()}, checkpoints.random_numbers(target, 0))
    return target


@pytest.mark.parametrize("name", ["trainer_state.json", "adapter_model.safetensors", checkpoints.OPTIMIZER])
@pytest.mark.parametrize("size", [0, 10, -100])
def test_a_torn_checkpoint_is_skipped_for_the_one_before_it(tmp_path, name, size):
    before, torn = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    assert checkpoints.newest(tmp_path) == torn
    path = torn / name
    os.truncate(path, size if size >= 0 else max(0, path.stat().st_size + size))
    assert checkpoints.newest(tmp_path) == before


def test_a_checkpoint_appears_whole_and_old_ones_go(tmp_path):
    for step in (1, 2, 3):
        with checkpoints.written(tmp_path) as scratch:
            shutil.move(checkpoint(tmp_path / "made", step), scratch)
            assert not (tmp_path / "checkpoints" / f"checkpoint-{step}").exists()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["checkpoint-2", "checkpoint-3"]


def test_what_fails_while_it_is_written_leaves_no_trace(tmp_path):
    def write():
        with files.replaced(tmp_path / "adapter") as target:
            (target / "half").write_text("x")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_worker_was_writing_is_removed_and_whole_checkpoints_stay(tmp_path):
    whole = checkpoint(tmp_path, 4)
    checkpoint(tmp_path / ".writing-abc", 5)
    files.tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    assert checkpoints.newest(tmp_path) == whole


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(DiskFullError, match=r"storing the run needs 1,048,576\.0 GiB, got '[\d.,]+ \w+ free'\. Free"):
        files.require_space(tmp_path, 2**50, "storing the run")


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_no_question_is_both_learned_and_evaluated(share):
    groups = [f"question {number // 3}" for number in range(90)]
    held_out = held_out_rows(groups, share=share, seed=1)
    inside = {groups[row] for row in held_out}
    outside = {group for row, group in enumerate(groups) if row not in set(held_out)}
    assert not inside & outside
    assert abs(len(held_out) - 90 * share) <= 3
    assert held_out_rows(groups, share=share, seed=1) == held_out
    assert held_out_rows(groups, share=0, seed=1) == []


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_ends_the_run_in_a_sentence(store, plan_of, chat_data, tiny_model, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    run = store.create(plan_of(), chat_data, place=Place(model_path=str(broken)))
    launcher.launch(store, run.id)
    failed = waited(store, run.id, over)
    assert (failed.state, failed.error_kind) == (State.FAILED, "not_finite")
    assert failed.error.startswith("loss of step 1: must be a finite number, got nan.")


@pytest.mark.slow
def test_a_worker_without_memory_says_so_and_tells_its_peak(store, plan_of, tmp_path, place):
    path = tmp_path / "long.txt"
    path.write_text("one " * 400_000)  # eager attention then asks for terabytes
    plan = plan_of(max_length=400_000, attn_implementation="eager", per_device_train_batch_size=1)
    run = store.create(plan, DataSource(path=str(path)), {"used_bytes": 5}, place=place)
    launcher.launch(store, run.id)
    failed = waited(store, run.id, over)
    assert (failed.state, failed.error_kind) == (State.FAILED, "out_of_memory"), failed.error
    assert "lower per_device_train_batch_size" in failed.error
    assert failed.measured["peak_used_bytes"] > 0
    assert store.request_resume(run.id).state is State.QUEUED


@pytest.mark.slow
def test_bad_data_fails_in_a_sentence_and_the_next_run_starts(store, plan_of, tmp_path, place):
    files = {"empty.jsonl": "", "unknown.jsonl": '{"a": 1}\n'}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    runs = [store.create(plan_of(), DataSource(path=str(tmp_path / name)), place=place) for name in files]
    launcher.launch(store, runs[0].id)
    failed = [waited(store, run.id, over) for run in runs]
    assert [(run.state, run.error_kind) for run in failed] == [(State.FAILED, "data")] * 2
    assert "must have at least one row" in failed[0].error
    assert "has the columns of no known layout" in failed[1].error


def test_a_device_that_torch_does_not_know_starts_no_worker(store, plan_of, chat_data):
    run = store.create(plan_of(), chat_data, place=Place(device="cuda:0; rm -rf /"))
    with pytest.raises(RunError, match="must be cpu, mps, cuda:N"):
        launcher.launch(store, run.id)
    assert store.run(run.id).state is State.FAILED


def test_data_that_changed_is_not_trained_on_under_the_old_run(store, plan_of, chat_data, place, tiny_tokenizer):
    store.create(plan_of(), chat_data, place=place)
    run = store.claim_next(place.device)
    with tokenized_rows(Session(run, store, threading.Event()), tiny_tokenizer):
        assert store.run(run.id).details["data_sha256"] == chat_data.require_unchanged(None)
    with Path(chat_data.path).open("a") as stream:
        stream.write('\n{"messages": []}')
    with (
        pytest.raises(DataError, match="has changed since the run started"),
        tokenized_rows(Session(store.run(run.id), store, threading.Event()), tiny_tokenizer),
    ):
        pass


def test_a_token_in_what_a_worker_crashed_with_stands_in_no_log_and_no_sentence(store, plan_of, place, tmp_path):
    token = "hf_" + "aB3" * 12
    data = tmp_path / f"{token}.jsonl"
    data.write_text('{"colour": "red"}\n')
    environment = {**os.environ, "MY_API_KEY": "correct horse battery", "PYTHONPATH": str(REPO)}
    plan = plan_of(method="lora")
    run = store.create(plan, DataSource(path=str(data), prompts=("correct horse battery",)), place=place)
    run = store.claim_next(run.place.device)
    command = [sys.executable, "-m", "trainer.worker", str(store.folder), run.id, str(run.attempt)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    ended = store.run(run.id)
    assert (done.returncode, ended.state) == (1, State.FAILED)
    assert "Traceback" in done.stderr
    for text in (done.stderr, done.stdout, ended.error, *(event.text for event in store.events(run.id))):
        assert token not in text
        assert "correct horse battery" not in text
    assert "[hidden]" in ended.error
