"""Every adapter other than LoRA: trained, saved, resumed on the same curve, merged or refused, as large as priced."""

import dataclasses
import json
import re
import shutil
import threading

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from estimator.estimate import trainable_params
from estimator.tape.conditions import Conditions
from estimator.tape.recipe import recipe
from estimator.tracer.trace import trace
from specs import METHODS, ModelSpec, PlanError
from trainer.model.adapters import let_dtypes_meet
from trainer.model.build import base_model, build
from trainer.model.layers import layers
from trainer.results import checkpoints
from trainer.results.merge import merge
from trainer.runs.contract import Place, State
from trainer.runs.export import RESULT
from trainer.runs.session import Session
from trainer.worker.train import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias:UserWarning"),
]

COVERED = ("miss", "oft", "vera", "hira", "loha", "lokr", "beft", "ln-tuning")
"""The methods that are trained here; tests/trainer/worker/test_methods.py trains all others."""
SIZES = {"r": 8, "oft_block_size": 16, "learning_rate": 1e-2, "lr_scheduler_type": "constant", "warmup_steps": 0.0}


def resumed_on_the_same_curve(store, plan, data, place):
    """The run of a plan that is trained, and trained again from its checkpoint at step 2, to the same losses."""
    run = store.create(plan, dataclasses.replace(data, prompts=()), place=place)
    assert train(Session(store.claim_next(place.device), store, threading.Event())) is State.FINISHED
    losses = [metric.loss for metric in store.metrics(run.id)]
    shutil.rmtree(checkpoints.newest(store.run_folder(run.id)))  # as if it had been killed after the second step
    assert checkpoints.newest(store.run_folder(run.id)).name == "checkpoint-2"
    store.enter(run.id, State.STOPPED)
    store.request_resume(run.id)
    assert train(Session(store.claim_next(place.device), store, threading.Event())) is State.FINISHED
    assert [metric.loss for metric in store.metrics(run.id)] == pytest.approx(losses, rel=1e-5)
    return run


@pytest.mark.parametrize("method", COVERED)
def test_an_adapter_is_resumed_on_the_same_curve_and_merged_or_refused(
    store, chat_data, place, plan_of, tmp_path, method
):
    plan = plan_of(**SIZES | {"method": method, "save_steps": 2, "max_steps": 4})
    run = resumed_on_the_same_curve(store, plan, chat_data, place)
    losses = [metric.loss for metric in store.metrics(run.id)]
    assert losses[-1] < losses[0]
    saved = load_file(store.run_folder(run.id) / RESULT / "adapter_model.safetensors")
    assert any(weight.abs().sum() > 0 for weight in saved.values())
    run = store.run(run.id)
    if METHODS[method].adapter.unmerged:
        with pytest.raises(PlanError, match="cannot be merged"):
            merge(store, run, tmp_path / "merged")
        return
    merge(store, run, tmp_path / "merged")
    base = AutoModelForCausalLM.from_pretrained(run.model, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, store.run_folder(run.id) / RESULT)
    alone, ids = AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), torch.arange(3, 19).reshape(1, 16)
    with torch.no_grad():
        said, found = tuned(ids).logits, alone.float()(ids).logits
    assert torch.nn.functional.cosine_similarity(said, found, dim=-1).min() > 0.999


@pytest.mark.parametrize("method", COVERED)
def test_an_adapter_has_the_weights_that_were_priced_and_works_on_a_base_in_16_bit(
    tiny_model, tiny_config, plan_of, tmp_path, method
):
    plan = plan_of(**SIZES | {"method": method, "dtype": "bfloat16"})
    spec = ModelSpec.from_config(tiny_config.to_dict(), name="tiny")
    tape = trace(recipe(spec, plan, Conditions()), lambda _: None)
    real = build(plan, str(tiny_model), device="cpu")
    trained = {name: weight for name, weight in real.named_parameters() if weight.requires_grad}
    counted = sum(weight.numel() for weight in trained.values())
    assert trainable_params(tape, plan) == counted
    assert layers(base_model(plan, str(tiny_model), device="cpu")).adapter_params(plan) in {counted, None}
    assert _priced(tape, plan) == _held(real)
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    ids = torch.arange(3, 19).reshape(1, 16)
    real(input_ids=ids, labels=ids).loss.backward()
    assert all(weight.grad is not None for weight in trained.values())
    real.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base_model(plan, str(tiny_model), device="cpu"), tmp_path)
    with torch.no_grad():
        assert torch.equal(let_dtypes_meet(again).eval()(ids).logits, real.eval()(ids).logits)


