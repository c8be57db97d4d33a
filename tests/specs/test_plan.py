"""A plan holds what it is given, survives JSON, and refuses what contradicts itself with one sentence."""

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs import METHODS, FinetunePlan, PlanError


@pytest.mark.parametrize("method", METHODS)
def test_a_plan_of_every_method_survives_json(method: str) -> None:
    plan = FinetunePlan.for_method(method, "some/model", r=8, target_modules=("q_proj", "v_proj"))
    assert FinetunePlan.from_json(plan.to_json()) == plan


@given(
    r=st.integers(1, 4096),
    learning_rate=st.floats(1e-8, 1),
    batch=st.integers(1, 65_536),
    names=st.lists(st.text(min_size=1), min_size=1).map(tuple) | st.just("all-linear"),
)
def test_any_plan_in_range_survives_json(r: int, learning_rate: float, batch: int, names: Any) -> None:
    plan = FinetunePlan.for_method(
        "qlora", "m", r=r, learning_rate=learning_rate, per_device_train_batch_size=batch, target_modules=names
    )
    assert FinetunePlan.from_json(plan.to_json()) == plan


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,20}", fullmatch=True), st.integers(1, 4096)))
def test_patterns_survive_json_in_their_order_as_mappings(pattern: dict[str, int]) -> None:
    plan = FinetunePlan.for_method("lora", "m", rank_pattern=pattern, alpha_pattern=tuple(pattern.items()))
    assert plan.to_dict()["rank_pattern"] == plan.to_dict()["alpha_pattern"] == pattern
    again = FinetunePlan.from_json(plan.to_json())
    assert again == plan
    assert list(dict(again.rank_pattern)) == list(pattern)
    assert len({plan, again}) == 1


@pytest.mark.parametrize(
    ("values", "subject"),
    [
        pytest.param({"r": 0}, "r", id="rank zero"),
        pytest.param({"r": True}, "r", id="a boolean is not a number"),
        pytest.param({"r": "8"}, "r", id="text is not a number"),
        pytest.param({"learning_rate": math.nan}, "learning_rate", id="NaN"),
        pytest.param({"learning_rate": math.inf}, "learning_rate", id="infinity"),
        pytest.param({"max_length": 10**12}, "max_length", id="absurd length"),
        pytest.param({"target_modules": ()}, "target_modules", id="no targets"),
        pytest.param({"target_modules": "q_proj"}, "target_modules", id="a bare name is not a list"),
        pytest.param({"optim": "adam"}, "optim", id="unknown optimizer"),
        pytest.param({"max_steps": 0}, "max_steps", id="zero steps"),
        pytest.param({"load_in_8bit": True}, "load_in_8bit", id="4-bit and 8-bit at once"),
        pytest.param({"load_in_4bit": False}, "load_in_4bit", id="QLoRA without 4-bit"),
        pytest.param({"bf16": True, "fp16": True}, "fp16", id="two mixed precisions"),
        pytest.param({"num_gpus": 2}, "sharding", id="two GPUs without sharding"),
        pytest.param({"sharding": "fsdp"}, "sharding", id="sharding on one GPU"),
        pytest.param({"model_name_or_path": "  "}, "model_name_or_path", id="no model"),
        pytest.param({"rank_pattern": {"q_proj": 0}}, "rank_pattern: q_proj", id="rank zero in a pattern"),
        pytest.param({"rank_pattern": {"q_proj": "8"}}, "rank_pattern", id="text in a pattern"),
        pytest.param({"rank_pattern": ["q_proj"]}, "rank_pattern", id="a list is not a pattern"),
        pytest.param({"rank_pattern": {"(": 8}}, "rank_pattern", id="not a regular expression"),
        pytest.param({"alpha_pattern": {"(a+)+$": 8}}, "alpha_pattern", id="an expression that backtracks without end"),
        pytest.param({"alpha_pattern": {".*.*.*q": 8}}, "alpha_pattern", id="many repetitions"),
        pytest.param({"method": "adalora", "init_r": 8, "target_r": 8}, "target_r", id="no rank to prune"),
        pytest.param({"method": "adalora", "max_steps": 9, "tinit": 5, "tfinal": 4}, "max_steps", id="no step left"),
        pytest.param({"method": "ia3", "use_dora": True}, "method", id="DoRA without matrices"),
        pytest.param({"method": "prefix-tuning", "gradient_checkpointing": True}, "gradient_checkpointing", id="cache"),
        pytest.param({"method": "prompt-tuning", "packing": True}, "packing", id="one prompt for many rows"),
        pytest.param({"method": "prompt-tuning", "num_virtual_tokens": 0}, "num_virtual_tokens", id="no token"),
    ],
)
def test_a_contradictory_plan_is_refused_naming_the_field(values: dict[str, Any], subject: str) -> None:
    with pytest.raises(PlanError) as refusal:
        FinetunePlan.for_method(**{"method": "qlora", "model_name_or_path": "m", **values})
    assert refusal.value.subject == subject
    sentence = str(refusal.value)
    assert "\n" not in sentence
    assert len(sentence) < 300
    assert sentence.endswith(".")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "valid JSON", id="empty file"),
        pytest.param("[" * 100_000, "valid JSON", id="nested beyond the parser"),
        pytest.param("[]", "JSON object", id="a list"),
        pytest.param('{"method": "qlora"}', "model_name_or_path: is missing", id="no model"),
        pytest.param('{"method": "qlora", "model_name_or_path": "m", "rank": 8}', "rank: is not a field", id="typo"),
        pytest.param('{"method": "magic", "model_name_or_path": "m"}', "method: must be one of", id="unknown method"),
        pytest.param('{"method": "lora", "model_name_or_path": "m", "r": 1e999}', "r: must be", id="infinite rank"),
    ],
)
def test_a_broken_plan_file_is_refused_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        FinetunePlan.from_json(text)


