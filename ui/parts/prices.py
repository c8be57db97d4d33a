"""The memory of plans as every page shows it: one computation, remembered."""

import functools

from estimator import pricing
from estimator.estimate import MemoryEstimate
from specs import FinetunePlan, GpuSpec, ModelSpec
from ui.parts import notices


@functools.lru_cache(maxsize=4096)
def priced(model: ModelSpec, plan: FinetunePlan, gpu: GpuSpec) -> MemoryEstimate:
    """Return what a plan of a model needs on a device; what was asked lately is remembered."""
    return pricing.price(model, plan, gpu, progress=notices.tell)
