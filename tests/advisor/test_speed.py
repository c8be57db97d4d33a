"""How long a run takes before it starts: every device gets an answer with the error of its basis, or a reason."""

import dataclasses
import math

import pytest

from advisor import advise, speed
from estimator.duration import published, run
from specs import FinetunePlan
from specs.curves import Curves
from tests.advisor.pricing import price_of, processor, situation

SMALL = "HuggingFaceTB/SmolLM2-135M-Instruct"
FLAT = Curves(
    matmul={"float32": ((1.0, 1e11),)},
    attention_flops=1e11,
    moved=1e10,
    adapter=1e10,
    expanded=1e10,
    call_seconds=1e-5,
    overlaps=False,
    seconds_to_start=4.0,
)
"""A processor whose rates are the same at every size."""


def on(curves=FLAT, **values):
    asked = situation(model=SMALL, **values)
    return dataclasses.replace(asked, gpu=processor(measured=curves))


def plan(method="lora", **values):
    return FinetunePlan.for_method(method, SMALL, dtype="float32", **values)


@pytest.mark.parametrize(
    ("values", "error", "spread"),
    [
        pytest.param({"gpu": "RTX 4090"}, published.ERROR_WITH_RUNS, 1.0, id="a card with published runs"),
        pytest.param({"gpu": "RTX 3090"}, published.ERROR_LEFT_OUT, 1.0, id="a card without"),
        pytest.param({"gpu": "24 GiB"}, published.ERROR_LEFT_OUT, 3.3 / 2, id="any card with 24 GiB"),
        pytest.param({"gpu": "RTX 3090", "pins": {"method": "lora-8bit"}}, published.ERROR_LEFT_OUT, 1.5, id="8-bit"),
        pytest.param({"gpu": "Tesla T4", "model": "Qwen/Qwen2.5-0.5B"}, published.ERROR_WITH_RUNS, 1.0, id="float16"),
    ],
)
def test_every_device_and_dtype_gets_a_time_with_its_band(values, error, spread):
    asked = situation(**{"dataset_rows": 5_000, **values})
    result = advise(asked, price=price_of(asked))
    assert result.speed_unknown == ""
    assert result.speed.total_seconds == pytest.approx(sum(result.speed.parts.values()))
    assert result.speed.band == pytest.approx(((1 - error) / spread, (1 + error) * spread), rel=0.05)
    assert result.speed.cost(2.0) == pytest.approx(result.speed.total_seconds / 1800)


@pytest.mark.parametrize(
    ("gpu", "whose"),
    [pytest.param("RTX 3090", "the card's published peaks", id="a card"), ("24 GiB", "of cards of this size")],
)
def test_a_size_alone_is_not_said_to_have_published_peaks_of_its_own(gpu, whose):
    asked = situation(dataset_rows=5_000, gpu=gpu)
    assert advise(asked, price=price_of(asked)).speed.basis.endswith(whose)


def test_a_device_without_published_throughput_says_so_instead_of_guessing():
    asked = situation(model=SMALL, gpu="Apple unified memory 16 GB")
    result = advise(asked, price=price_of(asked))
    assert result.speed is None
    assert result.speed_unknown.startswith("No time is given: no throughput in")
    assert result.to_dict()["speed_unknown"] == result.speed_unknown


def test_a_measured_machine_says_so_and_is_trusted_more():
    told = speed.step_speed(on(dataset_rows=300), plan())
    calculated = speed.step_speed(dataclasses.replace(on(dataset_rows=300), gpu=processor()), plan())
    assert (told.measured, told.basis) == (True, "measured on this machine")
    assert told.band == (1 - speed.MEASURED_ERROR, 1 + speed.MEASURED_ERROR)
    assert calculated.band[1] > told.band[1]


def test_the_parts_of_a_run_are_what_it_does():
    asked = on(dataset_rows=300, dataset_tokens=(60, 80, 90), asks_data=True)
    told = speed.step_speed(asked, plan(eval_split=0.1, save_steps=10))
    assert tuple(told.parts) == run.PARTS
    assert all(seconds > 0 for seconds in told.parts.values())
    none = speed.step_speed(dataclasses.replace(asked, asks_data=False), plan(save_steps=10))
    assert none.parts[run.EVALUATING] == none.parts[run.ANSWERING] == 0
    slower = dataclasses.replace(FLAT, seconds_to_start=9.0)
    later = speed.step_speed(dataclasses.replace(asked, gpu=processor(measured=slower)), plan(eval_split=0.1))
    assert later.parts[run.STARTING] == pytest.approx(told.parts[run.STARTING] + 5)


def test_float32_takes_longer_than_16_bit_by_the_ratio_of_the_cards_rates():
    asked = situation(gpu="A100 80GB")
    half = FinetunePlan.for_method("full", "m", bf16=True, max_length=4096)
    slow = dataclasses.replace(half, bf16=False, dtype="float32")
    ratio = speed.step_speed(asked, slow).seconds_per_step / speed.step_speed(asked, half).seconds_per_step
    assert 312 / 19.5 / 3 < ratio < 312 / 19.5


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


