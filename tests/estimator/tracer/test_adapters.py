"""Adapters other than plain LoRA are priced by the same trace: their own tensors, and what they add to the step."""

import logging

import pytest
import torch

from estimator.estimate import trainable_params
from estimator.tape.conditions import Conditions
from estimator.tape.recipe import Recipe, added_tokens, batch_shape, recipe
from estimator.tracer.fit import Probe
from estimator.tracer.trace import recorded, trace
from specs import FinetunePlan
from tests.estimator.small import CONFIGS, model
from tests.estimator.tracer.test_tape_against_trace import peaks, replayed
from trainer.model.build import build

FOUR_BIT, EIGHT_BIT = {"load_in_4bit": True}, {"load_in_8bit": True}
ADAPTERS = [
    pytest.param("llama", {"method": "lora", "rank_pattern": {r"layers\.1\..*q_proj": 9, "up_proj": 2}}, id="ranks"),
    pytest.param("llama", {"method": "lora", "rank_pattern": {"mlp.up_proj": 2}}, id="ranks of all layers"),
    pytest.param("gpt2 with Conv1D", {"method": "adalora", "init_r": 9, "loss": "full"}, id="AdaLoRA, whole loss"),
    pytest.param("llama", {"method": "adalora", "gradient_checkpointing": True} | FOUR_BIT, id="AdaLoRA on 4-bit"),
    pytest.param("llama", {"method": "ia3", "bf16": True} | EIGHT_BIT, id="IA3 on 8-bit"),
    pytest.param("gemma2 with soft caps", {"method": "prompt-tuning", "num_virtual_tokens": 33}, id="prompt tuning"),
    pytest.param(
        "llama",
        {"method": "prompt-tuning", "loss": "full", "gradient_checkpointing": True} | FOUR_BIT,
        id="4-bit prompt",
    ),
    pytest.param("gemma3 with two kinds of layers", {"method": "prefix-tuning"}, id="prefix tuning"),
]


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def plan_of(values, batch=2, length=300):
    chosen = dict(values)
    method = chosen.pop("method")
    return FinetunePlan.for_method(method, "small", per_device_train_batch_size=batch, max_length=length, **chosen)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "values"), ADAPTERS)
def test_a_tape_of_any_adapter_equals_a_full_trace_and_pefts_own_count(name, values):
    plan = plan_of(values)
    wanted = recipe(model(name), plan, Conditions(padding="none"))
    tape = trace(Recipe.from_json(wanted.to_json()), lambda _: None)
    batch, length = batch_shape(plan)
    probe = Probe(batch=batch, length=length, added=added_tokens(plan), rank=plan.r)
    full = peaks(recorded(wanted, probe, every_layer=True)[0])
    assert replayed(tape, plan) == pytest.approx(full, rel=1e-3)
    counted, _ = build(plan, CONFIGS[name], device="meta").get_nb_trainable_parameters()
    assert trainable_params(tape, plan) == counted


@pytest.mark.parametrize(
    ("values", "others"),
    [
        pytest.param({"method": "ia3"}, {"r": 4, "num_virtual_tokens": 5}, id="IA3 has neither rank nor tokens"),
        pytest.param(
            {"method": "prompt-tuning"}, {"r": 4, "target_modules": ("q_proj",)}, id="prompts have no targets"
        ),
        pytest.param({"method": "adalora"}, {"r": 4, "target_r": 3, "tinit": 5}, id="budgets cost nothing"),
        pytest.param({"method": "lora"}, {"alpha_pattern": {"q_proj": 4}, "init_r": 4, "target_r": 2}, id="scales"),
    ],
)
def test_a_field_that_a_method_ignores_needs_no_new_tape(values, others):
    keys = {recipe(model("llama"), plan_of(values | more), Conditions()).key for more in ({}, others)}
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("values", "others"),
    [
        pytest.param({"method": "adalora"}, {"init_r": 24}, id="AdaLoRA's ranks"),
        pytest.param({"method": "prefix-tuning"}, {"num_virtual_tokens": 5}, id="virtual tokens"),
        pytest.param({"method": "ia3"}, FOUR_BIT, id="the base model's bits"),
        pytest.param({"method": "lora"}, {"rank_pattern": {"q_proj": 4}}, id="ranks by module"),
    ],
)
def test_a_field_that_shapes_the_step_needs_its_own_tape(values, others):
    keys = {recipe(model("llama"), plan_of(values | more), Conditions()).key for more in ({}, others)}
    assert len(keys) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_adalora_keeps_three_importance_tensors_for_each_weight_it_trains():
    plan = plan_of({"method": "adalora"})
    tape = trace(recipe(model("llama"), plan, Conditions()), lambda _: None)
    trained = sum(entry.elements(plan.r) * entry.count for entry in tape.residents if entry.trainable)
    remembered = sum(
        entry.elements(plan.r) * entry.count
        for entry in tape.residents
        if entry.component == "adapter" and not entry.is_parameter
    )
    real = build(plan, CONFIGS["llama"], device="meta")
    allocator = real.base_model.rankallocator
    for weight in real.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    allocator.update_ipt(real.base_model.model)
    kept = [value for name in ("ipt", "exp_avg_ipt", "exp_avg_unc") for value in getattr(allocator, name).values()]
    assert remembered == 3 * trained == sum(value.numel() for value in kept if value.numel() > 1)
