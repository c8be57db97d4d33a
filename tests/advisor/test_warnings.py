"""Each warning on either side of its bound, with its numbers."""

import dataclasses
import re

import pytest

from advisor import advise, cheatsheet
from advisor.warnings import cautions
from specs import GIB, METHODS, FinetunePlan
from tests.advisor.prices import Priced
from tests.advisor.pricing import price_of, situation
from trainer.runs.contract import Metric
from trainer.runs.diagnosis import diagnoses


def said(asked, plan, estimate=None):
    return {caution.field: str(caution) for caution in cautions(asked, plan, estimate or Priced())}


def planned(method="lora", **values):
    return FinetunePlan.for_method(method, "m", **values)


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        pytest.param({"lora_alpha": 4}, None, id="QLoRA's 0.25"),
        pytest.param({"lora_alpha": 3}, "0.188 (alpha / r)", id="under it"),
        pytest.param({"lora_alpha": 64}, None, id="4"),
        pytest.param({"lora_alpha": 65}, "4.06 (alpha / r)", id="above it"),
        pytest.param({"lora_alpha": 16, "use_rslora": True}, None, id="4 by the root"),
        pytest.param({"lora_alpha": 17, "use_rslora": True}, "4.25 (alpha / sqrt(r))", id="above it by the root"),
    ],
)
def test_a_scale_outside_the_recipes_is_named(values, scale):
    found = said(situation(), planned(r=16, **values)).get("lora_alpha", "")
    assert (f"scales the update by {scale}" in found) if scale else not found


@pytest.mark.parametrize(
    ("pins", "said"),
    [
        pytest.param(
            {"method": "miss", "init_lora_weights": "eva"},
            "init_lora_weights to eva, which changes nothing: MiSS has no such",
            id="MiSS",
        ),
        pytest.param(
            {"method": "ln-tuning", "r": 16}, "r to 16, which changes nothing: LN tuning", id="also at the default"
        ),
        pytest.param(
            {"method": "lora", "oft_block_size": 64}, "oft_block_size to 64, which changes nothing: LoRA", id="LoRA"
        ),
        pytest.param({"method": "beft", "r": 8}, "r to 8, which changes nothing: BEFT", id="BEFT"),
        pytest.param(
            {"method": "adalora", "init_lora_weights": "olora"},
            "to olora, which changes nothing: AdaLoRA",
            id="AdaLoRA",
        ),
        pytest.param(
            {"method": "full", "target_modules": ("q_proj",)}, "to q_proj, which changes nothing: Full", id="full"
        ),
        pytest.param(
            {"scale": 5.0},
            "scale to 5, which changes nothing: text generation has no use for it",
            id="a task without it",
        ),
    ],
)
def test_what_was_set_and_changes_nothing_is_named_once(pins, said):
    result = advise(situation(pins=pins), price=lambda _: Priced())
    (told,) = (str(caution) for caution in result.warnings if "changes nothing" in str(caution))
    assert said in told


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_uses_is_not_said_to_change_nothing(method):
    asked = situation(pins={"method": method, **METHODS[method].preset, "learning_rate": 1e-3})
    assert not [found for found in advise(asked, price=lambda _: Priced()).warnings if "changes nothing" in str(found)]


def test_a_field_of_adapters_that_was_set_keeps_the_advice_from_training_every_weight():
    asked = situation(task="domain", goal="quality", dataset_rows=10**6, dataset_tokens=(900, 900, 900))
    chosen = [advise(dataclasses.replace(asked, pins=pins), price=lambda _: Priced()) for pins in ({}, {"r": 64})]
    assert [found.plan.method for found in chosen] == ["full", "lora"]


@pytest.mark.parametrize("method", METHODS)
def test_no_sentence_tells_to_change_what_the_method_has_not(method):
    page = cheatsheet.markdown(asked := situation(pins={"method": method}), advise(asked, price=lambda _: Priced()))
    curve = [Metric(step=step, loss=2.5, learning_rate=1e-4) for step in range(1, 81)]
    told = [page.partition("## If it goes wrong")[2].partition("## ")[0], diagnoses(curve, method)[0].advice]
    fields = {entry.name for entry in dataclasses.fields(FinetunePlan) if not METHODS[method].uses(entry.name)}
    assert not fields & {word for text in told for word in re.findall(r"\w+", text)}
    assert all(METHODS[method].size_field in text for text in told)


def test_a_method_without_a_rank_has_no_scale():
    assert "lora_alpha" not in said(situation(), planned("ia3", lora_alpha=1))


