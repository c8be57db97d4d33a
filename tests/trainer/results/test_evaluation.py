"""Evaluations: models that learned are called better, spoiled ones worse, and what was found survives any end."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from specs import DataError, RunError
from tests.patience import PATIENCE
from tests.trainer.classified import model_folder, source_of
from tests.trainer.conftest import QUESTIONS
from tests.trainer.tasks import CASES
from trainer.__main__ import _parser, main
from trainer.commands.evaluating import _other_rows
from trainer.data.source import DataSource
from trainer.failure import NotFiniteError
from trainer.results import evaluation
from trainer.results.chat import BASE, TUNED
from trainer.results.evaluation import Wanted
from trainer.results.voices import Voices
from trainer.runs import processes
from trainer.runs.cards import judged, model_card
from trainer.runs.contract import Place
from trainer.runs.session import Session
from trainer.sandbox import running
from trainer.worker import evaluating
from trainer.worker.judging.reading import loss_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    # As tests/trainer/worker/test_methods.py: what transformers generates with comes with positions.
    pytest.mark.filterwarnings("ignore:Position ids are not supported.*:UserWarning"),
]


@pytest.fixture
def evaluated(store):
    """Evaluates a run in this process, and returns what was found and the rows."""

    def found(run, **wanted):
        folder = store.run_folder(run.id) / evaluation.FOLDER
        folder.mkdir(exist_ok=True)
        progress = evaluating._Progress(folder)
        evaluating.evaluate(Session(run, store, threading.Event()), Wanted(**wanted), progress)
        progress.end("done")
        return evaluation.latest(store, run), evaluation.rows(store, run)

    return found


@pytest.fixture
def trained_case(trained_from, plan_of, tmp_path, tiny_config, tiny_tokenizer):
    """Trains a small case of a task."""

    def trained(case):
        folder = model_folder(case.models[0], tmp_path, tiny_config, tiny_tokenizer)
        settings = {
            "task_type": case.task_type,
            "learning_rate": 5e-3,
            "eval_split": 0.4,
            "per_device_train_batch_size": 4,
        }
        settings |= case.plan
        plan = plan_of(method="lora", max_steps=12, save_steps=12, **settings)
        return trained_from(plan, source_of(tmp_path / "rows.jsonl", case.rows), Place(model_path=str(folder)))

    return trained


def test_a_model_that_learned_is_better_with_its_losses_and_answers(learned, evaluated):
    found, rows = evaluated(learned, answers=3)
    assert found.stage == "done"
    assert found.is_better
    loss, exact, *_, general = found.found["compared"]
    assert loss["tuned"] < loss["base"] - 0.5
    assert (exact["name"], exact["rows"], general["name"]) == ("exact_match", 3, "general")
    assert len(rows) == found.found["of"] == loss["rows"] == 8
    assert all(row["answer"].startswith("In short:") for row in rows[:3])
    assert all(row["tuned"].startswith("In short:") for row in rows[:3])
    assert "base" not in rows[3]
    total, tokens = (sum(row[name] for row in rows) for name in ("base_loss", "tokens"))
    assert loss["base"] == pytest.approx(total / tokens)


def test_the_verdict_goes_with_the_run_until_it_is_trained_on(learned, evaluated, store):
    found, _ = evaluated(learned, answers=0)
    run = store.run(learned.id)
    told = found.found["verdict"]["sentence"]
    assert told in model_card(run, store.metrics(run.id))
    assert judged(dataclasses.replace(run, step=run.step + 5)) == ""
    assert judged(run) == told


def test_only_rows_that_were_not_learned_are_read(learned, evaluated):
    _, rows = evaluated(learned, answers=0)
    asked = {row["question"] for row in rows}
    assert len(asked) == 2
    assert learned.details["learned"] == 24 - 8
    assert set(learned.details["expected"]) == asked


def test_a_loss_is_that_of_transformers(learned, store):
    session = Session(learned, store, threading.Event())
    ids, labels = [5, 6, 7, 8, 9], [-100, -100, 7, 8, 9]
    with Voices(session).model(BASE) as model, torch.no_grad():
        known = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        assert loss_of(model, ids, labels) == pytest.approx(3 * float(known), rel=1e-5)


def test_a_prompt_that_was_learned_moves_no_loss(trained_here, plan_of, chat_data, store):
    run = trained_here(plan_of(method="prompt-tuning", eval_split=0.34), chat_data)
    ids, labels = [5, 6, 7, 8, 9], [-100, -100, 7, 8, 9]
    with Voices(Session(run, store, threading.Event())).model(TUNED) as model, torch.no_grad():
        known = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        assert loss_of(model, ids, labels) == pytest.approx(3 * float(known), rel=1e-5)


def test_answers_end_where_positions_do(trained_from, plan_of, tmp_path, tiny_tokenizer, evaluated):
    config = GPT2Config(vocab_size=len(tiny_tokenizer), n_positions=64, n_embd=32, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tiny_tokenizer.save_pretrained(tmp_path / "gpt2")
    rows = [{"prompt": f"{'one ' * 8}{number}", "completion": "In short: one"} for number in range(24)]
    plan = plan_of(method="lora", eval_split=0.34, target_modules=("c_attn",), max_steps=1)
    run = trained_from(plan, source_of(tmp_path / "rows.jsonl", rows), Place(model_path=str(tmp_path / "gpt2")))
    found, judged = evaluated(run, answers=2)
    assert found.stage == "done"
    assert all(row["tuned"] for row in judged[:2])


def test_a_model_that_gives_no_numbers_is_refused(learned, evaluated, store):
    weights = store.run_folder(learned.id) / "adapter" / "adapter_model.safetensors"
    save_file({name: value * torch.nan for name, value in load_file(weights).items()}, weights)
    with pytest.raises(NotFiniteError, match="loss of a row: must be a finite number in both models, got nan"):
        evaluated(learned)


def test_a_spoiled_model_is_called_worse(learned, evaluated, store):
    weights = store.run_folder(learned.id) / "adapter" / "adapter_model.safetensors"
    save_file({name: -value if "lora_B" in name else value for name, value in load_file(weights).items()}, weights)
    found, _ = evaluated(learned, answers=0)
    assert not found.is_better
    assert found.found["verdict"]["worse"]
    assert found.found["verdict"]["sentence"].startswith("Worse than the base model")


def test_a_fully_tuned_model_is_held_against_the_base_it_no_longer_has(trained_here, plan_of, chat_data, evaluated):
    plan = plan_of(method="full", max_steps=20, save_steps=20, eval_split=0.34, learning_rate=5e-3)
    found, _ = evaluated(trained_here(plan, chat_data), answers=2)
    loss = found.found["compared"][0]
    assert loss["base"] == pytest.approx(6, abs=0.5)  # the log of 400 words: a random model
    assert loss["tuned"] < loss["base"] - 0.5


def test_pairs_are_judged_by_the_likelier_answer(trained_here, plan_of, chat_data, tmp_path, evaluated):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Say {n}", "chosen": "yes yes", "rejected": "no no no"} for n in range(16)]
    path.write_text("\n".join(map(json.dumps, rows)))
    plan = plan_of(method="lora", max_steps=12, save_steps=12, eval_split=0.5, learning_rate=1e-2)
    found, judged = evaluated(trained_here(plan, dataclasses.replace(chat_data, path=str(path))))
    assert found.found["compared"][0]["name"] == "preferred"
    assert found.found["compared"][0]["tuned"] == 1.0
    assert len(judged) == 8


@pytest.mark.parametrize("task_type", ["SEQ_CLS", "TOKEN_CLS", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"])
def test_other_tasks_are_held_against_what_there_is(task_type, evaluated, trained_case):
    case = CASES[task_type]
    if task_type == "SEQ_2_SEQ_LM":
        rows = [{"translation": {"en": row["input"], "xx": row["output"]}} for row in case.rows]
        case = dataclasses.replace(case, rows=rows)
    found, rows = evaluated(trained_case(case), answers=2)
    first = found.found["compared"][0]
    translated = {"bleu", "chrf"} <= {one["name"] for one in found.found["compared"]}
    assert translated == (task_type == "SEQ_2_SEQ_LM")
    assert first["of"].startswith("guess that always says" if task_type in {"SEQ_CLS", "TOKEN_CLS"} else "base model")
    assert len(rows) == first["rows"]


def test_a_task_without_a_base_is_refused_in_one_sentence(evaluated, trained_case):
    run = trained_case(CASES["QUESTION_ANS"])
    with pytest.raises(RunError, match="nothing to hold a model for extractive question answering against"):
        evaluated(run)


def test_a_run_that_learned_all_rows_needs_others(trained_here, plan_of, chat_data, evaluated):
    run = trained_here(plan_of(eval_split=0.0), chat_data)
    with pytest.raises(DataError, match="this run learned all"):
        evaluated(run)
    found, rows = evaluated(run, data=chat_data, rows=7, answers=0)
    assert len(rows) == 7
    assert "7 of 24 rows of chat.jsonl, from which the model learned: " in found.found["verdict"]["sentence"]


def test_other_rows_come_from_another_split_or_other_columns(learned, tmp_path):
    def other(*words):
        given = _parser().parse_args(["evaluate", learned.id, *words])
        return _other_rows(learned.data, given)

    assert other() is None
    assert other("--split", "test") == dataclasses.replace(learned.data, split="test")
    path = tmp_path / "other.jsonl"
    path.write_text('{"q": "What comes after one?", "a": "In short: one and more."}\n')
    found = other("--data", str(path), "--columns", "prompt=q", "completion=a")
    assert (found.path, found.columns, found.split) == (str(path), {"prompt": "q", "completion": "a"}, "train")
    with pytest.raises(DataError, match="--columns: is for other rows than those of the run, got 'prompt=q'"):
        other("--columns", "prompt=q")


def test_rows_of_another_split_were_not_learned(trained_here, plan_of, tmp_path, evaluated):
    path = tmp_path / "splits.json"
    rows = [{"prompt": question, "completion": answer} for question, answer in QUESTIONS]
    path.write_text(json.dumps({"train": rows * 4, "test": rows}))
    source = DataSource(path=str(path), prompts=("What comes after one?",))
    found, judged = evaluated(
        trained_here(plan_of(eval_split=0.0), source), data=dataclasses.replace(source, split="test"), answers=0
    )
    assert len(judged) == 6
    assert "on 6 rows of split test of splits.json: " in found.found["verdict"]["sentence"]


def test_a_file_whose_name_is_no_unicode_is_named_in_what_is_kept(learned, tmp_path):
    path = tmp_path / os.fsdecode(b"b\xffd.jsonl")
    path.write_text("{}")
    told = evaluating._basis(learned, Wanted(rows=1, answers=0, data=DataSource(path=str(path))))
    assert told.encode() == rb"rows of b\udcffd.jsonl"


def test_changed_data_is_refused(learned, evaluated):
    data = Path(learned.data.path)
    before = data.read_text()
    data.write_text(before + "\n")
    with pytest.raises(DataError, match="has changed since the run started"):
        evaluated(learned)
    data.write_text(before)


def waited(store, run, *, stage):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = evaluation.latest(store, run)
        if found is not None and found.stage == stage:
            return found
        time.sleep(0.05)
    raise TimeoutError((store.run_folder(run.id) / evaluation.LOG).read_text())


@contextlib.contextmanager
def beating(store, run):
    """Keep a run alive as its worker would: one that nobody works on gives its device back before a slow start ends."""
    over = threading.Event()

    def beat():
        while not over.wait(1):
            store.beat(run.id, run.attempt)

    thread = threading.Thread(target=beat)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.slow
def test_what_was_found_survives_a_stop_a_kill_and_a_run_that_takes_the_device(learned, store, plan_of, place):
    evaluation.start(store, learned, Wanted(answers=0))
    evaluation.start(store, learned, Wanted(answers=0))  # a second click starts no second process
    with pytest.raises(RunError, match="under way with other rows or answers"):
        evaluation.start(store, learned, Wanted(answers=1))
    first = waited(store, learned, stage="done").found
    many = Wanted(rows=8, answers=8)
    process = store.run_folder(learned.id) / evaluation.FOLDER / "process"

    def send(number):
        os.kill(int(process.read_text().split()[0]), number)

    def held():
        """Start one that waits: a tiny model has answered before anybody can stop it."""
        evaluation.start(store, learned, many)
        send(signal.SIGSTOP)
        waited(store, learned, stage="running")

    for end, stage, sentence in (
        (lambda: evaluation.stop(store, learned), "stopped", "Stopped."),
        (lambda: send(signal.SIGKILL), "failed", "ended without giving a reason"),
    ):
        held()
        end()
        with contextlib.suppress(ProcessLookupError):
            send(signal.SIGCONT)
        found = waited(store, learned, stage=stage)
        assert sentence in found.sentence
        assert found.found == first
    held()
    store.create(plan_of(), learned.data, place=place)
    taking = store.claim_next("cpu")
    send(signal.SIGCONT)
    with beating(store, taking):
        assert taking.id in waited(store, learned, stage="stopped").sentence
        with pytest.raises(RunError, match=f"which run {taking.id} is using"):
            evaluation.start(store, learned, many)
    assert evaluation.latest(store, learned).found == first


@pytest.mark.slow
def test_the_command_ends_with_1_where_nothing_got_better(learned, store, monkeypatch, capsys):
    monkeypatch.setenv("LORAFIT_RUNS", str(store.folder))
    assert main(["evaluate", learned.id, "--answers", "0"]) == 0
    assert capsys.readouterr().out.startswith(
        "Better than the base model, on 8 rows that were not learned: perplexity "
    )
    assert main(["evaluate", learned.id, "--answers", "0", "--rows", "2", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"]["sentence"].startswith("Too few rows to tell")
    assert len(found["by_row"]) == 2
    assert main(["evaluate", learned.id, "--data", "nowhere.jsonl"]) == 2
    assert "nowhere.jsonl: is not a file. Choose a file" in capsys.readouterr().err
    assert main(["evaluate", learned.id, "--rows", "0"]) == 2
    assert capsys.readouterr().err == "--rows: must be at least 1, got 0.\n"


def test_two_runs_are_not_evaluated_on_one_device_at_once(learned, store, plan_of, chat_data, place):
    other = store.create(plan_of(), chat_data, place=place)
    store.request_stop(other.id)
    folder = store.run_folder(other.id) / evaluation.FOLDER
    folder.mkdir(parents=True)
    (folder / "process").write_text(processes.identity(os.getpid()))
    with pytest.raises(RunError, match=f"on which run {other.id} is being evaluated"):
        evaluation.start(store, learned, Wanted())


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed here")
def test_a_benchmark_names_what_to_install(learned, store):
    with pytest.raises(RunError, match=r"--benchmark: needs lm-eval, .* -m pip install lm-eval==0\.4\.13\."):
        evaluation.start(store, learned, Wanted(benchmark="arc_easy"))


def test_a_run_without_a_result_cannot_be_evaluated(store, plan_of, chat_data, place):
    run = store.create(plan_of(), chat_data, place=place)
    with pytest.raises(RunError, match="has saved no adapter yet"):
        evaluation.start(store, run, Wanted())
    assert evaluation.latest(store, run) is None


def test_a_damaged_result_counts_as_none(learned, store, evaluated):
    evaluated(learned, answers=0, rows=2)
    folder = store.run_folder(learned.id) / evaluation.FOLDER
    (folder / evaluation.FOUND).write_text('{"verdict": ')
    (folder / evaluation.ROWS).write_text("[]")
    assert evaluation.latest(store, learned).found == {}
    assert evaluation.rows(store, learned) == ()


@pytest.mark.skipif(running._way() is None, reason="this system gives no namespaces")
def test_code_is_run_where_it_is_asked_for_and_rows_bring_tests(learned, evaluated, tmp_path):
    path = tmp_path / "code.jsonl"
    rows = [
        {"prompt": question, "completion": "x = 1", "test": f"assert x == {n % 2}"}
        for n, (question, _) in enumerate(QUESTIONS)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    source = DataSource(path=str(path))
    found, judged = evaluated(learned, data=source, answers=4, run_code=True)
    passed = next(one for one in found.found["compared"] if one["name"] == "passed")
    assert (passed["rows"], passed["tuned"]) == (2, 0.0)
    assert found.found["notes"] == ["2 of 4 tests are left out: the answer in the data does not pass them."]
    assert "SyntaxError" in judged[1]["tuned_ended"]
    with pytest.raises(
        DataError, match="--run-code: needs rows with a test, in a column named test, tests, test_list or"
    ):
        evaluated(learned, run_code=True)


def test_code_is_not_run_unless_it_is_asked_for_and_answers_are_written(learned, store):
    assert not _parser().parse_args(["evaluate", learned.id]).run_code
    with pytest.raises(RunError, match="--run-code: runs answers, and none are written"):
        evaluation.start(store, learned, Wanted(run_code=True, answers=0))
