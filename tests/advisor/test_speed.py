"""How long a step takes: measurements lie within the band, and every device gets an answer or a reason."""

import csv
import dataclasses
from pathlib import Path

import pytest

from advisor import advise, speed
from specs import FinetunePlan
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