@pytest.mark.parametrize(
    ("method", "rate", "warned"),
    [
        pytest.param("lora", 1e-3, False, id="the highest for LoRA"),
        pytest.param("lora", 1.1e-3, True, id="higher"),
        pytest.param("lora", 1e-6, False, id="the lowest"),
        pytest.param("lora", 0.9e-6, True, id="lower"),
        pytest.param("full", 1e-4, False, id="the highest for all weights"),
        pytest.param("full", 1.1e-4, True, id="higher for all weights"),
        pytest.param("full", 0.9e-6, True, id="lower for all weights"),
        pytest.param("ia3", 1e-2, False, id="IA3 learns fast"),
        pytest.param("ia3", 9e-4, True, id="and not slowly"),
    ],
)
def test_a_rate_outside_the_recipes_is_named(method, rate, warned):
    assert ("learning_rate" in said(situation(), planned(method, learning_rate=rate))) == warned


@pytest.mark.parametrize(
    ("method", "r", "rows", "warned"),
    [
        pytest.param("lora", 65, 999, True, id="large rank, few rows"),
        pytest.param("lora", 64, 999, False, id="smaller rank"),
        pytest.param("lora", 65, 1_000, False, id="more rows"),
        pytest.param("lora", 65, None, False, id="unknown rows"),
        pytest.param("ia3", 65, 999, False, id="a rank without meaning"),
    ],
)
def test_a_large_rank_on_few_rows_is_named(method, r, rows, warned):
    assert ("r" in said(situation(dataset_rows=rows), planned(method, r=r, lora_alpha=r))) == warned


def test_the_parameters_for_each_row_are_named():
    # Llama-3.1-8B has 2,621,440 at rank 1: 32 layers of 81,920.
    found = said(situation(dataset_rows=300), planned(r=256, lora_alpha=256))["r"]
    assert "about 2,236,962 parameters per row" in found


SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize(
    ("model", "targets", "warned"),
    [
        pytest.param("meta-llama/Llama-3.1-8B", SEVEN[:2], True, id="two of seven"),
        pytest.param("meta-llama/Llama-3.1-8B", SEVEN[:3], False, id="three of seven"),
        pytest.param("meta-llama/Llama-3.1-8B", "all-linear", False, id="all"),
        pytest.param("meta-llama/Llama-3.1-8B", (*SEVEN, "lm_head"), True, id="the head"),
    ],
)
def test_few_targets_and_embeddings_are_named(model, targets, warned):
    asked = situation(model=model)
    assert ("target_modules" in said(asked, planned(target_modules=targets))) == warned
    assert "target_modules" not in said(asked, planned("full", target_modules=targets))


@pytest.mark.parametrize(
    ("gpu", "values", "field", "words"),
    [
        pytest.param("RTX 4090", {"fp16": True}, "fp16", "which has bfloat16", id="fp16 in vain"),
        pytest.param("Tesla T4", {"fp16": True}, "fp16", "about 1 in 5", id="fp16 for want of bfloat16"),
        pytest.param("Tesla T4", {"bf16": True}, "bf16", "emulates them slowly", id="bfloat16 emulated"),
        pytest.param("Tesla T4", {"dtype": "float16"}, "bf16", "", id="float16 on an old card"),
        pytest.param("RTX 4090", {"bf16": True}, "bf16", "", id="bfloat16 where it is"),
    ],
)
def test_a_number_format_that_the_card_lacks_is_named(gpu, values, field, words):
    found = said(situation(gpu=gpu), planned(**values)).get(field, "")
    assert words in found
    assert bool(words) == bool(found)


@pytest.mark.parametrize(
    ("model", "method", "amount"),
    [
        # 2 bytes x 3 x 2,048 x 768 x 128 experts x 48 layers; 2 x 3 x 4,096 x 14,336 x 8 x 32.
        pytest.param("Qwen/Qwen3-30B-A3B", "lora-8bit", "54.0 GiB", id="experts narrower than the layer"),
        pytest.param("mistralai/Mixtral-8x7B-v0.1", "lora-8bit", "84.0 GiB", id="experts as wide as the layer"),
        pytest.param("Qwen/Qwen3-30B-A3B", "qlora", "", id="experts are quantized to 4 bit"),
        pytest.param("Qwen/Qwen3-30B-A3B", "lora", "", id="nothing is quantized"),
        pytest.param("meta-llama/Llama-3.1-8B", "lora-8bit", "", id="no experts"),
    ],
)
def test_experts_that_stay_in_16_bit_are_named_with_their_bytes(model, method, amount):
    found = said(situation(model=model), planned(method)).get("load_in_8bit", "")
    assert amount in found
    assert bool(amount) == bool(found)


def test_logits_are_named_from_a_quarter_on():
    asked, plan = situation(), planned()
    assert "loss" not in said(asked, plan, Priced(logits=2 * GIB))
    assert "take 2.0 GiB of 8.0 GiB" in said(asked, plan, Priced(logits=2 * GIB + 1))["loss"]


