"""A plan holds what it is given, survives JSON, and refuses what contradicts itself with one sentence."""

import dataclasses
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs import METHODS, FinetunePlan, PlanError


def test_what_divides_the_weights_takes_storage_and_optimizer_along() -> None:
    plan = FinetunePlan.for_method(
        "qlora", "m", num_gpus=2, sharding="zero2", offload="optimizer", optim="paged_adamw_8bit", dtype="bfloat16"
    )
    divided = plan.with_sharding("fsdp")
    assert (divided.bnb_4bit_quant_storage, divided.optim, divided.offload) == ("bfloat16", "adamw_torch_fused", "none")
    assert divided.with_sharding("ddp").bnb_4bit_quant_storage == "uint8"
    kept = plan.with_sharding("fsdp", fixed={"bnb_4bit_quant_storage", "optim"})
    assert (kept.bnb_4bit_quant_storage, kept.optim) == ("uint8", "paged_adamw_8bit")


@pytest.mark.parametrize(
    ("rows", "devices", "expected"),
    [((2, 1, 2), 1, (2, 2)), ((4, 1, 1), 2, (2, 1)), ((2, 6, 1), 4, (1, 3)), ((3, 2, 2), 6, (2, 1))],
)
def test_on_other_devices_a_step_sees_the_same_rows(
    rows: tuple[int, int, int], devices: int, expected: tuple[int, int]
) -> None:
    batch, accumulation, before = rows
    plan = FinetunePlan.for_method(
        "qlora",
        "m",
        num_gpus=before,
        sharding="none" if before == 1 else "fsdp",
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
    )
    found = plan.over(devices)
    assert (found.per_device_train_batch_size, found.gradient_accumulation_steps) == expected
    assert found.effective_batch_size == plan.effective_batch_size
    assert found.sharding == ("none" if devices == 1 else "ddp" if before == 1 else "fsdp")


def test_rows_that_other_devices_cannot_share_are_refused() -> None:
    plan = FinetunePlan.for_method("lora", "m", per_device_train_batch_size=4)
    with pytest.raises(PlanError, match="num_gpus: must divide the 4 rows of a step, got 3"):
        plan.over(3)
    with pytest.raises(PlanError, match="sharding: needs more than one GPU"):
        plan.over(1, "fsdp")


@pytest.mark.parametrize("method", METHODS)
def test_a_plan_of_every_method_survives_json(method: str) -> None:
    plan = FinetunePlan.for_method(method, "some/model", r=8, target_modules=("q_proj", "v_proj"))
    assert FinetunePlan.from_json(plan.to_json()) == plan


