"""Families whose layers are not all alike: each tape is compared with a full trace of every layer at another size."""

import logging

import pytest

from estimator.tape.chunks import PER_TOKEN, chunk_tokens, recurrent_kernels
from estimator.tape.conditions import Conditions
from estimator.tape.recipe import recipe
from estimator.tracer.fit import Probe
from estimator.tracer.trace import recorded, trace
from specs import FinetunePlan, ModelSpec
from tests.estimator.families import FAMILIES
from tests.estimator.tracer.test_tape_against_trace import peaks, replayed


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


# PEFT refuses an adapter on the output of a Mamba block, which the fused kernel multiplies by itself.
WITH_MAMBA = {"granitemoehybrid", "bamba", "falcon_h1", "mamba2", "nemotron_h", "zamba2", "jamba"}


IN_WHOLE_CHUNKS = ("qwen3_5 with gated delta nets", "granite 4 with Mamba-2 and experts", "minimax with blocks")
"""One family of each kind of chunk; a chunk that is cut off is the harder case."""


def targets(config):
    if config["model_type"] == "mamba2":
        return ("in_proj",)
    return ("in_proj", "q_proj") if config["model_type"] in WITH_MAMBA else "all-linear"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "method", "length", "kernels"),
    [
        *(pytest.param(name, "lora", 448, "torch", id=f"{name}, PyTorch, whole chunks") for name in IN_WHOLE_CHUNKS),
        *(pytest.param(name, "qlora", 433, "torch", id=f"{name}, PyTorch, a chunk cut off") for name in FAMILIES),
        *(pytest.param(name, "lora", 433, "auto", id=f"{name}, kernels") for name in FAMILIES),
    ],
)
def test_a_replay_equals_a_full_trace_of_a_family(name, method, length, kernels):
    # A full trace of a scan over tokens takes time with each of them.
    point = Probe(batch=2, length=length // 8 if chunk_tokens(FAMILIES[name]) == PER_TOKEN else length, rank=8)
    plan = FinetunePlan.for_method(
        method,
        name,
        gradient_checkpointing=method == "qlora",
        r=point.rank,
        lora_dropout=0.0,
        target_modules=targets(FAMILIES[name]),
        per_device_train_batch_size=point.batch,
        max_length=point.length,
    )
    model = ModelSpec.from_config(FAMILIES[name], name=name)
    if kernels == "auto" and recurrent_kernels(model.config, None) in {"auto", "torch"}:
        pytest.skip("its layers have no kernels")
    chosen = "auto" if recurrent_kernels(model.config, None) == "auto" else kernels
    wanted = recipe(model, plan, Conditions(padding="none", recurrent_kernels=chosen))
    full = peaks(recorded(wanted, point, every_layer=True)[0])
    assert replayed(trace(wanted, lambda _: None), plan) == pytest.approx(full, rel=1e-3)