@pytest.fixture(scope="session")
def untied(tmp_path_factory, tiny_tokenizer, tiny_config):
    """A random Llama of three layers whose head has weights of its own."""
    folder = tmp_path_factory.mktemp("untied")
    config = LlamaConfig(**{**tiny_config.to_dict(), "tie_word_embeddings": False, "num_hidden_layers": 3})
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


MORE = [
    pytest.param({"layers_to_transform": (1, 2)}, 2 / 3, (0, 0), id="some layers"),
    pytest.param({"method": "vera", "layers_to_transform": (0,)}, 1 / 3, (0, 0), id="one layer of VeRA"),
    pytest.param({"modules_to_save": ("lm_head", "input_layernorm")}, 1, (1, 3), id="whole modules"),
    pytest.param({"trainable_token_indices": (5, 100, 7)}, 1, (0, 3), id="single tokens"),
]
"""What is trained otherwise than the adapter alone: its share of all layers, and what comes on top, in
output heads and in vectors as wide as the model."""


@pytest.mark.parametrize(("values", "share", "more"), MORE)
def test_what_is_trained_beside_an_adapter_is_what_the_plan_names(plan_of, untied, values, share, more):
    plan, plain = plan_of(**{"method": "lora", **values}), plan_of(method=values.get("method", "lora"))
    config = json.loads((untied / "config.json").read_text())
    one, other = (build(each, config, device="meta") for each in (plan, plain))
    found = {name: weight for name, weight in one.named_parameters() if weight.requires_grad}
    adapter = sum(weight.numel() for weight in other.parameters() if weight.requires_grad)
    beside = (more[0] * config["vocab_size"] + more[1]) * config["hidden_size"]
    assert sum(weight.numel() for weight in found.values()) == share * adapter + beside
    known = layers(base_model(plan, config, device="meta")).adapter_params(plan)
    assert known == (None if beside else share * adapter)
    numbers = {int(number) for name in found if "lora_" in name for number in re.findall(r"layers\.(\d+)", name)}
    assert numbers <= {*(plan.layers_to_transform or range(3))}


@pytest.mark.filterwarnings("ignore:.*without saving embedding layers.*:UserWarning")
def test_layers_modules_and_tokens_are_priced_to_the_byte_trained_resumed_and_merged(
    store, chat_data, plan_of, untied, tmp_path
):
    more = {
        "layers_to_transform": (1, 2),
        "modules_to_save": ("lm_head",),
        "trainable_token_indices": (*range(4, 100),),
    }
    plan = plan_of(method="lora", max_steps=3, save_steps=2, **more)
    spec = ModelSpec.from_config(json.loads((untied / "config.json").read_text()), name="untied")
    tape = trace(recipe(spec, plan, Conditions()), lambda _: None)
    real = build(plan, str(untied), device="cpu")
    assert trainable_params(tape, plan) == sum(one.numel() for one in real.parameters() if one.requires_grad)
    assert _priced(tape, plan) == _held(real)
    run = resumed_on_the_same_curve(store, plan, chat_data, Place(model_path=str(untied)))
    merge(store, store.run(run.id), tmp_path / "merged")
    tuned = PeftModel.from_pretrained(base_model(plan, str(untied), device="cpu"), store.run_folder(run.id) / RESULT)
    alone, ids = AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), torch.arange(3, 19).reshape(1, 16)
    with torch.no_grad():
        said, found = tuned.eval()(ids).logits, alone.float()(ids).logits
    assert torch.nn.functional.cosine_similarity(said, found, dim=-1).min() > 0.999
    moved = load_file(tmp_path / "merged" / "model.safetensors")
    before = load_file(untied / "model.safetensors")
    changed = {name for name, weight in moved.items() if not torch.equal(weight, before[name].to(weight.dtype))}
    assert {"lm_head.weight", "model.embed_tokens.weight"} < changed
    assert not any("layers.0." in name for name in changed)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param({"layers_to_transform": (2,)}, "numbers of the model's layers, from 0 to 1, got 2", id="no layer"),
        pytest.param(
            {"modules_to_save": ("lm_haed",)}, "modules of the model with weights, got lm_haed. Nearest: lm_head"
        ),
        pytest.param({"modules_to_save": ("embed_tokens",)}, "must name modules that share no weights", id="tied"),
        pytest.param(
            {"method": "qlora", "modules_to_save": ("q_proj",)}, "must name modules that are not quantized", id="4 bit"
        ),
        pytest.param({"trainable_token_indices": (400,)}, "must be numbers of tokens, from 0 to", id="no token"),
    ],
)
def test_what_cannot_be_trained_beside_an_adapter_is_refused(tiny_model, plan_of, values, said):
    with pytest.raises(PlanError, match=said):
        build(plan_of(**{"method": "lora", **values}), str(tiny_model), device="cpu")