@given(
    r=st.integers(1, 4096),
    learning_rate=st.floats(1e-8, 1),
    batch=st.integers(1, 65_536),
    names=st.lists(st.text(min_size=1), min_size=1, unique=True).map(tuple) | st.just("all-linear"),
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
        pytest.param({"init_lora_weights": "pissa"}, "init_lora_weights", id="PiSSA over 4-bit"),
        pytest.param({"init_lora_weights": "eva", "packing": True}, "init_lora_weights", id="EVA over packed rows"),
        pytest.param({"bf16": True, "fp16": True}, "fp16", id="two mixed precisions"),
        pytest.param({"num_gpus": 2}, "sharding", id="two GPUs without sharding"),
        pytest.param({"sharding": "fsdp"}, "sharding", id="sharding on one GPU"),
        pytest.param({"every_n_layers": 0}, "every_n_layers", id="no layer is recomputed"),
        pytest.param({"method": "lora", "layer_offloading": True}, "layer_offloading", id="16-bit layers in RAM"),
        pytest.param(
            {"layer_offloading": True, "num_gpus": 2, "sharding": "ddp"}, "layer_offloading", id="layers of two cards"
        ),
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


@pytest.mark.parametrize(
    ("field", "least", "most"),
    [
        ("r", 1, 4096),
        ("lora_alpha", 1, 65_536),
        ("lora_dropout", 0, 0.9),
        ("loraplus_lr_ratio", 1, 1024),
        ("num_virtual_tokens", 1, 4096),
        ("per_device_train_batch_size", 1, 65_536),
        ("gradient_accumulation_steps", 1, 65_536),
        ("max_length", 8, 16_777_216),
        ("learning_rate", 1e-8, 1),
        ("warmup_steps", 0, 1_000_000),
        ("weight_decay", 0, 1),
        ("max_grad_norm", 0, 1000),
        ("num_train_epochs", 0.001, 10_000),
        ("max_steps", -1, 100_000_000),
        ("logging_steps", 1, 1_000_000),
        ("save_steps", 1, 100_000_000),
        ("eval_split", 0, 0.5),
        ("seed", 0, 4_294_967_295),
        ("early_stopping_patience", 1, 10_000),
        ("torch_empty_cache_steps", 1, 1_000_000),
        ("init_r", 2, 4096),
        ("target_r", 1, 4095),
        ("tinit", 0, 1_000_000),
        ("tfinal", 0, 1_000_000),
        ("deltaT", 1, 1_000_000),
    ],
)
def test_a_plan_file_is_read_up_to_both_ends_of_a_range_and_not_beyond(field: str, least: float, most: float) -> None:
    """Files that people keep hold values up to these ends."""
    around = {"early_stopping_patience": {"eval_split": 0.1}, "init_r": {"target_r": 1}, "target_r": {"init_r": 4096}}
    step = 1 if isinstance(most, int) and most > 1 else 1e-9
    for value in (least, most):
        plan = FinetunePlan.for_method("lora", "m", **around.get(field, {}), **{field: value})
        assert getattr(plan, field) == value
    for value in (least - step, most + step):
        with pytest.raises(PlanError, match="must lie between"):
            FinetunePlan.for_method("lora", "m", **{field: value})


@pytest.mark.parametrize(
    ("pattern", "accepted"),
    [
        pytest.param({"q_proj": 4096}, True, id="the largest rank"),
        pytest.param({"q_proj": 4097}, False, id="a larger one"),
        pytest.param({r"layers\.(0|1)\..*q_proj": 1}, True, id="one repetition"),
        pytest.param({".*q.*": 1}, True, id="two repetitions"),
        pytest.param({"(ab)*": 1}, False, id="a group that repeats"),
        pytest.param({"a" * 200: 1}, True, id="200 characters"),
        pytest.param({"a" * 201: 1}, False, id="201 characters"),
        pytest.param({"": 1}, False, id="no name"),
    ],
)
def test_a_pattern_is_quick_to_match_and_within_the_range_of_its_field(
    *, pattern: dict[str, int], accepted: bool
) -> None:
    if accepted:
        assert dict(FinetunePlan.for_method("lora", "m", rank_pattern=pattern).rank_pattern) == pattern
    else:
        with pytest.raises(PlanError, match="rank_pattern"):
            FinetunePlan.for_method("lora", "m", rank_pattern=pattern)


def test_alpha_by_module_has_the_range_of_alpha() -> None:
    assert FinetunePlan.for_method("lora", "m", alpha_pattern={"q_proj": 65_536}).alpha_pattern


def test_a_plan_file_that_leaves_a_number_out_means_this_one() -> None:
    plan = FinetunePlan.for_method("lora", "m")
    numbers = {name: value for name, value in plan.to_dict().items() if type(value) in {int, float}}
    assert numbers == {
        "num_labels": 2,  # transformers' PretrainedConfig
        "num_negatives": 0,
        "scale": 20.0,  # sentence-transformers' MultipleNegativesRankingLoss
        "r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "init_r": 12,  # PEFT's AdaLoraConfig, as the next four
        "target_r": 8,
        "tinit": 0,
        "tfinal": 0,
        "deltaT": 1,
        "oft_block_size": 32,  # PEFT's OFTConfig
        "decompose_factor": 4,  # that of PEFT's method comparison; PEFT's own -1 takes the largest
        "num_virtual_tokens": 20,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "max_length": 1024,  # TRL's
        "every_n_layers": 1,  # transformers' activation checkpointing
        "learning_rate": 2e-4,
        "warmup_steps": 0.03,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,  # transformers'
        "num_train_epochs": 1.0,
        "max_steps": -1,
        "logging_steps": 1,
        "save_steps": 100,
        "eval_split": 0.0,
        "seed": 42,
        "num_gpus": 1,
    }


def test_a_plan_file_that_leaves_a_switch_out_means_off_but_for_two() -> None:
    values = FinetunePlan.for_method("lora", "m").to_dict()
    switched_on = {name for name, value in values.items() if value is True}
    assert switched_on == {"bnb_4bit_use_double_quant", "completion_only_loss"}


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"method": "adalora", "max_steps": 10, "tinit": 5, "tfinal": 4}, id="one step moves ranks"),
        pytest.param({"method": "adalora", "init_r": 9, "target_r": 8}, id="one rank to take away"),
        pytest.param({"method": "adalora", "tinit": 5, "tfinal": 4}, id="steps that the epochs decide"),
        pytest.param({"method": "lora", "max_steps": 1, "tinit": 5}, id="AdaLoRA's steps without AdaLoRA"),
        pytest.param({"method": "lora", "target_r": 12}, id="AdaLoRA's ranks without AdaLoRA"),
        pytest.param({"method": "full", "fp16": True, "dtype": "float32"}, id="loss scaling over float32"),
        pytest.param({"method": "lora", "fp16": True, "dtype": "float16"}, id="float16 under an adapter"),
        pytest.param({"method": "full", "dtype": "float16"}, id="float16 without loss scaling"),
        pytest.param({"method": "qlora", "prepare_kbit": True}, id="a quantized base model prepared"),
        pytest.param({"method": "lora", "eval_split": 0.1, "early_stopping_patience": 1}, id="evaluations compared"),
        pytest.param({"method": "lora", "num_gpus": 2, "sharding": "zero3", "offload": "all"}, id="all in RAM"),
        pytest.param({"method": "lora", "num_gpus": 100_000, "sharding": "ddp"}, id="the most devices"),
        pytest.param({"method": "full", "lora_dropout": 0.9}, id="what means nothing to a method"),
    ],
)
def test_a_plan_without_a_contradiction_is_taken(values: dict[str, Any]) -> None:
    assert FinetunePlan.for_method(model_name_or_path="m", **values)