def test_a_row_is_padded_to_the_longest_of_its_batch():
    """Of two rows drawn from 10 and 30 tokens, three in four pairs hold one of 30."""
    asked = situation(dataset_tokens=(10, 30, 30), row_lengths=(10, 30))
    padded = {
        name: run.padded_length(
            plan(per_device_train_batch_size=2, train_sampling_strategy=name), run.Data(row_lengths=asked.row_lengths)
        )
        for name in ("random", "group_by_length")
    }
    assert padded == {"random": 25.0, "group_by_length": 20.0}


def test_a_run_takes_its_parts_and_costs_its_hours():
    found = speed.Speed(
        seconds_per_step=9.0, tokens_per_second=1.0, steps=800, band=(0.9, 1.1), parts={run.TRAINING: 7_200.0}
    )
    assert (found.total_seconds, found.cost(1.5)) == (7_200, 3.0)
    unknown = dataclasses.replace(found, steps=None)
    assert (unknown.total_seconds, unknown.cost(1.5)) == (None, None)


def test_the_time_of_a_plan_is_held_against_another_for_the_same_data():
    kept = plan(max_length=1024)
    recomputed = dataclasses.replace(kept, gradient_checkpointing=True)
    assert 1.3 < speed.relative_time(on(), recomputed, kept) < 1.6, "three passes over two"


def test_a_plan_is_not_held_against_one_of_unknown_speed():
    asked = situation()
    asked = dataclasses.replace(asked, gpu=dataclasses.replace(asked.gpu, half_tflops=None))
    plans = [FinetunePlan.for_method("lora", "m", dtype=dtype) for dtype in ("float32", "bfloat16")]
    assert speed.step_speed(asked, plans[0]) is not None
    assert speed.relative_time(asked, *plans) is None
    assert speed.relative_time(asked, *reversed(plans)) is None


def test_a_trial_on_a_slow_processor_takes_fewer_steps_and_says_so():
    slow = dataclasses.replace(FLAT, matmul={"float32": ((1.0, 1.2e11),)})
    asked = on(slow, dataset_rows=320, dataset_tokens=(66, 73, 88), is_trial=True, asks_data=True)
    result = advise(asked, price=price_of(asked))
    whole = advise(dataclasses.replace(asked, is_trial=False), price=price_of(asked))
    assert whole.speed.total_seconds > speed.TRIAL_SECONDS >= result.speed.total_seconds
    assert speed.LEAST_STEPS <= result.plan.max_steps < whole.speed.steps
    (told,) = (entry for entry in result.advice if entry.field == "max_steps")
    assert told.value == result.plan.max_steps
    assert "With -1 it learns all rows." in told.reason


def test_a_trial_that_cannot_end_in_three_minutes_says_how_long_it_takes():
    slow = dataclasses.replace(FLAT, matmul={"float32": ((1.0, 5e9),)})
    asked = on(slow, dataset_rows=320, dataset_tokens=(66, 73, 88), is_trial=True, asks_data=True)
    result = advise(asked, price=price_of(asked))
    assert result.plan.max_steps == speed.LEAST_STEPS
    minutes = math.ceil(result.speed.total_seconds / 60)
    assert minutes > 3
    assert f"20 take about {minutes} minutes. With" in result.advised("max_steps").reason


def test_what_follows_from_the_number_of_steps_follows_a_trial_that_ends_early():
    slow = dataclasses.replace(FLAT, matmul={"float32": ((1.0, 2e10),)})
    asked = on(slow, dataset_rows=3_000, dataset_tokens=(66, 73, 88), is_trial=True, asks_data=True)
    whole = advise(dataclasses.replace(asked, is_trial=False), price=price_of(asked))
    result = advise(asked, price=price_of(asked))
    assert result.plan.max_steps < 40
    assert whole.plan.warmup_steps > result.plan.max_steps / 2, "as the warm-up of all rows would be"
    assert result.plan.warmup_steps == result.advised("warmup_steps").value <= result.plan.max_steps / 4
    assert result.plan.save_steps == result.advised("save_steps").value == 10 < whole.plan.save_steps
    assert f"max_steps after {result.plan.max_steps} steps" in result.advised("warmup_steps").reason
    asked = dataclasses.replace(asked, pins={"warmup_steps": 9.0})
    assert advise(asked, price=price_of(asked)).plan.warmup_steps == 9, "what the person set stays"


def test_a_trial_that_a_person_has_set_the_length_of_keeps_it():
    asked = on(dataset_rows=9_000, is_trial=True, pins={"num_train_epochs": 1.0})
    assert advise(asked, price=price_of(asked)).plan.max_steps == -1


def test_this_device_the_fastest_and_the_cheapest_are_named():
    asked = situation(dataset_rows=1_000)
    plan = FinetunePlan.for_method("lora", "m", dtype="float16")
    told = {
        name: speed.step_speed(dataclasses.replace(asked, gpu=situation(gpu=name).gpu), plan)
        for name in ("A100 80GB", "Tesla T4")
    }
    assert speed.choices(told, {"Tesla T4": 0.1, "A100 80GB": 9.0}, here="Tesla T4") == {
        "this device": "Tesla T4",
        "fastest": "A100 80GB",
        "cheapest": "Tesla T4",
    }
    assert speed.choices(told, {}) == {"fastest": "A100 80GB"}
    alike = {"A100 80GB": told["A100 80GB"], "another": dataclasses.replace(told["A100 80GB"])}
    assert speed.choices(alike, {}) == {"likely the fastest": "A100 80GB"}  # their ranges overlap
    assert speed.choices({}, {}) == {}
