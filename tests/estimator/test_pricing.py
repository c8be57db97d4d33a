"""What a price says beside its bytes, and what a plan certainly uses."""

import dataclasses

import pytest

from catalog import gpus, models
from estimator import pricing
from estimator.estimate import estimate
from estimator.replay.overhead import context_bytes
from estimator.tape.library import tape_for
from specs import FinetunePlan
from tests.estimator.hand import PROCESSOR

MODEL = models.find("HuggingFaceTB/SmolLM2-135M")
CARD = gpus.find("RTX 4090")


def plan(**values):
    return FinetunePlan.for_method("lora", MODEL.name, bf16=True, lora_dropout=0.05, **values)


@pytest.mark.parametrize(("length", "warned"), [(8_192, False), (8_193, True)])
def test_a_length_beyond_the_models_positions_is_warned_of(length, warned):
    found = pricing.price(MODEL, plan(max_length=length, gradient_checkpointing=True), CARD).warnings
    assert any("was made for 8,192 tokens" in text for text in found) == warned


@pytest.mark.parametrize("sharding", ["none", "ddp", "zero3", "fsdp"])
def test_what_a_plan_certainly_uses_is_its_tensors_and_the_context(sharding):
    asked = plan(num_gpus=1 if sharding == "none" else 2, sharding=sharding)
    found = pricing.price(MODEL, asked, CARD)
    assert pricing.least_used_bytes(MODEL, asked, CARD) <= found.peak_allocated_bytes + context_bytes(CARD)
    assert pricing.least_used_bytes(MODEL, asked, CARD) > 0.99 * found.peak_allocated_bytes + context_bytes(CARD)


def test_on_a_processor_the_worker_is_certain():
    half_gib = 536_870_912
    asked = dataclasses.replace(plan(), bf16=False, dtype="float32")
    tensors = estimate(tape_for(MODEL, asked, gpu=PROCESSOR), asked, PROCESSOR).peak_allocated_bytes
    assert pricing.least_used_bytes(MODEL, asked, PROCESSOR) == tensors + half_gib


@pytest.mark.parametrize(("sharding", "chosen"), [("none", "fsdp"), ("ddp", "ddp"), ("zero3", "zero3")])
def test_several_cards_share_a_plan_as_it_says_or_by_fsdp(sharding, chosen):
    assert pricing.strategy(plan(num_gpus=1 if sharding == "none" else 2, sharding=sharding)) == chosen
