"""Every task but text generation, from rows to a result: trained, measured, killed and resumed."""

import json
import re
import shutil
import threading

import pytest
from transformers import AutoConfig

from specs import TASK_TYPES
from tests.trainer.classified import model_folder, source_of
from tests.trainer.tasks import CASES
from tests.trainer.waiting import killed_and_resumed, losses_of
from trainer.runs.contract import Place, State
from trainer.runs.export import RESULT
from trainer.runs.session import Session
from trainer.worker.train import train

MORE = [case for name, case in CASES.items() if name != "SEQ_CLS"]
"""Those that no test of their own trains."""


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory, tiny_config, tiny_tokenizer):
    made = {}

    def found(model_type):
        if model_type not in made:
            made[model_type] = model_folder(model_type, tmp_path_factory.mktemp("m"), tiny_config, tiny_tokenizer)
        return made[model_type]

    return found


@pytest.fixture
def task_plan(plan_of):
    def made(case, **values):
        settings = {"task_type": case.task_type, "per_device_train_batch_size": 4, "learning_rate": 5e-3, **case.plan}
        return plan_of(**{"method": "lora", **settings, **values})

    return made


def test_every_task_has_a_case():
    assert {*CASES} == {*TASK_TYPES} - {"CAUSAL_LM"}


@pytest.mark.parametrize(
    ("case", "model_type"),
    [pytest.param(case, kind, id=f"{case.task_type}-{kind}") for case in MORE for kind in case.models],
)
def test_a_task_is_learned_and_measured(case, model_type, store, task_plan, tmp_path, folder_of):
    method = "full" if model_type in case.whole else "lora"
    plan = task_plan(case, method=method, max_steps=40, save_steps=40, eval_split=0.25)
    source = source_of(tmp_path / "rows.jsonl", case.rows)
    store.create(plan, source, place=Place(model_path=str(folder_of(model_type))))
    run = store.claim_next("cpu")
    assert train(Session(run, store, threading.Event())) is State.FINISHED
    losses = losses_of(store, run.id)
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    measured = store.run(run.id).measured["evaluation"]
    assert measured.keys() == {"step", *case.measures}
    assert all(0 <= measured[name] <= 1 for name in case.measures)
    answers = store.answers(run.id)
    assert answers
    for answer in answers:
        assert answer.base or case.task_type == "SEQ_2_SEQ_LM"
        assert re.fullmatch(case.answers, answer.tuned)
    if case.plan.get("num_labels"):
        names = AutoConfig.from_pretrained(store.run_folder(run.id) / RESULT).id2label
        assert len(names) == case.plan["num_labels"]


@pytest.mark.parametrize(("name", "model_type"), [("SEQ_CLS", "llama"), ("TOKEN_CLS", "llama"), ("SEQ_2_SEQ_LM", "t5")])
def test_accumulated_batches_weigh_as_one(name, model_type, store, task_plan, tmp_path, folder_of):
    folder = shutil.copytree(folder_of(model_type), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dropout_rate": 0.0, "classifier_dropout": 0.0}))
    source, found = source_of(tmp_path / "rows.jsonl", CASES[name].rows), []
    for batch, number in ((4, 1), (1, 4)):
        parts = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": number}
        plan = task_plan(CASES[name], **parts, max_steps=2, save_steps=2, lora_dropout=0.0)
        run = store.create(plan, source, place=Place(model_path=str(folder)))
        assert train(Session(store.claim_next("cpu"), store, threading.Event())) is State.FINISHED
        store.enter(run.id, State.FINISHED)
        found.append([(metric.loss, metric.grad_norm) for metric in store.metrics(run.id)])
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE, ids=lambda case: case.task_type)
def test_a_killed_run_of_any_task_goes_on_on_the_same_curve(case, store, task_plan, tmp_path, folder_of):
    plan = task_plan(case, max_steps=12, save_steps=3, lora_dropout=0.1, eval_split=0.25)
    source, place = source_of(tmp_path / "rows.jsonl", case.rows), Place(model_path=str(folder_of(case.models[0])))
    store.create(plan, source, place=place)
    undisturbed = store.claim_next("cpu")
    assert train(Session(undisturbed, store, threading.Event())) is State.FINISHED
    store.enter(undisturbed.id, State.FINISHED)
    killed = killed_and_resumed(store, plan, source, place, at=7)
    assert losses_of(store, killed.id) == pytest.approx(losses_of(store, undisturbed.id), rel=1e-5)
