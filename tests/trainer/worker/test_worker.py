import dataclasses
import json
import os
import signal
import time
import zipfile

import pytest
from safetensors import safe_open

from tests.trainer.waiting import losses_of, over, waited, worker_of
from trainer.__main__ import main
from trainer.results import checkpoints
from trainer.runs import launcher
from trainer.runs.contract import LOST_SECONDS, Phase, State
from trainer.runs.export import RESULT
from trainer.worker import train
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
    assert phases == ["Loading.", "Tokenizing.", "Training.", "Saving.", "Answering the questions."]


def test_a_killed_run_with_a_torn_checkpoint_is_resumed_on_the_same_curve(
    store, plan_of, chat_data, place, trained_here
):
    plan = plan_of(max_steps=40, save_steps=3, lora_dropout=0.1)
    undisturbed = trained_here(plan, chat_data)
    killed = store.create(plan, chat_data, place=place)
    launcher.launch(store, killed.id)
    waited(store, killed.id, lambda run: run.step >= 7)
    os.kill(worker_of(killed.id).pid, signal.SIGKILL)
    begun = time.monotonic()
    folder = store.run_folder(killed.id)
    newest = checkpoints.newest(folder)
    saved = int(newest.name.removeprefix("checkpoint-"))
    assert 6 <= saved < 40  # a step takes 40 ms: some more may pass before the signal arrives
    os.truncate(newest / checkpoints.OPTIMIZER, 1000)
    assert checkpoints.newest(folder).name == f"checkpoint-{saved - 3}"
    lost = waited(store, killed.id, over)
    assert lost.state is State.LOST
    assert time.monotonic() - begun < 4 * LOST_SECONDS  # a busy machine is late
    before = store.metrics(killed.id)[:3]
    store.request_resume(killed.id)
    launcher.launch(store, killed.id)
    assert waited(store, killed.id, over).state is State.FINISHED
    assert store.metrics(killed.id)[:3] == before
    assert losses_of(store, killed.id) == pytest.approx(losses_of(store, undisturbed.id), rel=1e-5)


def test_a_run_ends_with_its_session_is_resumed_stopped_and_made_longer(store, plan_of, chat_data, place):
    run = store.create(plan_of(max_steps=4000, save_steps=10_000), chat_data, place=place)
    launcher.launch(store, run.id)
    waited(store, run.id, lambda run: run.step >= 2)
    worker_of(run.id).terminate()
    ended = waited(store, run.id, over)
    assert ended.state is State.STOPPED
    assert 2 <= ended.step < 4000
    assert checkpoints.newest(store.run_folder(run.id)).name == f"checkpoint-{ended.step}"
    assert store.answers(run.id) == ()  # a machine that goes down does not wait for them
    store.request_resume(run.id)
    launcher.launch(store, run.id)
    waited(store, run.id, lambda now: now.step > ended.step)
    store.request_stop(run.id)
    stopped = waited(store, run.id, over)
    assert stopped.state is State.STOPPED
    assert ended.step < stopped.step < 4000
    assert len(losses_of(store, run.id)) == stopped.step
    assert (store.run_folder(run.id) / RESULT / "adapter_model.safetensors").is_file()
    assert checkpoints.newest(store.run_folder(run.id)).name == f"checkpoint-{stopped.step}"
    assert [answer.prompt for answer in store.answers(run.id)] == list(chat_data.prompts)
    assert not (store.run_folder(run.id) / ROWS).exists()
    store.extend(run.id, 3)
    launcher.launch(store, run.id)
    done = waited(store, run.id, over)
    assert (done.state, done.step) == (State.FINISHED, stopped.step + 3)
    assert [metric.step for metric in store.metrics(run.id)] == list(range(1, done.step + 1))


def test_who_asks_once_more_while_the_prompts_are_asked_does_not_wait_for_them(store, plan_of, chat_data, place):
    many = dataclasses.replace(chat_data, prompts=tuple(f"What comes after {number}?" for number in range(2_000)))
    run = store.create(plan_of(max_steps=4000, save_steps=10_000), many, place=place)
    launcher.launch(store, run.id)
    waited(store, run.id, lambda run: run.step >= 2)
    store.request_stop(run.id)
    store.request_stop(run.id)  # a double click: the answers are still wanted
    waited(store, run.id, lambda run: run.phase is Phase.EVALUATING)
    store.request_stop(run.id)
    stopped = waited(store, run.id, over)
    (asking,) = (event.at for event in store.events(run.id) if event.text == "Answering the questions.")
    assert stopped.finished_at - asking < train.STOPPED_SECONDS  # who asks but once waits that long
    assert stopped.state is State.STOPPED
    assert len(store.answers(run.id)) < 2_000
    assert (store.run_folder(run.id) / RESULT / "adapter_model.safetensors").is_file()


def test_the_command_line_runs_lists_shows_and_refuses(tmp_path, plan_of, chat_data, tiny_model, trainer):
    plan_file = tmp_path / "plan.json"
    values = {**plan_of().to_dict(), "model_name_or_path": str(tiny_model)}
    plan_file.write_text(json.dumps(values))
    status, out, err = trainer("run", "--plan", plan_file, "--data", chat_data.path, "--max-steps", 2, "--json")
    assert status == 0, err
    described = json.loads(out)
    assert (described["state"], described["step"]) == ("finished", 2)
    assert described["id"] in trainer("list")[1]
    assert "loss" in trainer("show", described["id"])[1]
    assert trainer("export", described["id"])[1].startswith("step,epoch,loss,")
    zipped = tmp_path / "adapter.zip"
    assert trainer("export", described["id"], "--zip", zipped)[0] == 0
    with zipfile.ZipFile(zipped) as archive:
        assert {"adapter_model.safetensors", "plan.json", "metrics.csv", "README.md"} <= set(archive.namelist())
    assert "last loss" in trainer("compare", described["id"], described["id"])[1]
    assert "24 rows, 0 skipped" in trainer("check", "--data", chat_data.path)[1]
    status, _, err = trainer("resume", described["id"])
    assert status == 2
    assert err.startswith(f"run {described['id']}: can be resumed")
    plan_file.write_text("{")
    broken = trainer("run", "--plan", plan_file, "--data", chat_data.path)
    assert broken == (2, "", "plan: must be valid JSON. Export it again.\n")


@pytest.fixture
def trainer(tmp_path, monkeypatch, capsys):
    """The command line in this process, as ``tests.trainer.test_command_line`` starts it in its own."""
    monkeypatch.setenv("LORAFIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LORAFIT_CACHE", str(tmp_path / "cache"))

    def called(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return called
