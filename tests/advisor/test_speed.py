"""How long a step takes: measurements lie within the band, and every device gets an answer or a reason."""

import csv
import dataclasses
from pathlib import Path

import pytest

from advisor import advise, speed
from specs import FinetunePlan, ModelSpec
from tests.advisor.pricing import price_of, processor, situation

SMALL = "HuggingFaceTB/SmolLM2-135M-Instruct"
ROWS = list(csv.DictReader((Path(__file__).parents[1] / "golden" / "speed.csv").read_text("utf-8").splitlines()))


@pytest.mark.parametrize("row", [pytest.param(row, id=row["source"]) for row in ROWS])
def test_measured_speed_lies_within_the_band_of_the_estimate(row):
    """Qwen-7B and -14B of 2023 are priced by the shapes of their successors, which differ by under 5 %."""
    asked = situation(model=row["model"], gpu=row["gpu"])
    plan = FinetunePlan.for_method(
        row["method"],
        row["model"],
        bf16=True,
        per_device_train_batch_size=int(row["per_device_train_batch_size"]),
        max_length=int(row["max_length"]),
        gradient_checkpointing=row["gradient_checkpointing"] == "true",
    )
    estimated = speed.micro_step_seconds(asked, plan)
    assert speed.BAND[0] * estimated <= float(row["seconds_per_micro_step"]) <= speed.BAND[1] * estimated


@pytest.mark.parametrize(
    ("method", "dtype", "batch", "length", "seconds"),
    [
        pytest.param("lora", "float32", 2, 128, 0.94, id="LoRA"),
        pytest.param("lora", "float32", 4, 256, 3.29, id="LoRA, 1,024 tokens"),
        pytest.param("qlora", "float32", 2, 128, 1.00, id="QLoRA"),
        pytest.param("qlora", "float32", 2, 256, 2.00, id="QLoRA, 512 tokens"),
        pytest.param("lora-8bit", "float32", 2, 128, 1.22, id="8-bit"),
        pytest.param("lora", "bfloat16", 2, 128, 1.62, id="bfloat16"),
    ],
)
def test_measurements_on_two_cores_are_near_the_estimate(method, dtype, batch, length, seconds):
    """Best of 4 to 10 passes, 2026-11-22, torch 2.13.0, bitsandbytes 0.50.2, while the machine also did other work."""
    asked = dataclasses.replace(situation(model=SMALL), gpu=processor())
    plan = FinetunePlan.for_method(
        method, SMALL, dtype=dtype, per_device_train_batch_size=batch, max_length=length
    )  # fmt: skip
    assert speed.micro_step_seconds(asked, plan) == pytest.approx(seconds, rel=0.35)


@pytest.mark.parametrize(
    ("values", "most"),
    [
        pytest.param({"gpu": "RTX 4090"}, 2.0, id="a card of the catalog"),
        pytest.param({"gpu": "24 GiB"}, 3.3, id="any card with 24 GiB"),
        pytest.param({"gpu": "RTX 4090", "pins": {"method": "lora-8bit"}}, 3.0, id="8-bit"),
        pytest.param({"gpu": "A100 80GB", "pins": {"dtype": "float32", "bf16": False}}, 2.0, id="float32"),
        pytest.param({"gpu": "Tesla T4", "model": "Qwen/Qwen2.5-0.5B"}, 2.0, id="float16"),
    ],
)
def test_every_device_and_dtype_gets_a_time_with_its_band(values, most):
    asked = situation(**{"dataset_rows": 5_000, **values})
    result = advise(asked, price=price_of(asked))
    assert result.speed_unknown == ""
    assert result.speed.total_seconds > 0
    assert result.speed.band[1] == pytest.approx(most, rel=0.05)
    assert result.speed.cost(2.0) == pytest.approx(result.speed.total_seconds / 1800)


def test_float32_takes_longer_than_16_bit_by_the_ratio_of_the_cards_rates():
    asked = situation(gpu="A100 80GB")
    half = FinetunePlan.for_method("lora", "m", bf16=True, max_length=4096)
    slow = dataclasses.replace(half, bf16=False, dtype="float32")
    ratio = speed.micro_step_seconds(asked, slow) / speed.micro_step_seconds(asked, half)
    assert 312 / 19.5 * 0.8 < ratio < 312 / 19.5


