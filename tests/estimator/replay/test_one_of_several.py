import dataclasses

import pytest

from catalog import gpus, models
from estimator.__main__ import comparisons
from estimator.estimate import estimate
from estimator.replay.one_of_several import FSDP_1, FSDP_1_REENTRANT, FSDP_1_REENTRANT_FROZEN, FSDP_2, replay_of
from estimator.replay.replay import Replay
from estimator.replay.reservation import Circumstances
from estimator.tape.divided import Gathering, divided
from estimator.tape.library import tape_for
from specs import FinetunePlan
from tests.estimator import hand
from tests.estimator.accuracy.measured import FOLDER

KIB = 1024
OLDER = Circumstances(fsdp_version=1)


def on_two(method="lora", **values):
    return hand.plan(method, num_gpus=2, sharding="fsdp", **values)


def moves(plan, circumstances=None):
    """What each stretch of a step allocates and frees, in KiB."""
    replay = replay_of(hand.TAPE, plan, hand.PROCESSOR, circumstances)
    places = replay.tape.program.places
    return [(replay.deltas[places == place] / KIB).tolist() for place in range(int(places[-1]) + 1)]


def traced(method, **values):
    model = models.find("HuggingFaceTB/SmolLM2-135M")
    return tape_for(model, FinetunePlan.for_method(method, model.name, bf16=True, **values))


def left(tape, gradients):
    """How many allocations outlive a step, or only the gradients among them."""
    program = tape.program
    return int(program.kept_gradients.sum()) if gradients else int(program.sign.sum(dtype=int))


def test_a_tape_of_which_nothing_is_gathered_has_the_same_events():
    same = divided(hand.TAPE, Gathering()).tape.program
    assert same.allocation.tolist() == hand.TAPE.program.allocation.tolist()
    assert same.sign.tolist() == hand.TAPE.program.sign.tolist()


# One layer has two weights of 2,000 bytes and an adapter of 256 weights in 32 bit: 5,024 bytes, handed out as 5 KiB.
# The tail has 200 bytes: 0.5 KiB. A layer's gradients take 1 KiB, one device's part of them 0.5 KiB.
def test_fsdp2_holds_a_unit_twice_and_its_gradients_until_they_are_reduced():
    backward = [
        1,
        -5,
        -5,
        -1,
        1,
        0.5,
        -1,
        -1,
    ]  # gradients, both layers, the buffer before, own buffer, part, both freed
    assert moves(on_two()) == [
        [8],
        [5, 5, 8, 1, -1, -5, -5],
        [5, 5, 8, 1, -1, -5, -5],
        [0.5, 0.5, 1, -0.5, 5, -1, -0.5, -5],
        [5, 5, 1, *backward],
        [5, 5, 1, 1, -8, *backward[1:]],
    ]


def test_fsdp1_keeps_the_root_gathered_and_fetches_the_next_layer_ahead():
    assert moves(on_two(), OLDER) == [
        [0.5, 8],
        [5, 8, 1, -1, -5],
        [5, 8, 1, -1, -5],
        [1, 5, -1, -5],
        [5, 5, 1, -5, -5, 0.5, -1],
        [5, 5, 1, -8, -5, -5, 0.5, -1, -0.5],
    ]
    assert moves(on_two(gradient_checkpointing=True, use_reentrant=True), OLDER)[4] == [5, 1, -5, 0.5, -1]


@pytest.mark.parametrize("how", [FSDP_1, FSDP_2])
@pytest.mark.parametrize("method", ["qlora", "full"])
def test_everything_that_is_gathered_is_given_up_again(how, method):
    whole = traced(method)
    each = divided(whole, how).tape
    assert left(each, gradients=False) - left(each, gradients=True) == left(whole, gradients=False) - left(
        whole, gradients=True
    )
    assert left(each, gradients=True) < left(whole, gradients=True), "one part for each unit"


def test_fsdp1_keeps_the_input_of_a_frozen_layer_and_its_gradient_with_reentrant_checkpointing():
    whole = traced("lora", gradient_checkpointing=True, use_reentrant=True)
    each, kept = (divided(whole, how).tape for how in (FSDP_1_REENTRANT, FSDP_1_REENTRANT_FROZEN))
    assert left(kept, gradients=False) - left(each, gradients=False) == 2 * (len(whole.layers) - 1)


def test_with_accumulation_fsdp_holds_all_gradients_until_the_last_batch():
    once, often = (replay_of(hand.TAPE, on_two(gradient_accumulation_steps=steps), hand.PROCESSOR) for steps in (1, 4))
    assert once.fixed["gradients"] == 0
    assert often.fixed["gradients"] == 2 * KIB
    assert often.optimizer_bytes() == once.optimizer_bytes(), "the step itself works on one device's part"


@pytest.mark.parametrize(("sharding", "gradients"), [("zero1", 4), ("zero2", 1), ("zero3", 1)])
def test_zero_divides_accumulated_gradients_from_its_second_stage_on(sharding, gradients):
    plan = hand.plan(num_gpus=4, sharding=sharding, gradient_accumulation_steps=2)
    assert replay_of(hand.TAPE, plan, hand.PROCESSOR).fixed["gradients"] == gradients * 2 * 256


def test_what_is_offloaded_leaves_no_cache_on_the_card():
    model, card = models.find("HuggingFaceTB/SmolLM2-135M"), gpus.find("RTX 4090")
    plan = FinetunePlan.for_method("full", model.name, num_gpus=2, sharding="fsdp")
    tape = tape_for(model, plan)
    kept, moved = (estimate(tape, dataclasses.replace(plan, offload=where), card) for where in ("none", "all"))
    assert moved.components["optimizer_states"] == 0
    assert moved.components["weights"] < 1000, "buffers alone"
    assert moved.used_bytes < kept.used_bytes - 0.9 * kept.components["optimizer_states"]


def test_the_optimizers_temporaries_are_divided_too():
    model, card = models.find("HuggingFaceTB/SmolLM2-135M"), gpus.find("RTX 4090")
    one = FinetunePlan.for_method("full", model.name, optim="adamw_torch")
    tape = tape_for(model, one)
    found = estimate(tape, dataclasses.replace(one, num_gpus=2, sharding="fsdp"), card)
    part = 2 * model.num_params / 2
    assert found.phases["optimizer"] == pytest.approx(5 * part, rel=0.07), "weights, gradient, two states, square root"
    assert isinstance(replay_of(tape, one, card), Replay)


@pytest.mark.slow
def test_published_runs_on_two_cards_are_met():
    """Two A100, FSDP1: the optimizer's step for full fine-tuning, the end of the backward pass for LoRA and QLoRA."""
    found = comparisons(FOLDER / "fsdp.csv")
    assert len(found) == 8
    for entry in found:
        assert abs(entry.error("allocated")) < 0.001, entry.row.plan
        assert abs(entry.error("used")) < 0.08, entry.row.plan