@pytest.mark.parametrize(
    ("values", "subject"),
    [
        pytest.param({"method": "full", "fp16": True, "dtype": "float16"}, "fp16", id="float16 weights scaled"),
        pytest.param({"method": "lora", "prepare_kbit": True}, "prepare_kbit", id="nothing quantized"),
        pytest.param({"method": "lora", "load_best_model_at_end": True}, "load_best_model_at_end", id="no evaluation"),
        pytest.param({"method": "lora", "early_stopping_patience": 3}, "early_stopping_patience", id="none to count"),
        pytest.param({"method": "full", "use_rslora": True}, "method", id="rsLoRA without LoRA"),
        pytest.param({"method": "full", "loraplus_lr_ratio": 16.0}, "method", id="LoRA+ without LoRA"),
        pytest.param({"method": "lora", "num_gpus": 100_001, "sharding": "ddp"}, "num_gpus", id="too many devices"),
        pytest.param({"method": "lora", "target_modules": ("q_proj", "")}, "target_modules", id="an empty name"),
        pytest.param({"method": "lora", "bf16": 1}, "bf16", id="a number is no switch"),
    ],
)
def test_a_contradiction_of_any_method_names_its_field(values: dict[str, Any], subject: str) -> None:
    with pytest.raises(PlanError) as refusal:
        FinetunePlan.for_method(model_name_or_path="m", **values)
    assert refusal.value.subject == subject


@pytest.mark.parametrize(
    ("method", "values", "kept"),
    [
        pytest.param("lora", {}, True, id="an adapter that can be switched off"),
        pytest.param("full", {}, False, id="every weight was changed"),
        pytest.param("lora", {"bias": "all"}, False, id="biases were changed"),
        pytest.param("lora", {"init_lora_weights": "pissa"}, False, id="PiSSA moves the base model's weights"),
    ],
)
def test_the_base_model_is_there_again_without_the_adapter(*, method: str, values: dict[str, Any], kept: bool) -> None:
    assert FinetunePlan.for_method(method, "m", **values).keeps_base == kept


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param({"modules_to_save": ("a'b\");import os",)}, "must be names as the model has them", id="code"),
        pytest.param({"modules_to_save": ("head", "head")}, "must name each entry once, got head", id="twice"),
        pytest.param({"layers_to_transform": (1, 1)}, "must name each entry once, got 1", id="a number twice"),
        pytest.param({"target_modules": ("q", "q")}, "must name each entry once, got q", id="a target twice"),
        pytest.param(
            {"modules_to_save": ("q_proj",), "target_modules": ("q_proj",)},
            "trained whole or gets an adapter",
            id="both",
        ),
    ],
)
def test_lists_of_names_hold_names_that_a_model_can_have(fields, said):
    with pytest.raises(PlanError, match=re.escape(said)):
        FinetunePlan.for_method("lora", "m", **fields)
