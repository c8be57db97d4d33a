"""Adapters of one base model answer in one conversation, each as it would alone, and strangers are refused."""

import shutil
import threading

import pytest
import torch
from peft import IA3Config, PeftModel
from transformers import AutoModelForCausalLM

from specs import RunError
from trainer.results.chat import BASE, ROUTER, TUNED
from trainer.results.companions import companions, routed
from trainer.results.voices import Voices
from trainer.runs.export import RESULT
from trainer.runs.session import Session

# PEFT 0.21 reads a property that transformers 5.23 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
IDS = torch.arange(20)[None]


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def test_adapters_are_switched_in_one_model_and_each_says_what_it_says_alone(store, adapter_run, tiny_model):
    settings = ({"r": 4}, {"r": 8, "use_rslora": True}, {"use_dora": True, "target_modules": ["q_proj", "down_proj"]})
    ids = [adapter_run(method="lora", **one) for one in settings]
    own, *others = ids
    assert [run.id for run in companions(store, store.run(own))] == others[::-1]
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    alone = {BASE: logits(base)}
    for run_id in ids:
        fresh = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        alone[run_id] = logits(PeftModel.from_pretrained(fresh, store.run_folder(run_id) / RESULT))
    voices = Voices(Session(store.run(own), store, threading.Event()))
    for voice in (TUNED, others[0], BASE, others[1], TUNED, others[0]):
        with voices.model(voice) as model:
            torch.testing.assert_close(logits(model), alone[own if voice == TUNED else voice], atol=1e-5, rtol=1e-4)
    assert len(model.peft_config) == 3, "each is loaded once"


def test_a_router_over_two_equal_adapters_says_what_one_says_and_takes_none_of_another_shape(store, adapter_run):
    own, twin, other = adapter_run(method="lora"), adapter_run(method="lora"), adapter_run(method="lora", r=8)
    adapter_run(method="lora", use_dora=True)
    shutil.copytree(store.run_folder(own) / RESULT, store.run_folder(twin) / RESULT, dirs_exist_ok=True)
    assert [run.id for run in routed(store, store.run(own))] == [own, twin]
    assert routed(store, store.run(other)) == []
    voices = Voices(Session(store.run(own), store, threading.Event()))
    with voices.model(ROUTER) as model:
        found = logits(model)
    with voices.model(TUNED) as model:
        torch.testing.assert_close(found, logits(model), atol=1e-4, rtol=1e-3)
    with (
        pytest.raises(RunError, match="router: needs another LoRA adapter"),
        Voices(Session(store.run(other), store, threading.Event())).model(ROUTER),
    ):
        pass


@pytest.mark.parametrize(
    ("other", "said"),
    [
        pytest.param({"method": "qlora"}, "loaded in other numbers", id="a base in 4 bit"),
        pytest.param({"method": "ia3", "config": IA3Config(task_type="CAUSAL_LM")}, "is no LoRA", id="IA3"),
    ],
)
def test_an_adapter_that_cannot_be_loaded_beside_another_is_refused_in_a_sentence(store, adapter_run, other, said):
    own, stranger = adapter_run(method="lora"), adapter_run(**other)
    assert companions(store, store.run(own)) == []
    with (
        pytest.raises(RunError, match=said),
        Voices(Session(store.run(own), store, threading.Event())).model(stranger),
    ):
        pass