@pytest.mark.parametrize("old", METHODS)
@pytest.mark.parametrize("new", METHODS)
def test_changing_the_method_keeps_every_other_choice(old: str, new: str) -> None:
    plan = FinetunePlan.for_method(old, "m", r=24, learning_rate=1e-4)
    changed = plan.with_method(new)
    assert changed == FinetunePlan.for_method(new, "m", r=24, learning_rate=1e-4)


def test_the_effective_batch_counts_devices_and_accumulation() -> None:
    plan = FinetunePlan.for_method(
        "lora", "m", per_device_train_batch_size=2, gradient_accumulation_steps=4, num_gpus=3, sharding="ddp"
    )
    assert plan.effective_batch_size == 24


def test_autocast_decides_the_compute_dtype() -> None:
    plan = FinetunePlan.for_method("full", "m", dtype="float32", bf16=True)
    assert (plan.autocast_dtype, plan.compute_dtype) == ("bfloat16", "bfloat16")
    assert dataclasses.replace(plan, bf16=False).compute_dtype == "float32"


@pytest.mark.parametrize("method", ["adalora", "ia3", "prompt-tuning", "prefix-tuning"])
def test_adapters_other_than_lora_work_on_a_base_of_any_quantization(method: str) -> None:
    for values, quantization in (({}, "none"), ({"load_in_4bit": True}, "4bit"), ({"load_in_8bit": True}, "8bit")):
        plan = FinetunePlan.for_method(method, "m", **values)
        assert plan.quantization == quantization
        assert plan.with_method("lora") == FinetunePlan.for_method("lora", "m")


def test_every_field_of_an_adapter_is_used_by_some_method() -> None:
    fields = {entry.name for entry in dataclasses.fields(FinetunePlan)}
    used = {method.name: {field for field in fields if method.uses(field)} for method in METHODS.values()}
    assert set().union(*used.values()) == fields
    assert {"r", "rank_pattern"} <= used["lora"] - used["ia3"]
    assert {"init_r", "deltaT"} <= used["adalora"] - used["lora"]
    assert "target_modules" in used["ia3"] - used["prompt-tuning"]
    assert "adapter_dtype" not in used["full"]
