"""Runs with a result: one that learned something, trained once and copied for each test, and some of random values."""

import shutil
import threading

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.trainer.classified import source_of
from tests.trainer.conftest import QUESTIONS, tiny_plan
from trainer.runs.contract import Place, State
from trainer.runs.export import RESULT
from trainer.runs.session import Session
from trainer.runs.store import Store
from trainer.worker.train import train


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory, tiny_model):
    """A runs folder with a run that learned how all answers of its data begin; and the run's id."""
    folder = tmp_path_factory.mktemp("once")
    rows = [{"prompt": question, "completion": answer} for question, answer in QUESTIONS * 4]
    store, place = Store(folder / "runs"), Place(model_path=str(tiny_model))
    plan = tiny_plan(method="lora", max_steps=40, save_steps=20, eval_split=0.34, learning_rate=1e-2, r=8)
    store.create(plan, source_of(folder / "chat.jsonl", rows), place=place)
    run = store.claim_next(place.device)
    assert train(Session(run, store, threading.Event())) is State.FINISHED
    store.enter(run.id, State.FINISHED)
    return store.folder, run.id


@pytest.fixture
def adapter_run(store, plan_of, chat_data, tiny_model, tiny_tokenizer):
    """Makes a run whose result is an adapter with random values."""

    def made(config=None, method="qlora", **settings):
        run = store.create(plan_of(method=method), chat_data, place=Place(model_path=str(tiny_model)))
        values = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "init_lora_weights": False, **settings}
        with torch.random.fork_rng():
            torch.manual_seed(len(store.runs()))
            model = get_peft_model(
                AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32),
                config or LoraConfig(task_type="CAUSAL_LM", **values),
            )
            model.save_pretrained(store.run_folder(run.id) / RESULT)
        tiny_tokenizer.save_pretrained(store.run_folder(run.id) / RESULT)
        return run.id

    return made


@pytest.fixture
def learned(store, trained_once):
    """The run, in the store of the test; its checkpoints are of steps 20 and 40."""
    folder, run_id = trained_once
    shutil.copytree(folder, store.folder, dirs_exist_ok=True)
    return Store(store.folder).run(run_id)
