"""How a run loads and reserves, of the tape that is followed by hand in MiB instead of KiB."""

import dataclasses

import numpy as np
import pytest

from catalog import gpus, models
from estimator.replay import reservation
from estimator.replay.allocator import EMPTY_CACHE, reserved
from estimator.replay.overhead import context_bytes
from estimator.replay.replay import Replay
from estimator.replay.reservation import BY_THREADS, ONE_BY_ONE, Circumstances
from estimator.tape.library import tape_for
from estimator.tape.tape import BACKWARD_START
from specs import GIB, MIB, FinetunePlan, GpuSpec
from tests.estimator.hand import TAPE, plan

# Pascal's context of 118 MiB, and two workspaces of 8,320 KiB.
CARD = GpuSpec(
    name="a card", memory_bytes=12 * GIB, usable_bytes=12 * GIB, compute_capability=(6, 1), architecture="Pascal"
)
LARGE = dataclasses.replace(
    TAPE,
    sizes=TAPE.sizes * 1024,
    residents=tuple(
        dataclasses.replace(
            entry,
            num_elements=1024 * entry.num_elements,
            num_elements_per_rank=1024 * entry.num_elements_per_rank,
        )
        for entry in TAPE.residents
    ),
)


def reserved_mib(circumstances=None, method="lora", **values):
    replay = Replay(LARGE, plan(method, **values), CARD, circumstances or Circumstances())
    return replay.reservation.reserved_bytes / MIB


@pytest.mark.parametrize(
    ("method", "circumstances", "in_flight"),
    [
        pytest.param("lora", Circumstances(), (1,), id="nothing is quantized"),
        pytest.param("qlora", Circumstances(), (1,), id="segments that expand close the gaps"),
        pytest.param("qlora", Circumstances(expandable_segments=False), ONE_BY_ONE, id="late frees"),
        pytest.param("qlora", Circumstances(loaded_by_threads=True), BY_THREADS, id="threads ahead"),
        pytest.param("lora", Circumstances(loaded_by_threads=True), (1,), id="threads with nothing to quantize"),
    ],
)
def test_so_many_weights_wait_to_be_quantized(method, circumstances, in_flight):
    assert circumstances.weights_in_flight(plan(method)) == in_flight


