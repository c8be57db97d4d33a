"""Which tape prices a plan: what shapes the step gets a tape of its own, all else shares one."""

import dataclasses

import pytest

from estimator.tape.conditions import Conditions
from estimator.tape.recipe import (
    Recipe,
    added_tokens,
    batch_shape,
    differs_by_layer,
    is_masked,
    recipe,
    sliding_window,
)
from specs import FinetunePlan, ModelSpec
from tests.estimator.hand import PROCESSOR
from tests.estimator.small import CONFIGS, model

LLAMA, WINDOWED = "llama", "mistral with a window"


def plan(method="lora", **values):
    return FinetunePlan.for_method(method, "m", **values)


def wanted(name=LLAMA, conditions=None, gpu=None, **values):
    return recipe(model(name), plan(**values), conditions or Conditions(), gpu)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({"lora_dropout": 0.05}, {"lora_dropout": 0.3}, id="any dropout"),
        pytest.param({"bf16": True}, {"fp16": True, "dtype": "float16"}, id="either 16-bit format"),
        pytest.param({}, {"use_rslora": True}, id="another scale"),
        pytest.param({}, {"method": "rslora"}, id="rsLoRA"),
        pytest.param({}, {"use_reentrant": True}, id="a form of checkpointing that is off"),
        pytest.param({}, {"bnb_4bit_use_double_quant": False}, id="constants of weights that are whole"),
        pytest.param({"method": "adalora"}, {"method": "adalora", "target_r": 4}, id="ranks that AdaLoRA zeroes"),
        pytest.param({"per_device_train_batch_size": 2}, {"per_device_train_batch_size": 9}, id="several sequences"),
    ],
)
def test_plans_whose_steps_are_alike_share_a_tape(one, other):
    assert wanted(**one).key == wanted(**other).key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({}, {"lora_dropout": 0.05}, id="dropout or none"),
        pytest.param({}, {"bf16": True}, id="mixed precision or none"),
        pytest.param({"bf16": True}, {"bf16": True, "dtype": "float32"}, id="weights of 32 bit"),
        pytest.param({}, {"adapter_dtype": "bfloat16"}, id="an adapter of 16 bit"),
        pytest.param({}, {"method": "dora"}, id="DoRA"),
        pytest.param({}, {"method": "qlora"}, id="4 bit"),
        pytest.param({"method": "qlora"}, {"method": "lora-8bit"}, id="8 bit"),
        pytest.param({"method": "qlora"}, {"method": "qlora", "bnb_4bit_use_double_quant": False}, id="constants"),
        pytest.param({}, {"gradient_checkpointing": True}, id="recomputed"),
        pytest.param(
            {"gradient_checkpointing": True}, {"gradient_checkpointing": True, "use_reentrant": True}, id="which form"
        ),
        pytest.param({}, {"per_device_train_batch_size": 2}, id="one sequence or several"),
        pytest.param({"method": "adalora"}, {"method": "adalora", "init_r": 24}, id="AdaLoRA's ranks"),
    ],
)
def test_plans_whose_steps_differ_have_tapes_of_their_own(one, other):
    assert wanted(**one).key != wanted(**other).key


def test_a_copy_of_a_model_shares_its_tapes():
    named = {**CONFIGS[LLAMA], "_name_or_path": "me/copy", "transformers_version": "4.0", "use_cache": False}
    copy = recipe(ModelSpec.from_config(named, name="copy"), plan(), Conditions())
    assert copy.key == wanted().key


@pytest.mark.parametrize(
    "values", [{}, {"method": "qlora", "bf16": True}, {"method": "prompt-tuning", "num_virtual_tokens": 7}]
)
def test_a_recipe_survives_json(values):
    asked = wanted(WINDOWED, max_length=1024, **values)
    again = Recipe.from_json(asked.to_json())
    assert again == asked
    assert again.key == asked.key