def test_a_device_without_published_throughput_says_so_instead_of_guessing():
    asked = situation(model=SMALL, gpu="Apple unified memory 16 GB")
    result = advise(asked, price=price_of(asked))
    assert result.speed is None
    assert result.speed_unknown.startswith("No time is given: no throughput in")
    assert result.to_dict()["speed_unknown"] == result.speed_unknown


def test_preferences_take_twice_the_sequences_and_a_reference_pass():
    """TRL's DPOTrainer: chosen and rejected together, and one more forward pass with the adapter off."""
    plan = FinetunePlan.for_method("lora", "m", bf16=True, max_length=1024)
    answers, pairs = (speed.step_flops(situation(task=task), plan) for task in ("instruction", "preference"))
    assert pairs == pytest.approx(2 * 1.5 * answers, rel=0.05)


EIGHT = "meta-llama/Llama-3.1-8B"


@pytest.mark.parametrize(
    ("model", "params"),
    [
        # 8,030,261,248 without the table of 128,256 x 4,096.
        pytest.param(EIGHT, 7_504_924_672, id="the embedding table is looked up"),
        pytest.param("google/gemma-2-2b", 2_614_341_888, id="a tied table is the head too"),
        # 30,532,122,624 without 151,936 x 2,048 and 3 x 2,048 x 768 x 120 idle experts x 48 layers.
        pytest.param("Qwen/Qwen3-30B-A3B", 3_041_867_776, id="8 of 128 experts, with a width of their own"),
        # 46,702,792,704 without 32,000 x 4,096 and 3 x 4,096 x 14,336 x 6 idle experts x 32 layers.
        pytest.param("mistralai/Mixtral-8x7B-v0.1", 12_748_853_248, id="2 of 8 experts, of the layer's width"),
    ],
)
def test_a_token_is_multiplied_with_so_many_weights(model, params):
    assert speed.matmul_params(situation(model=model)) == params


@pytest.mark.parametrize("spelling", ["num_experts_per_tok", "num_experts_per_token"])
def test_experts_of_a_token_are_read_under_either_name(spelling):
    config = {"model_type": "m", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "vocab_size": 10}
    config |= {"num_attention_heads": 1, "num_experts": 4}
    some, every = (
        dataclasses.replace(ModelSpec.from_config({**config, **more}, name="m"), linear_modules=("q_proj",))
        for more in ({spelling: 1}, {})
    )
    used = [speed.matmul_params(dataclasses.replace(situation(), model=model)) for model in (some, every)]
    assert used[1] - used[0] == 3 * 8 * 16 * 3 * 2, "three of four experts idle in two layers"


# Of 8B at 1 x 1,024 tokens: 2 x 7,504,924,672 x 1,024 for each pass over the weights (15.370 TFLOP), and
# 2 x 32 layers x 32 heads x 128 x 1,024 x 1,024 for each pass of attention (0.2749 TFLOP).
@pytest.mark.parametrize(
    ("method", "task", "values", "dense", "attention"),
    [
        pytest.param("lora", "instruction", {}, 2, 3.5, id="forward, and the gradient of the inputs"),
        pytest.param("full", "instruction", {}, 3, 3.5, id="that of the weights too"),
        pytest.param("lora", "instruction", {"gradient_checkpointing": True}, 3, 4.5, id="recomputed"),
        pytest.param("lora", "preference", {}, 6, 9, id="two answers, and both once more by the base model"),
        pytest.param("lora", "instruction", {"per_device_train_batch_size": 3}, 6, 10.5, id="three sequences"),
        pytest.param("lora", "instruction", {"max_length": 2048}, 4, 14, id="twice the length: attention fourfold"),
    ],
)
def test_a_step_takes_so_many_operations(method, task, values, dense, attention):
    plan = FinetunePlan.for_method(method, "m", **{"max_length": 1024, **values})
    expected = dense * 15_370_085_728_256 + attention * 274_877_906_944
    assert speed.step_flops(situation(task=task), plan) == expected


