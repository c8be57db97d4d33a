"""The memory estimates that every page shows, cached."""

import functools

from estimator import pricing
from estimator.estimate import MemoryEstimate
from specs import FinetunePlan, GpuSpec, ModelSpec
from ui.parts import notices


@functools.lru_cache(maxsize=4096)
def priced(model: ModelSpec, plan: FinetunePlan, gpu: GpuSpec) -> MemoryEstimate:
    """Return what a plan of a model needs on a device; recent answers are cached."""
    return pricing.price(model, plan, gpu, progress=notices.tell)


@functools.lru_cache(maxsize=4096)
def at_least(model: ModelSpec, plan: FinetunePlan, gpu: GpuSpec) -> int:
    """Return bytes that a plan of a model certainly uses on a device; recent answers are cached."""
    return pricing.least_used_bytes(model, plan, gpu, progress=notices.tell)
