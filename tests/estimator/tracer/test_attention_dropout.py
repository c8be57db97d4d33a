"""Dropout of attention weights: CUDA's fused kernels draw it anew in the backward pass and keep nothing of it."""

import numpy as np
import pytest

from estimator.tape.conditions import Conditions
from estimator.tape.recipe import recipe
from estimator.tracer.fit import Probe
from estimator.tracer.trace import recorded
from specs import FinetunePlan, ModelSpec
from tests.estimator.small import CONFIGS

PROBE = Probe(batch=2, length=300, rank=8)


def peak(dropout, kernel):
    """Return the bytes that are allocated at once at most in a step of a small GPT-2."""
    config = {**CONFIGS["gpt2 with Conv1D"], "attn_pdrop": dropout, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    model = ModelSpec.from_config(config, name="gpt2")
    plan = FinetunePlan.for_method("lora", "gpt2", bf16=True, per_device_train_batch_size=2, max_length=300)
    recording, _ = recorded(recipe(model, plan, Conditions(attention_kernel=kernel, padding="none")), PROBE)
    sizes = np.array([allocation.num_bytes for allocation in recording.allocations])
    events = np.array(recording.events)
    return int(np.cumsum(np.where(events >= 0, sizes[events], -sizes[-events - 1])).max())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kernel", ["flash", "mem_efficient"])
def test_a_fused_kernel_keeps_nothing_for_dropout(kernel):
    assert peak(0.1, kernel) == peak(0.0, kernel)


@pytest.mark.filterwarnings("ignore")
def test_the_math_kernel_keeps_a_mask_of_every_score():
    # The mask and the dropped scores, of 2 sequences x 8 heads x 300 x 300 in each of 4 layers.
    assert peak(0.1, "math") - peak(0.0, "math") >= 4 * 2 * 8 * 300 * 300