# An A100 reaches half of 312 TFLOP/s, or of 19.49 in float32, and half of 1,940 GB/s; 32 layers take 1 ms each a pass.
@pytest.mark.parametrize(
    ("method", "values", "task", "seconds"),
    [
        pytest.param("lora", {}, "instruction", 31.702e12 / 156e12 + 2 * 0.032, id="forward and backward"),
        pytest.param("dora", {}, "instruction", 1191 / 942 * (31.702e12 / 156e12 + 0.064), id="DoRA, 26 % more"),
        pytest.param("lora-8bit", {}, "instruction", 2.5 * 31.702e12 / 156e12 + 0.064, id="8 bit, 2.5 times"),
        pytest.param(
            "qlora", {}, "instruction", 31.702e12 / 156e12 + 0.064 + 2 * 2.5 * 7.5049e9 / 970e9, id="4 bit, expanded"
        ),
        pytest.param(
            "lora", {"gradient_checkpointing": True}, "instruction", 47.347e12 / 156e12 + 3 * 0.032, id="a third pass"
        ),
        pytest.param("lora", {}, "preference", 94.694e12 / 156e12 + 3 * 0.032, id="the base model's pass"),
        pytest.param("lora", {"dtype": "float32"}, "instruction", 31.702e12 / 9.745e12 + 0.064, id="float32"),
    ],
)
def test_a_pass_takes_its_operations_launches_and_expansion(method, values, task, seconds):
    plan = FinetunePlan.for_method(method, "m", max_length=1024, **values)
    found = speed.micro_step_seconds(situation(gpu="A100 80GB", task=task), plan)
    assert found == pytest.approx(seconds, rel=1e-3)


@pytest.mark.parametrize(
    ("method", "dtype", "tflops"),
    [
        pytest.param("lora", "float32", 0.2944, id="float32"),
        pytest.param("lora", "bfloat16", 0.2944 / 1.7, id="bfloat16"),
        pytest.param("qlora", "float32", 0.2944 / 1.1, id="4 bit"),
        pytest.param("lora-8bit", "float32", 0.2944 / 1.3, id="8 bit"),
    ],
)
def test_a_processor_reaches_so_much(method, dtype, tflops):
    asked = dataclasses.replace(situation(model=SMALL), gpu=processor())
    assert speed.throughput(asked, FinetunePlan.for_method(method, "m", dtype=dtype)) == pytest.approx(tflops)


@pytest.mark.parametrize(
    ("values", "tokens"),
    [
        pytest.param({}, 2 * 200, id="alone the median"),
        pytest.param({"per_device_train_batch_size": 2}, 4 * 400, id="together the 95th percentile"),
        pytest.param({"packing": True}, 2 * 1024, id="packed to the full length"),
        pytest.param({"max_length": 128}, 2 * 128, id="cut"),
    ],
)
def test_a_step_has_so_many_tokens_with_their_padding(values, tokens):
    asked = situation(dataset_tokens=(200, 400, 900))
    found = speed.step_speed(asked, FinetunePlan.for_method("lora", "m", gradient_accumulation_steps=2, **values))
    assert found.tokens_per_second * found.seconds_per_step == pytest.approx(tokens)


def test_a_run_takes_its_steps_and_costs_its_hours():
    found = speed.Speed(seconds_per_step=9.0, tokens_per_second=1.0, steps=800)
    assert (found.total_seconds, found.cost(1.5)) == (7_200, 3.0)
    unknown = dataclasses.replace(found, steps=None)
    assert (unknown.total_seconds, unknown.cost(1.5)) == (None, None)


def test_the_time_of_a_plan_is_held_against_another_for_the_same_data():
    asked, plan = situation(), FinetunePlan.for_method("lora", "m")
    slower = dataclasses.replace(plan, gradient_checkpointing=True)
    ratio = speed.micro_step_seconds(asked, slower) / speed.micro_step_seconds(asked, plan)
    assert speed.relative_time(asked, slower, plan) == pytest.approx(ratio)
    assert 1.4 < ratio < 1.6, "three passes over two"


def test_the_band_of_8_bit_is_wider():
    asked = situation()
    plans = [FinetunePlan.for_method(method, "m") for method in ("lora", "lora-8bit")]
    assert [speed.step_speed(asked, plan).band for plan in plans] == [(0.5, 2.0), (0.5 / 1.5, 3.0)]


def test_a_plan_is_not_held_against_one_of_unknown_speed():
    asked = situation()
    asked = dataclasses.replace(asked, gpu=dataclasses.replace(asked.gpu, half_tflops=None))
    plans = [FinetunePlan.for_method("lora", "m", dtype=dtype) for dtype in ("float32", "bfloat16")]
    assert speed.micro_step_seconds(asked, plans[0]) is not None
    assert speed.relative_time(asked, *plans) is None
    assert speed.relative_time(asked, *reversed(plans)) is None
