"""The tensors listed at the peak add up to the peak."""

import pytest

from catalog import gpus, models
from estimator.replay.live_tensors import alive_at_peak
from estimator.replay.replay import Replay
from estimator.tape.library import tape_for
from specs import METHODS, FinetunePlan

CARD = gpus.find("GeForce RTX 4090")


def replayed(method, **fields):
    model = models.find("HuggingFaceTB/SmolLM2-135M")
    dropout = 0.05 if METHODS[method].trains_adapter else 0.0
    plan = FinetunePlan.for_method(
        method, model.name, bf16=True, lora_dropout=dropout, gradient_checkpointing=True, **fields
    )
    return Replay(tape_for(model, plan, gpu=CARD), plan, CARD)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_listed_tensors_add_up_to_each_component(method, accumulation):
    replay = replayed(method, gradient_accumulation_steps=accumulation, max_length=1024)
    listed = alive_at_peak(replay)
    for component, num_bytes in replay.components_after(replay.peak_event()).items():
        assert sum(entry.total_bytes for entry in listed if entry.component == component) == num_bytes


def test_the_saved_input_of_every_layer_is_found():
    replay = replayed("qlora", max_length=1024, per_device_train_batch_size=2)
    saved = 2 * 1024 * 576 * 2  # b x s x hidden_size in bfloat16
    counts = [entry.count for entry in alive_at_peak(replay) if entry.bytes_each == saved]
    assert max(counts) >= 29


def test_the_largest_comes_first():
    totals = [entry.total_bytes for entry in alive_at_peak(replayed("lora"))]
    assert totals == sorted(totals, reverse=True)