@pytest.mark.parametrize(
    ("asked", "values", "field", "warned"),
    [
        pytest.param(situation(), {"max_steps": 99}, "num_train_epochs", True, id="99 steps"),
        pytest.param(situation(), {"max_steps": 100}, "num_train_epochs", False, id="100 steps"),
        pytest.param(situation(), {}, "num_train_epochs", False, id="unknown steps"),
        pytest.param(situation(dataset_rows=499), {}, "dataset_rows", True, id="499 rows"),
        pytest.param(situation(dataset_rows=500), {}, "dataset_rows", False, id="500 rows"),
        pytest.param(situation(), {}, "dataset_rows", False, id="unknown rows"),
        pytest.param(situation(model="google/gemma-2-2b"), {"max_length": 2_049}, "max_length", True, id="eager"),
        pytest.param(situation(model="google/gemma-2-2b"), {"max_length": 2_048}, "max_length", False, id="short"),
        pytest.param(situation(), {"max_length": 2_049}, "max_length", False, id="long, but not eager"),
        pytest.param(situation(), {"max_length": 131_073}, "max_length", True, id="longer than the model"),
        pytest.param(situation(), {"max_length": 131_072}, "max_length", False, id="as long as the model"),
        pytest.param(
            situation(), {"gradient_accumulation_steps": 65}, "gradient_accumulation_steps", True, id="65 at once"
        ),
        pytest.param(
            situation(), {"gradient_accumulation_steps": 64}, "gradient_accumulation_steps", False, id="64 at once"
        ),
    ],
)
def test_a_bound_is_warned_of_once_it_is_crossed(asked, values, field, warned):
    assert (field in said(asked, planned(**values))) == warned


def test_all_weights_bear_a_large_batch():
    plan = planned("full", gradient_accumulation_steps=65)
    assert "gradient_accumulation_steps" not in said(situation(), plan)


@pytest.mark.parametrize(
    ("task", "method", "values", "fields"),
    [
        pytest.param("preference", "lora", {}, {"per_device_train_batch_size"}, id="two sequences a row"),
        pytest.param("preference", "full", {}, {"per_device_train_batch_size", "method"}, id="no base model left"),
        pytest.param(
            "preference",
            "lora",
            {"init_lora_weights": "pissa"},
            {"per_device_train_batch_size", "method"},
            id="a changed base model",
        ),
        pytest.param("instruction", "full", {}, set(), id="no preferences"),
    ],
)
def test_preferences_bring_their_warnings(task, method, values, fields):
    plan = planned(method, per_device_train_batch_size=3, learning_rate=1e-5, **values)
    found = said(situation(task=task), plan)
    assert set(found) == fields
    assert "3 rows" in found.get("per_device_train_batch_size", "3 rows")
    assert "6 sequences" in found.get("per_device_train_batch_size", "6 sequences")


@pytest.mark.parametrize(
    ("sharding", "optim", "fields"),
    [
        pytest.param("ddp", "adamw_8bit", set(), id="copies"),
        pytest.param("fsdp", "adamw_torch", {"sharding"}, id="divided"),
        pytest.param("fsdp", "adamw_8bit", {"sharding", "optim"}, id="divided, with 8-bit states"),
    ],
)
def test_dividing_the_weights_brings_its_warnings(sharding, optim, fields):
    plan = planned(num_gpus=2, sharding=sharding, optim=optim)
    assert set(said(situation(num_gpus=2), plan)) == fields


@pytest.mark.parametrize(
    ("gpu", "maker"),
    [
        pytest.param("Radeon RX 7900 XTX", "AMD", id="ROCm"),
        pytest.param("Arc B580", "Intel", id="XPU"),
        pytest.param("Apple M4 Pro 48 GB", "Apple", id="Metal"),
        pytest.param("RTX 4090", None, id="NVIDIA"),
    ],
)
def test_a_device_that_nobody_tried_is_said_to_be_untried(gpu, maker):
    found = said(situation(gpu=gpu), planned(optim="paged_adamw_8bit"))
    assert (f"never run on a GPU of {maker}" in found.get("num_gpus", "")) if maker else "num_gpus" not in found
    assert ("there are none for Apple's GPUs yet" in found.get("optim", "")) == (maker == "Apple")


def test_a_plan_for_a_mac_has_4_bits_and_no_paged_optimizer():
    asked = situation(gpu="Apple M4 16 GB", dataset_rows=5_000)
    plan = advise(asked, price=price_of(asked)).plan
    assert plan.load_in_4bit
    assert "8bit" not in plan.optim
