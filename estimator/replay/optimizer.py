"""What an optimizer keeps for the trainable tensors, and what its step needs temporarily."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from estimator.tape.sizes import ALLOCATION_BYTES, rounded_bytes
from estimator.tape.tape import Resident
from specs import FinetunePlan

# bitsandbytes/optim/optimizer.py (0.50.2): the block size of 8-bit states, and the sizes below which states stay in
# 32-bit or unpaged.
_STATE_BLOCK = 256
_MIN_8BIT_ELEMENTS = 4096
_MIN_PAGED_ELEMENTS = 100_000
_QUANTIZATION_MAP_BYTES = 256 * 4

_FLOAT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerMemory:
    """Bytes of an optimizer."""

    state_bytes: int
    """On the device, from the first step on."""
    paged_bytes: int
    """In managed memory, which moves between host and device and is not counted by PyTorch."""
    step_bytes: int
    """Needed only while the step runs."""


def optimizer_memory(plan: FinetunePlan, residents: Iterable[Resident]) -> OptimizerMemory:
    """Return what a plan's optimizer takes for the trainable tensors of a tape."""
    trained = [entry for entry in residents if entry.trainable]
    state = sum(sum(state_sizes(plan.optim, entry, plan.r)) * entry.count for entry in trained)
    if plan.optim.endswith("8bit") and state:
        state += 2 * _QUANTIZATION_MAP_BYTES
    return OptimizerMemory(
        state_bytes=state,
        paged_bytes=sum(_paged_bytes(plan.optim, entry.elements(plan.r)) * entry.count for entry in trained),
        step_bytes=sum(step_sizes(plan.optim, trained, plan.r)),
    )


def state_sizes(optim: str, entry: Resident, rank: int) -> tuple[int, ...]:
    """Return the bytes of each state that one trainable tensor has on the device.

    Source:
        torch/optim/adamw.py: two moments in the weight's dtype; the fused one counts steps on the device. bitsandbytes
        optim/optimizer.py: two states (Lion one) in 32-bit, or in 8-bit with a constant for each block.
        transformers/optimization.py, Adafactor: a row and a column, here those of a square matrix.
    """
    elements = entry.elements(rank)
    if optim in {"adamw_torch", "adamw_torch_fused"}:
        counter = (ALLOCATION_BYTES,) if optim == "adamw_torch_fused" else ()
        return (*[rounded_bytes(elements * entry.itemsize)] * 2, *counter)
    if optim == "adafactor":
        return (rounded_bytes(_FLOAT * math.isqrt(elements)),) * 2
    if optim == "sgd":
        return ()
    constants = (rounded_bytes(_FLOAT * math.ceil(elements / _STATE_BLOCK)),) if _in_8_bit(optim, elements) else ()
    values = () if _is_paged(optim, elements) else (_value_bytes(optim, elements),)
    return (*values, *constants) * _moments(optim)


def step_sizes(optim: str, trained: Sequence[Resident], rank: int) -> Iterator[int]:
    """Yield the bytes of each temporary tensor of a step; all of them are alive at once.

    Source:
        torch/optim/adamw.py, _multi_tensor_adamw: the square roots of all second moments of one dtype; the fused step
        has none. transformers/optimization.py, Adafactor.step: gradient, weight, update and its square for one
        tensor in 32-bit.
    """
    if optim == "adafactor" and trained:
        yield from [rounded_bytes(_FLOAT * max(entry.elements(rank) for entry in trained))] * 4
    if optim == "adamw_torch":
        by_dtype: dict[int, list[int]] = {}
        for entry in trained:
            by_dtype.setdefault(entry.itemsize, []).extend([entry.bytes_each(rank)] * entry.count)
        yield from max(by_dtype.values(), key=sum, default=[])


def _moments(optim: str) -> int:
    return 1 if optim.startswith("lion") else 2


def _in_8_bit(optim: str, elements: int) -> bool:
    return optim.endswith("8bit") and elements >= _MIN_8BIT_ELEMENTS


def _is_paged(optim: str, elements: int) -> bool:
    return optim.startswith("paged") and elements >= _MIN_PAGED_ELEMENTS


def _value_bytes(optim: str, elements: int) -> int:
    return rounded_bytes(elements * (1 if _in_8_bit(optim, elements) else _FLOAT))


def _paged_bytes(optim: str, elements: int) -> int:
    return _moments(optim) * _value_bytes(optim, elements) if _is_paged(optim, elements) else 0
