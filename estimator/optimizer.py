"""What an optimizer keeps for the trainable tensors, and what its step needs for a moment."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from estimator.tape import ALLOCATION_BYTES, Resident
from specs import FinetunePlan

# bitsandbytes/optim/optimizer.py (0.50.2): blocks of 8-bit states, and the sizes under which states stay in 32 bit or
# unpaged.
_STATE_BLOCK = 256
_MIN_8BIT_ELEMENTS = 4096
_MIN_PAGED_ELEMENTS = 100_000
_QUANTIZATION_MAP_BYTES = 256 * 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerMemory:
    """Bytes of an optimizer."""

    state_bytes: int
    """On the device, from the first step on."""
    paged_bytes: int
    """In managed memory, which moves between host and device and which PyTorch does not count."""
    step_bytes: int
    """Needed only while the step runs."""


def optimizer_memory(plan: FinetunePlan, residents: Iterable[Resident]) -> OptimizerMemory:
    """Return what a plan's optimizer takes for the trainable tensors of a tape."""
    state = paged = 0
    step: dict[int, int] = {}
    largest = 0
    for resident in residents:
        if not resident.trainable:
            continue
        elements = resident.elements(plan.r)
        largest = max(largest, elements)
        one_state, one_paged = _states(plan.optim, elements, resident.itemsize)
        state += one_state * resident.count
        paged += one_paged * resident.count
        step[resident.itemsize] = step.get(resident.itemsize, 0) + resident.bytes_each(plan.r) * resident.count
    if plan.optim.endswith("8bit") and state:
        state += 2 * _QUANTIZATION_MAP_BYTES
    return OptimizerMemory(
        state_bytes=state, paged_bytes=paged, step_bytes=_step_bytes(plan.optim, largest, max(step.values(), default=0))
    )


def _step_bytes(optim: str, largest: int, all_of_one_dtype: int) -> int:
    """Return the temporaries of one step.

    Source: torch/optim/adamw.py, _multi_tensor_adamw: the square roots of all second moments at once; the fused step
    has none.
    transformers/optimization.py, Adafactor.step: the gradient, the weight and the update of one tensor in 32 bit, and
    their square.
    """
    if optim == "adamw_torch":
        return all_of_one_dtype
    return 4 * _rounded(4 * largest) if optim == "adafactor" else 0


def _states(optim: str, elements: int, itemsize: int) -> tuple[int, int]:
    """Return the bytes on the device and in managed memory for one trainable tensor.

    Source: torch/optim/adamw.py (two moments in the weight's dtype; the fused one counts steps on the device),
    bitsandbytes
    optim/optimizer.py (two states, Lion one, in 32 bit or in 8 bit with a constant for each block),
    transformers/optimization.py
    (Adafactor: one row and one column, here as of a square matrix).
    """
    moments = 1 if optim.startswith("lion") else 2
    if optim in {"adamw_torch", "adamw_torch_fused"}:
        counter = ALLOCATION_BYTES if optim == "adamw_torch_fused" else 0
        return 2 * _rounded(elements * itemsize) + counter, 0
    if optim == "adafactor":
        return 2 * _rounded(4 * math.isqrt(elements)), 0
    if optim == "sgd":
        return 0, 0
    small = elements < _MIN_8BIT_ELEMENTS
    eight_bit = optim.endswith("8bit") and not small
    values = moments * _rounded(elements * (1 if eight_bit else 4))
    constants = moments * _rounded(4 * math.ceil(elements / _STATE_BLOCK)) if eight_bit else 0
    if optim.startswith("paged") and elements >= _MIN_PAGED_ELEMENTS:
        return constants, values
    return values + constants, 0


def _rounded(num_bytes: int) -> int:
    return max(1, -(-num_bytes // ALLOCATION_BYTES)) * ALLOCATION_BYTES
