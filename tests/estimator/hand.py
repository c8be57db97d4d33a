"""A tape small enough to follow by hand: two like layers that keep an activation each and train an adapter."""

import numpy as np

from estimator.tape.sizes import COLUMNS, MONOMIALS
from estimator.tape.tape import BACKWARD_START, COMPONENTS, Block, Resident, Tape
from specs import GIB, FinetunePlan, GpuSpec

_ACTIVATIONS, _WORKSPACE, _LOGITS, _GRADIENTS = map(
    COMPONENTS.index, ("activations", "workspace", "logits", "gradients")
)
_CONSTANT, _TOKENS, _RANK = range(3)


def _row(monomial: str, coefficient: int, *, by_rank: bool = False) -> list[int]:
    row = [0] * COLUMNS
    row[MONOMIALS.index(monomial) + (len(MONOMIALS) if by_rank else 0)] = coefficient
    return row


def _resident(component: str, elements: int, itemsize: int, count: int, **values: object) -> Resident:
    usual = {"num_elements_per_rank": 0, "trainable": False, "layer": None}
    return Resident(component=component, num_elements=elements, itemsize=itemsize, count=count, **{**usual, **values})


TAPE = Tape(
    # At 2 sequences of 8 tokens and rank 4: 1,024, 8,192 and 1,024 bytes.
    sizes=np.array([_row("1", 1024), _row("bs", 512), _row("1", 256, by_rank=True)], dtype=np.int64),
    blocks={
        "start": Block(allocations=((_TOKENS, _ACTIVATIONS),), events=(("+", 0),)),
        "F0": Block(
            allocations=((_TOKENS, _ACTIVATIONS), (_CONSTANT, _WORKSPACE)),
            events=(("+", 0), ("+", 0), ("=", 1)),
            handed_over={"B+0": (0,)},
        ),
        "head": Block(allocations=((_CONSTANT, _LOGITS),), events=(("+", 0), (BACKWARD_START, 0), ("=", 0))),
        "B0": Block(allocations=((_RANK, _GRADIENTS),), events=(("+", 0), ("F0", 0), ("start", 0))),
    },
    layers=(0, 0),
    residents=(
        _resident("weights", 1000, 2, 4, layer=0),
        _resident("weights", 100, 2, 1),
        _resident("weights", 50, 4, 1, is_parameter=False),
        _resident("adapter", 0, 4, 2, num_elements_per_rank=64, trainable=True, layer=0),
    ),
    num_params=4100,
)

PROCESSOR = GpuSpec(name="CPU", backend="cpu", memory_bytes=GIB, usable_bytes=GIB)
"""Has no context, no cuBLAS and no cache, so that tensors alone count."""


def plan(method: str = "lora", **values: object) -> FinetunePlan:
    """Return a plan of 2 sequences of 8 tokens at rank 4, with two moments for each weight."""
    usual = {"r": 4, "per_device_train_batch_size": 2, "max_length": 8, "optim": "adamw_torch"}
    return FinetunePlan.for_method(method, "m", **{**usual, **values})