@pytest.mark.parametrize(
    ("name", "values", "beyond"),
    [
        pytest.param(WINDOWED, {"max_length": 1023}, False, id="within"),
        pytest.param(WINDOWED, {"max_length": 1024}, True, id="as long as the window"),
        pytest.param(WINDOWED, {"max_length": 1004, "method": "prompt-tuning"}, True, id="with its 20 virtual tokens"),
        pytest.param(
            WINDOWED, {"max_length": 1024, "attn_implementation": "flash_attention_2"}, False, id="flash-attn knows"
        ),
        pytest.param(LLAMA, {"max_length": 4096}, False, id="no window"),
    ],
)
def test_a_sequence_longer_than_the_window_needs_a_mask(name, values, beyond):
    assert wanted(name, **values).beyond_window == beyond


@pytest.mark.parametrize(
    ("values", "shape", "masked"),
    [
        pytest.param({}, (1, 1024), False, id="one sequence"),
        pytest.param({"per_device_train_batch_size": 3}, (3, 1024), True, id="several are padded"),
        pytest.param(
            {"per_device_train_batch_size": 3, "attn_implementation": "flash_attention_2"},
            (3, 1024),
            False,
            id="flash-attn takes them apart",
        ),
        pytest.param({"packing": True, "per_device_train_batch_size": 3}, (1, 3072), True, id="packed into one row"),
        pytest.param({"method": "prompt-tuning"}, (1, 1044), False, id="virtual tokens lengthen a row"),
        pytest.param({"method": "prefix-tuning"}, (1, 1024), True, id="a prefix lies in the cache"),
    ],
)
def test_a_pass_has_so_many_rows_and_tokens(values, shape, masked):
    asked = plan(**values)
    assert batch_shape(asked) == shape
    assert is_masked(asked) == masked
    assert added_tokens(asked) == (20 if asked.method == "prompt-tuning" else 0)
    assert recipe(model(LLAMA), asked, Conditions()).conditions.padding == ("mask" if masked else "none")


@pytest.mark.parametrize(
    ("padding", "decided"),
    [pytest.param("mask", "mask", id="as measured"), pytest.param("none", "none", id="as measured, without")],
)
def test_a_measured_padding_stays(padding, decided):
    several = wanted(conditions=Conditions(padding=padding), per_device_train_batch_size=1 if padding == "mask" else 2)
    assert several.conditions.padding == decided


@pytest.mark.parametrize(
    ("gpu", "values", "kernel"),
    [
        pytest.param(PROCESSOR, {}, "cpu", id="all runs on the processor"),
        pytest.param(PROCESSOR, {"attn_implementation": "eager"}, "eager", id="eager as asked"),
        pytest.param(None, {}, "flash", id="a card with every kernel"),
    ],
)
def test_the_device_decides_the_kernel(gpu, values, kernel):
    assert wanted(gpu=gpu, **values).conditions.attention_kernel == kernel


@pytest.mark.parametrize(
    ("config", "window"),
    [
        pytest.param({"sliding_window": 4096}, 4096, id="a window"),
        pytest.param({"attention_chunk_size": 8192}, 8192, id="Llama 4's chunks"),
        pytest.param({"sliding_window": 4096, "use_sliding_window": False}, None, id="switched off, as in Qwen2"),
        pytest.param({"sliding_window": 4096, "use_sliding_window": True}, 4096, id="switched on"),
        pytest.param({"sliding_window": None}, None, id="none"),
    ],
)
def test_the_window_is_read_from_the_configuration(config, window):
    assert sliding_window(config) == window


@pytest.mark.parametrize(
    ("values", "differs"),
    [
        pytest.param({}, False, id="layers alike"),
        pytest.param({"rank_pattern": {"q_proj": 8}}, False, id="a name in every layer"),
        pytest.param({"rank_pattern": {"self_attn.q_proj": 8}}, False, id="a path in every layer"),
        pytest.param({"rank_pattern": {r"layers\.0\..*": 8}}, True, id="an expression that may name layers"),
        pytest.param({"method": "prefix-tuning"}, True, id="one tensor for all layers"),
        pytest.param({"method": "adalora", "loss": "full"}, True, id="AdaLoRA's own loss"),
        pytest.param({"method": "adalora"}, False, id="AdaLoRA in TRL's loss"),
    ],
)
def test_some_adapters_differ_by_layer(values, differs):
    assert differs_by_layer(plan(**values)) == differs


def test_the_fields_of_conditions_begin_as_the_trainer_has_them():
    assert not any(value for value in dataclasses.asdict(Conditions()).values() if isinstance(value, bool))