MODEL = models.find("HuggingFaceTB/SmolLM2-135M")
RTX_4090 = gpus.find("RTX 4090")


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize(
    ("method", "values", "circumstances"),
    [
        pytest.param("lora", {}, Circumstances(), id="LoRA"),
        pytest.param("full", {}, Circumstances(), id="all weights"),
        pytest.param("qlora", {}, Circumstances(expandable_segments=False), id="QLoRA, loaded in several orders"),
        pytest.param(
            "qlora", {"prepare_kbit": True}, Circumstances(), id="QLoRA, raised to 32 bit", marks=pytest.mark.slow
        ),
        pytest.param("lora", {"optim": "adamw_torch"}, Circumstances(warmed_up=False), id="roots, no warm-up"),
    ],
)
def test_what_the_allocator_is_told_adds_up_to_the_peak(
    method, values, circumstances, checkpointing, accumulation, monkeypatch
):
    """Every free is of an allocation as large; the most there is at once is the peak; the model stays."""
    told = []

    def replayed(events, **limits):
        told.append((events, limits, reserved(events, **limits)))
        return told[-1][2]

    monkeypatch.setattr(reservation, "reserved", replayed)
    asked = FinetunePlan.for_method(
        method,
        MODEL.name,
        bf16=True,
        lora_dropout=0.0 if method == "full" else 0.05,
        gradient_checkpointing=checkpointing,
        gradient_accumulation_steps=accumulation,
        **values,
    )
    replay = Replay(tape_for(MODEL, asked, gpu=RTX_4090), asked, RTX_4090, circumstances)
    found = replay.reservation
    mean = sum(entry.peak_bytes for _, _, entry in told) / len(told)
    assert found.reserved_bytes == pytest.approx(1.0225 * mean, abs=1)
    assert found.reserved_bytes >= replay.peak_bytes
    pass_bytes = replay.fixed_bytes + int(replay.allocated.max())
    for events, limits, _ in told:
        held = {}
        for slot, size in zip(events.slots.tolist(), events.sizes.tolist(), strict=True):
            if size > 0:
                assert held.setdefault(slot, size) == size
            elif slot != EMPTY_CACHE:
                assert held.pop(slot) == -size
        there = np.cumsum(events.sizes)
        assert there.max() == max(pass_bytes, replay.optimizer_bytes())
        assert there[-1] == replay.fixed_bytes - (replay.gradient_bytes if accumulation > 1 else 0)
        if accumulation == 1:
            assert there[limits["mark"]] == pass_bytes
    assert len(told) == len(circumstances.weights_in_flight(asked))


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("steps", "emptied"), [(None, (0, 0)), (1, (1, 1)), (2, (1, 0))])
def test_the_cache_is_emptied_between_the_passes_of_every_so_many_steps(steps, emptied, accumulation, monkeypatch):
    """What is unused then is all that goes: nothing that is allocated changes."""
    told = []

    def replayed(events, **limits):
        told.append(events)
        return reserved(events, **limits)

    monkeypatch.setattr(reservation, "reserved", replayed)
    asked = plan(torch_empty_cache_steps=steps, gradient_accumulation_steps=accumulation)
    replay = Replay(LARGE, asked, CARD, Circumstances())
    assert replay.reservation.reserved_bytes >= replay.peak_bytes
    (events,) = told
    places = np.flatnonzero(events.slots == EMPTY_CACHE)
    assert len(places) == accumulation * sum(emptied)
    there = np.cumsum(events.sizes)
    assert there.max() == max(replay.fixed_bytes + int(replay.allocated.max()), replay.optimizer_bytes())
    # In the first step there are no optimizer states yet, and one workspace less.
    forward = replay.fixed_bytes + int(replay.allocated[LARGE.program.forward_events - 1])
    if places.size and accumulation == 1:
        assert there[places[-1]] == forward - (0 if steps == 1 else replay.fixed["optimizer_states"] + 8320 * 1024)


HELD = dataclasses.replace(
    LARGE,
    blocks={
        **LARGE.blocks,
        "head": dataclasses.replace(LARGE.blocks["head"], events=(("+", 0), (BACKWARD_START, 0))),
    },
)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_outputs_that_a_loop_carries_on_are_there_until_the_next_forward_pass_ends(accumulation, monkeypatch):
    told = []

    def replayed(events, **limits):
        told.append(events)
        return reserved(events, **limits)

    monkeypatch.setattr(reservation, "reserved", replayed)
    asked = plan(gradient_accumulation_steps=accumulation)
    dropped, carried = (Replay(HELD, asked, CARD, Circumstances(outputs_carried=carries)) for carries in (False, True))
    logits = MIB
    assert carried.phases()["forward"] == dropped.phases()["forward"] + logits
    assert carried.phases()["backward"] == dropped.phases()["backward"]
    assert carried.phases()["optimizer"] == dropped.phases()["optimizer"]
    first = sum(carried.components_after(0).values()), sum(dropped.components_after(0).values())
    assert first[0] - first[1] == logits
    events, alone = told
    held = {}
    for slot, size in zip(events.slots.tolist(), events.sizes.tolist(), strict=True):
        if size > 0:
            assert held.setdefault(slot, size) == size
        else:
            assert held.pop(slot) == -size
    # Into the second step, and into each further pass of both steps.
    assert len(events.slots) == len(alone.slots) + 2 * (1 if accumulation == 1 else 3)


def test_an_unseen_share_is_added_up_to_what_the_card_has():
    # Blocks above 1 MiB: weights of 7.8, workspaces of 16.3 and activations of 24 in pages of 20; below it 10.4 by 2.
    assert reserved_mib() == pytest.approx((60 + 12) * 1.0225)


def test_no_more_is_reserved_than_the_card_has_beside_the_context():
    card = dataclasses.replace(CARD, usable_bytes=context_bytes(CARD) + 73 * MIB)
    assert Replay(LARGE, plan(), card).reservation.reserved_bytes == 73 * MIB
