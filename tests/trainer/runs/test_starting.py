"""Runs started new, again, further or longer: refused before they are queued where they cannot be trained here."""

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from catalog import here
from specs import DataError, LorafitError, PlanError
from trainer.runs import trial
from trainer.runs.contract import Place, State
from trainer.runs.starting import Starter, changed


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        pytest.param(["learning_rate=1e-4", "r=8"], {"learning_rate": 1e-4, "r": 8}, id="numbers"),
        pytest.param(["gradient_checkpointing=true"], {"gradient_checkpointing": True}, id="true and false"),
        pytest.param(["optim=sgd"], {"optim": "sgd"}, id="words"),
        pytest.param(["target_modules=q_proj,v_proj"], {"target_modules": ("q_proj", "v_proj")}, id="names"),
        pytest.param(["target_modules=all-linear"], {"target_modules": "all-linear"}, id="one name"),
        pytest.param(["method=lora"], {"method": "lora", "load_in_4bit": False}, id="a method brings its preset"),
    ],
)
def test_settings_are_changed_as_written(plan_of, texts, expected):
    plan = changed(plan_of(), texts)
    assert {name: getattr(plan, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        pytest.param([], "at least one field", id="nothing"),
        pytest.param(["r"], "field=value", id="no value"),
        pytest.param(["rank=8"], "is not a field of a plan", id="unknown field"),
        pytest.param(["r=many"], "r: must be", id="not a number"),
        pytest.param(["method=magic"], "must be one of", id="unknown method"),
        pytest.param(["method=ia3", "r=8"], "--set: must change something: IA3 has no such setting", id="no effect"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(plan_of, texts, said):
    with pytest.raises(PlanError, match=said):
        changed(plan_of(), texts)


def test_a_retry_is_linked_and_made_once_until_it_is_over(store, plan_of, chat_data, place):
    store.create(plan_of(), chat_data)
    store.claim_next("cpu")  # holds the device, so that no worker starts
    clicked = dataclasses.replace(place, token="click")  # noqa: S106 - no password
    failed = store.create(plan_of(), chat_data, {"used_bytes": 9}, place=clicked)
    retry = Starter(store, here).retry
    plan = changed(failed.plan, ["max_length=32"])
    again = retry(failed, plan, {"used_bytes": 5})
    assert (again.state, again.place.parent_id, again.plan, again.data) == (State.QUEUED, failed.id, plan, failed.data)
    assert again.estimate == {"used_bytes": 5}
    assert retry(failed, plan).id == again.id
    assert retry(failed, changed(plan, ["r=2"])).id != again.id
    store.request_stop(again.id)
    assert retry(failed, plan).id != again.id


def test_a_copy_is_a_new_run_whatever_became_of_earlier_copies(store, plan_of, chat_data, place):
    run = began(store, plan_of(), chat_data, place)
    store.create(plan_of(), chat_data)
    store.claim_next("cpu")  # holds the device, so that no worker starts
    starter = Starter(store, here)
    known = {run.id}

    def copied():
        copy = starter.duplicate(run)
        assert copy.id not in known
        assert starter.duplicate(run).id == copy.id, "a double click makes one copy"
        known.add(copy.id)
        store.request_stop(copy.id)
        return copy.id

    first, second, third = copied(), copied(), copied()
    store.delete(first)
    copied()
    store.delete(third)
    store.take_back(first)
    copied()
    store.request_resume(second, plan=dataclasses.replace(run.plan, max_steps=99))
    copied()
    store.request_stop(second)
    copied()


def began(store, plan, data, place):
    """A run that was started, and stopped before its first step."""
    run = store.create(plan, data, place=place)
    store.claim_next(run.place.device)
    store.add_details(run.id, data_sha256=data.require_unchanged(None))
    store.enter(run.id, State.STOPPED)
    return store.run(run.id)


def asked(starter, run):
    """Each way to go on with a run, and to begin its like."""
    return (
        lambda: starter.start(run.plan, run.data, run.place),
        lambda: starter.retry(run, run.plan),
        lambda: starter.resume(run.id),
        lambda: starter.extend(run.id, 3),
    )


WITHOUT_WANDB = pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed here")


@pytest.mark.parametrize(
    ("values", "device", "words"),
    [
        pytest.param({"report_to": "wandb"}, "cpu", "report_to: needs a package", id="package", marks=WITHOUT_WANDB),
        pytest.param({"num_gpus": 2, "sharding": "zero2"}, "cpu", "sharding: must be none, ddp or fsdp", id="sharding"),
        pytest.param({"attn_implementation": "flash_attention_2"}, "cpu", "needs the flash-attn", id="flash attention"),
        pytest.param({"target_modules": ("q_porj",)}, "cpu", "got q_porj. Nearest: q_proj", id="a module"),
        pytest.param({}, "cuda:99", "device: must be cpu", id="a card that is gone"),
    ],
)
def test_what_cannot_be_trained_here_is_refused_at_every_door(store, plan_of, chat_data, place, values, device, words):
    run = began(store, plan_of(**values), chat_data, dataclasses.replace(place, device=device))
    for ask in asked(Starter(store, here), run):
        with pytest.raises(LorafitError, match=words):
            ask()
    assert [found.state for found in store.runs()] == [State.STOPPED]


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        pytest.param("model.safetensors", "has no safetensors weights", id="weights"),
        pytest.param("config.json", "has no config.json", id="configuration"),
        pytest.param(".", "must be a folder on this machine or a Hub id", id="folder"),
    ],
)
def test_a_model_that_is_gone_is_told_at_every_door(store, plan_of, chat_data, tiny_model, tmp_path, lost, words):
    folder = shutil.copytree(tiny_model, tmp_path / "copy")
    run = began(store, plan_of(), chat_data, Place(model_path=str(folder)))
    gone = folder / lost
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    for ask in asked(Starter(store, here), run):
        with pytest.raises(LorafitError, match=words):
            ask()
    assert [found.state for found in store.runs()] == [State.STOPPED]


def test_a_run_whose_data_changed_is_not_continued_but_run_anew(store, plan_of, chat_data, place):
    store.create(plan_of(), chat_data, place=Place(device="cpu"))
    store.claim_next("cpu")  # holds the device, so that no worker starts
    run = began(store, plan_of(), chat_data, dataclasses.replace(place, device="mps"))
    run = dataclasses.replace(run, place=dataclasses.replace(run.place, device="cpu"))
    with Path(chat_data.path).open("a") as stream:
        stream.write('\n{"messages": []}')
    begin, again, resume, extend = asked(Starter(store, here), run)
    for ask in (resume, extend):
        with pytest.raises(LorafitError, match="has changed since the run started"):
            ask()
    assert {begin().state, again().state} == {State.QUEUED}


def test_a_run_that_can_go_on_is_queued_again(store, plan_of, chat_data, place):
    run = began(store, plan_of(), chat_data, place)
    store.create(plan_of(), chat_data)
    store.claim_next("cpu")  # holds the device, so that no worker starts
    assert Starter(store, here).resume(run.id).state is State.QUEUED
    store.request_stop(run.id)
    longer = Starter(store, here).extend(run.id, 3)
    assert (longer.state, longer.plan.max_steps) == (State.QUEUED, 3)


def test_what_only_the_models_code_knows_is_tried_before_the_run_exists(store, plan_of, chat_data, place):
    missing, there = ({"rank_pattern": {rf"layers\.{layer}\..*q_proj": 2}} for layer in (9, 1))
    with pytest.raises(LorafitError, match="rank_pattern: must name linear modules"):
        Starter(store, here).start(plan_of(**missing), chat_data, place)
    assert store.runs() == ()
    assert trial.needs_trial(plan_of(**there), ("q_proj",))
    trial.require_buildable(plan_of(**there), place.model_path)
    assert not trial.needs_trial(plan_of(target_modules=("q_proj",)), ("q_proj",))


def test_a_model_of_unknown_modules_is_tried(store, plan_of, chat_data, tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]  # transformers has a default for it, the catalog does not
    (folder / "config.json").write_text(json.dumps(config))
    assert here.linear_modules(str(folder)) == ()
    with pytest.raises(LorafitError, match=r"got q_porj\. Nearest: q_proj"):
        Starter(store, here).start(plan_of(target_modules=("q_porj",)), chat_data, Place(model_path=str(folder)))
    assert store.runs() == ()


def test_a_split_that_the_data_lacks_is_told_before_the_run_exists(store, plan_of, chat_data, place):
    data = dataclasses.replace(chat_data, evaluation_split="test")
    with pytest.raises(DataError, match="holds no splits to choose from, got test"):
        Starter(store, here).start(plan_of(), data, place)
    assert not store.runs()
