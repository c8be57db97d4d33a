"""Real prices of plans, for the tests."""

import dataclasses
import functools

from advisor import Situation
from catalog import gpus, models
from estimator import pricing

LLAMA = "meta-llama/Llama-3.1-8B"


def situation(model=LLAMA, gpu="RTX 4090", **values):
    """Return a situation from catalog names."""
    return Situation(model=models.find(model), gpu=gpus.find(gpu), **values)


def processor(**values):
    """Return a CPU as the catalog describes one: two cores with AVX-512 at 2.3 GHz, 16 GiB."""
    facts = {"bf16": False, "compute_capability": None, "half_tflops": None, "memory_bandwidth_gb_s": None}
    facts |= {"float32_tflops": 0.2944, "throughput_spread": 2.0}
    return dataclasses.replace(gpus.find("16 GiB"), name="a CPU", backend="cpu", **{**facts, **values})


def price_of(asked):
    """Return the function that prices plans in a situation."""
    return lambda plan: _priced(asked.model, plan, asked.gpu)


@functools.lru_cache(maxsize=4096)
def _priced(model, plan, gpu):
    return pricing.price(model, plan, gpu)


def at_least_of(asked):
    """Return the function that gives the lower bound of plans in a situation."""
    return lambda plan: pricing.least_used_bytes(asked.model, plan, asked.gpu)