def test_a_table_of_words_is_not_trained_whole_and_by_tokens(untied, plan_of):
    plan = plan_of(method="lora", modules_to_save=("embed_tokens",), trainable_token_indices=(3,))
    with pytest.raises(PlanError, match="which trains rows of it, got embed_tokens"):
        build(plan, str(untied), device="cpu")


def _priced(tape, plan) -> int:
    """The bytes of everything that stays, by the tape."""
    return sum(one.elements(plan.r) * one.itemsize * one.count for one in tape.residents)


def _held(model: torch.nn.Module) -> int:
    """The bytes of everything that stays in a model."""
    kept = [tensor for module in model.modules() for tensor in module.buffers(recurse=False)]
    held = {id(tensor): tensor for tensor in (*model.parameters(), *kept)}
    return sum(tensor.numel() * tensor.element_size() for tensor in held.values())


@pytest.mark.parametrize("method", ["loha", "lokr"])
def test_an_adapter_that_needs_whole_weights_is_refused_over_4_bit(plan_of, method):
    with pytest.raises(PlanError, match=f"load_in_4bit: must be off under method {method}: it computes"):
        plan_of(method=method, load_in_4bit=True)


def test_every_adapter_that_is_put_on_layers_is_trained_in_a_test():
    assert {METHODS[name].peft_type for name in COVERED} | {"LORA", "ADALORA", "IA3"} == {
        entry.peft_type for entry in METHODS.values() if entry.adapter is not None and entry.adapter.on
    }


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"init_lora_weights": "olora"}, id="OLoRA"),
        pytest.param({"init_lora_weights": "eva", "learning_rate": 1e-3}, id="EVA"),
        pytest.param({"init_lora_weights": "eva", "learning_rate": 1e-3, "load_in_4bit": True}, id="EVA over 4 bit"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*without saving embedding layers.*:UserWarning")
def test_lora_that_begins_otherwise_is_trained_resumed_and_loaded(store, chat_data, place, plan_of, values):
    method = "qlora" if values.get("load_in_4bit") else "lora"
    plan = plan_of(**{"method": method, "max_steps": 4, "save_steps": 2, **values})
    run = resumed_on_the_same_curve(store, plan, chat_data, place)
    config = json.loads((store.run_folder(run.id) / RESULT / "adapter_config.json").read_text())
    assert config["init_lora_weights"] == values["init_lora_weights"]
    assert not config["rank_pattern"]
    saved = load_file(store.run_folder(run.id) / RESULT / "adapter_model.safetensors")
    first = next(weight for name, weight in saved.items() if "lora_A" in name)
    if values["init_lora_weights"] == "eva":  # orthonormal directions, moved by four small steps
        assert torch.allclose(first @ first.T, torch.eye(len(first)), atol=0.05)
