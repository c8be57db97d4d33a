"""The command line refuses what it cannot do in one sentence, with exit status 2, before a worker is started."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from specs import FinetunePlan
from trainer.runs.contract import State
from trainer.runs.store import Store

PLAN = FinetunePlan.for_method("qlora", "no/model", dtype="float32", max_steps=1).to_json()
ROW = '{"prompt": "a", "completion": "b"}\n'


def call(runs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LORAFIT_RUNS": str(runs), "HF_TOKEN": "hf_none"}
    return subprocess.run(
        [sys.executable, "-m", "trainer", *arguments], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.parametrize(
    ("plan", "data", "said"),
    [
        pytest.param(PLAN, "", "at least one row", id="an empty file"),
        pytest.param(PLAN, '{"prompt":', "no row to train on", id="a torn file"),
        pytest.param(PLAN, '{"colour": "red"}\n', "layout", id="unknown columns"),
        pytest.param(PLAN, None, "file", id="no file"),
        pytest.param(
            PLAN.replace('"load_in_8bit": false', '"load_in_8bit": true'), ROW, "not both", id="contradiction"
        ),
        pytest.param("{", ROW, "valid JSON", id="a torn plan"),
        pytest.param(None, ROW, "cannot be read", id="no plan"),
    ],
)
def test_a_run_that_cannot_start_is_refused_and_leaves_nothing(
    tmp_path: Path, plan: str | None, data: str | None, said: str
) -> None:
    plan_file, data_file = tmp_path / "plan.json", tmp_path / "data.jsonl"
    if plan is not None:
        plan_file.write_text(plan)
    if data is not None:
        data_file.write_text(data)
    result = call(tmp_path / "runs", "run", "--plan", str(plan_file), "--data", str(data_file))
    assert result.returncode == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not Store(tmp_path / "runs").runs()


WITHOUT = importlib.util.find_spec("wandb") is None
LLAMA = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param(
            {"report_to": "wandb"},
            "report_to: needs a package that is not installed",
            id="no package",
            marks=pytest.mark.skipif(not WITHOUT, reason="wandb is installed here"),
        ),
        pytest.param({"num_gpus": 2, "sharding": "zero2"}, "sharding: must be none, ddp or fsdp", id="sharding"),
        pytest.param(
            {"attn_implementation": "flash_attention_2"}, "needs the flash-attn package", id="flash attention"
        ),
        pytest.param({"target_modules": ("q_porj",)}, "got q_porj. Nearest: q_proj", id="a misspelt module"),
    ],
)
def test_what_a_run_cannot_do_here_is_said_before_it_exists(tmp_path, values, said):
    plan_file, data_file = tmp_path / "plan.json", tmp_path / "data.jsonl"
    plan_file.write_text(FinetunePlan.for_method("lora", LLAMA, **values).to_json())
    data_file.write_text(ROW)
    asked = ("run", "--plan", str(plan_file), "--data", str(data_file), "--device", "cpu")
    result = call(tmp_path / "runs", *asked)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert said in result.stderr
    assert not Store(tmp_path / "runs").runs()


def test_a_retry_that_cannot_run_here_is_refused(store, plan_of, chat_data):
    run = store.create(plan_of(), chat_data)
    store.request_stop(run.id)
    result = call(store.folder, "retry", run.id, "--set", "num_gpus=2", "sharding=zero3")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "sharding: must be none, ddp or fsdp on a CPU" in result.stderr
    assert len(store.runs()) == 1


@pytest.mark.parametrize(
    "command", [["resume"], ["extend", "3"], ["retry", "--set", "r=2"]], ids=lambda words: words[0]
)
def test_a_run_whose_machine_changed_is_refused_when_it_is_asked_to_go_on(store, plan_of, chat_data, place, command):
    run = store.create(plan_of(), chat_data, place=dataclasses.replace(place, device="cuda:99"))
    store.request_stop(run.id)
    result = call(store.folder, command[0], run.id, *command[1:])
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "device: must be cpu" in result.stderr
    assert [found.state for found in store.runs()] == [State.STOPPED]


def test_a_race_says_beforehand_what_it_takes(store, plan_of, chat_data, tiny_model, tmp_path):
    store.create(plan_of(), chat_data)
    store.claim_next("cpu")  # holds the device, so that no worker starts
    (tmp_path / "plan.json").write_text(dataclasses.replace(plan_of(), model_name_or_path=str(tiny_model)).to_json())
    asked = ("race", "--plan", str(tmp_path / "plan.json"), "--data", chat_data.path, "--device", "cpu", "--detach")
    result = call(store.folder, *asked, "--vary", "learning_rate=1e-4,1e-3,1e-2,1e-1")
    assert result.returncode == 0, result.stderr
    assert "race of 4 plans, 2.6 runs' time" in result.stdout
    run = store.runs()[0]
    assert (run.plan.eval_split, run.race.own) == (0.1, 1)
    told = [event.text for event in store.events(run.id) if event.kind == "race"]
    assert told[0].startswith("4 plans take 2.6 times as long as one run")
    assert told[1].startswith("The plan holds out no rows to compare on: the race and its winner hold out 10%")
    refused = call(store.folder, *asked, "--vary", "max_length=16,32")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "max_length: cannot differ within a race" in refused.stderr


def test_columns_are_named_on_the_command_line(tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("frage,antwort\nHi?,Hello.\n")
    refused = call(tmp_path, "check", "--data", str(data))
    assert refused.returncode == 2
    assert "such as prompt=frage, completion=antwort." in refused.stderr
    checked = call(tmp_path, "check", "--data", str(data), "--columns", "prompt=frage", "completion=antwort")
    assert (
        "1 rows, 0 skipped\n  read as answers to learn (another model may read texts that belong together), "
        "layout prompt and completion" in checked.stdout
    )
    wrong = call(tmp_path, "check", "--data", str(data), "--columns", "prompt")
    assert (
        wrong.stderr
        == "--columns: takes pairs of a role and a column, got prompt. Write prompt=question, for example.\n"
    )


def test_data_is_examined_without_a_runs_folder(tmp_path):
    data, runs = tmp_path / "data.jsonl", tmp_path / "runs"
    data.write_text(ROW)
    runs.write_text("a file in its place")
    assert call(runs, "list").returncode == 2
    assert call(runs, "check", "--data", str(data)).stdout.startswith("data.jsonl: 1 rows, 0 skipped")


def test_an_unknown_run_is_refused(tmp_path: Path) -> None:
    for command in ("show", "stop", "resume", "export"):
        result = call(tmp_path, command, "../../etc")
        assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["chat"], "has saved no adapter yet", id="chat"),
        pytest.param(["evaluate"], "has saved no adapter yet", id="evaluate"),
        pytest.param(["keep", "20"], "has saved no adapter yet", id="keep"),
        pytest.param(["retry", "--set", "rank=8"], "is not a field of a plan", id="retry"),
        pytest.param(["push", "me/x"], "has saved no adapter yet", id="push"),
        pytest.param(["combine", "--weights", "1"], "at least two different runs", id="combine"),
    ],
)
def test_what_a_run_cannot_give_is_refused_in_a_sentence(store, plan_of, chat_data, arguments, said):
    run = store.create(plan_of(), chat_data)
    store.request_stop(run.id)
    result = call(store.folder, arguments[0], run.id, *arguments[1:])
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert said in result.stderr


def test_a_retry_is_queued_and_linked(store, plan_of, chat_data, place):
    failed, _ = store.create(plan_of(), chat_data, place=place), store.create(plan_of(), chat_data)
    store.request_stop(failed.id)
    store.claim_next("cpu")  # holds the device, so that no worker starts
    result = call(store.folder, "retry", failed.id, "--set", "max_length=32", "--detach")
    assert result.returncode == 0, result.stderr
    assert f"repeats {failed.id} with other settings" in result.stdout
    assert store.runs()[0].plan.max_length == 32
    copy = call(store.folder, "duplicate", failed.id, "--detach")
    assert f"repeats {failed.id} with the same settings" in copy.stdout
    store.delete(failed.id)
    assert f"repeats {failed.id}, which was deleted" in call(store.folder, "show", copy.stdout[:20]).stdout
