import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.trainer.waiting import PATIENCE, losses_of, over, waited, worker_of
from trainer.runs import launcher
from trainer.runs.contract import LOST_SECONDS, Phase, State
from trainer.runs.export import RESULT
from trainer.worker import checkpoints
from trainer.worker.rows import ROWS

pytestmark = pytest.mark.slow


def test_a_run_trains_saves_answers_and_starts_the_next(store, plan_of, chat_data, place):
    first = store.create(plan_of(max_steps=8, learning_rate=5e-3), chat_data, {"used_bytes": 10**9}, place=place)
    second = store.create(plan_of(max_steps=2, method="dora"), chat_data, place=place)
    launcher.launch(store, first.id)
    launcher.launch(store, first.id)  # a double click
    launcher.launch(store, second.id)
    assert [run.state for run in store.runs()] == [State.QUEUED, State.PREPARING]
    done = waited(store, first.id, over)
    assert (done.state, done.error) == (State.FINISHED, None)
    losses = [metric.loss for metric in store.metrics(first.id)]
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    metric = store.metrics(first.id)[-1]
    assert metric.tokens_per_second > 0
    assert metric.memory_bytes > 10**8
    assert metric.eta_seconds == 0
    assert metric.grad_norm > 0
    # Linux counts resident pages in batches by thread: the peak may lag by some hundred KiB.
    assert done.measured["peak_used_bytes"] >= 0.99 * metric.memory_bytes
    assert done.details["rows"] == 24
    assert [answer.prompt for answer in store.answers(first.id)] == ["What comes after one?"]
    with safe_open(store.run_folder(first.id) / RESULT / "adapter_model.safetensors", "pt") as tensors:
        assert any("lora_B" in name for name in tensors.keys())  # noqa: SIM118 - not a mapping
    assert waited(store, second.id, over).state is State.FINISHED
    assert store.run(first.id).attempt == store.run(second.id).attempt == 1
    phases = [event.text for event in store.events(first.id) if event.kind == "phase"]
    assert phases == ["Loading.", "Tokenizing.", "Training.", "Saving.", "Evaluating."]


def test_a_killed_run_with_a_torn_checkpoint_is_resumed_on_the_same_curve(store, plan_of, chat_data, place):
    plan = plan_of(max_steps=12, save_steps=3, lora_dropout=0.1)
    undisturbed = store.create(plan, chat_data, place=place)
    launcher.launch(store, undisturbed.id)
    assert waited(store, undisturbed.id, over).state is State.FINISHED
    killed = store.create(plan, chat_data, place=place)
    launcher.launch(store, killed.id)
    waited(store, killed.id, lambda run: run.step >= 7)
    os.kill(worker_of(killed.id).pid, signal.SIGKILL)
    begun = time.monotonic()
    folder = store.run_folder(killed.id)
    assert checkpoints.newest(folder).name == "checkpoint-6"
    os.truncate(folder / "checkpoints" / "checkpoint-6" / "optimizer.pt", 1000)
    assert checkpoints.newest(folder).name == "checkpoint-3"
    lost = waited(store, killed.id, over)
    assert lost.state is State.LOST
    assert time.monotonic() - begun < LOST_SECONDS + 10
    before = store.metrics(killed.id)[:3]
    store.request_resume(killed.id)
    launcher.launch(store, killed.id)
    assert waited(store, killed.id, over).state is State.FINISHED
    assert store.metrics(killed.id)[:3] == before
    assert losses_of(store, killed.id) == pytest.approx(losses_of(store, undisturbed.id), rel=1e-5)


def test_a_stopped_run_saves_and_goes_on(store, plan_of, chat_data, place):
    run = store.create(plan_of(max_steps=400, save_steps=1000), chat_data, place=place)
    launcher.launch(store, run.id)
    waited(store, run.id, lambda run: run.step >= 3)
    store.request_stop(run.id)
    stopped = waited(store, run.id, over)
    assert stopped.state is State.STOPPED
    assert 3 <= stopped.step < 400
    assert (store.run_folder(run.id) / RESULT / "adapter_model.safetensors").is_file()
    assert checkpoints.newest(store.run_folder(run.id)).name == f"checkpoint-{stopped.step}"
    assert [answer.prompt for answer in store.answers(run.id)] == list(chat_data.prompts)
    assert not (store.run_folder(run.id) / ROWS).exists()
    store.request_resume(run.id)
    launcher.launch(store, run.id)
    waited(store, run.id, lambda now: now.step > stopped.step)
    assert len(losses_of(store, run.id)) == store.run(run.id).step
    store.request_stop(run.id)
    waited(store, run.id, over)


def test_who_asks_once_more_while_the_prompts_are_asked_does_not_wait_for_them(store, plan_of, chat_data, place):
    many = dataclasses.replace(chat_data, prompts=tuple(f"What comes after {number}?" for number in range(2_000)))
    run = store.create(plan_of(max_steps=400), many, place=place)
    launcher.launch(store, run.id)
    waited(store, run.id, lambda run: run.step >= 2)
    store.request_stop(run.id)
    store.request_stop(run.id)  # a double click: the answers are still wanted
    waited(store, run.id, lambda run: run.phase is Phase.EVALUATING)
    begun = time.monotonic()
    store.request_stop(run.id)
    stopped = waited(store, run.id, over)
    assert time.monotonic() - begun < 10
    assert stopped.state is State.STOPPED
    assert len(store.answers(run.id)) < 2_000
    assert (store.run_folder(run.id) / RESULT / "adapter_model.safetensors").is_file()


def test_the_end_of_a_session_saves_and_a_run_that_is_over_trains_some_more_steps(store, plan_of, chat_data, place):
    run = store.create(plan_of(max_steps=400), chat_data, place=place)
    launcher.launch(store, run.id)
    waited(store, run.id, lambda run: run.step >= 2)
    worker_of(run.id).terminate()
    stopped = waited(store, run.id, over)
    assert stopped.state is State.STOPPED
    assert store.answers(run.id) == ()  # a machine that goes down does not wait for them
    store.extend(run.id, 3)
    launcher.launch(store, run.id)
    done = waited(store, run.id, over)
    assert (done.state, done.step) == (State.FINISHED, stopped.step + 3)
    assert [metric.step for metric in store.metrics(run.id)] == list(range(1, done.step + 1))


def test_the_command_line_runs_lists_shows_and_refuses(tmp_path, plan_of, chat_data, tiny_model):
    plan_file = tmp_path / "plan.json"
    values = {**plan_of().to_dict(), "model_name_or_path": str(tiny_model)}
    plan_file.write_text(json.dumps(values))
    ran = trainer(tmp_path, "run", "--plan", plan_file, "--data", chat_data.path, "--max-steps", 2, "--json")
    assert ran.returncode == 0, ran.stderr
    described = json.loads(ran.stdout)
    assert (described["state"], described["step"]) == ("finished", 2)
    assert described["id"] in trainer(tmp_path, "list").stdout
    assert "loss" in trainer(tmp_path, "show", described["id"]).stdout
    assert trainer(tmp_path, "export", described["id"]).stdout.startswith("step,epoch,loss,")
    zipped = tmp_path / "adapter.zip"
    assert trainer(tmp_path, "export", described["id"], "--zip", zipped).returncode == 0
    with zipfile.ZipFile(zipped) as archive:
        assert {"adapter_model.safetensors", "plan.json", "metrics.csv", "README.md"} <= set(archive.namelist())
    assert "last loss" in trainer(tmp_path, "compare", described["id"], described["id"]).stdout
    assert "24 rows of layout messages" in trainer(tmp_path, "check", "--data", chat_data.path).stdout
    refused = trainer(tmp_path, "resume", described["id"])
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"run {described['id']}: can be resumed")
    plan_file.write_text("{")
    broken = trainer(tmp_path, "run", "--plan", plan_file, "--data", chat_data.path)
    assert (broken.returncode, broken.stderr) == (2, "plan: must be valid JSON. Export it again.\n")


def trainer(tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LORAFIT_RUNS": str(tmp_path / "runs"), "LORAFIT_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "trainer", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
