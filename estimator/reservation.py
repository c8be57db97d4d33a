"""What a run reserves from loading the model to its second step: the allocator keeps what was freed on the way."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from estimator.allocator import SMALL_BYTES, Allocator
from estimator.optimizer import state_sizes, step_sizes
from estimator.tape import Ints, Program, Resident, Tape, rounded_bytes
from specs import FinetunePlan

_HALF, _FLOAT = 2, 4

WAITING_WEIGHTS = 8
"""16-bit weights that lie on the device at once while a model is quantized: transformers loads with 4 threads
(core_model_loading.py, GLOBAL_WORKERS), and of 1, 4, 8, 16 and 32 this fits the T4 runs of Anassbzdd/fitcheck best."""

UNSEEN_SHARE = 0.025
"""What measured runs reserve beyond this replay, the mean over the rows of assets/measured: gaps in the pool of small
blocks, and the order in which threads load the weights."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Peaks that only a replay of the allocator shows."""

    reserved_bytes: int
    rest_bytes: int
    """What blocks hold beyond their requests at the step's peak; PyTorch counts it as allocated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One training step as the allocator sees it."""

    program: Program
    sizes: Ints
    """Bytes of each event's allocation."""
    peak_event: int
    last_event: int
    """What comes later reserves nothing more."""
    workspaces: Sequence[int]
    """Bytes of each cuBLAS workspace."""
    limit_bytes: int
    """What the device has for PyTorch."""


def reservation(tape: Tape, plan: FinetunePlan, step: Step) -> Reservation:
    """Return what PyTorch's allocator reserves for a run of a plan."""
    allocator = Allocator(step.limit_bytes)
    _load(allocator, tape, plan)
    for resident in tape.residents:
        if resident.component == "adapter":
            allocator.keep(resident.bytes_each(plan.r), resident.count)
    trained = [resident for resident in tape.residents if resident.trainable]
    temporaries = list(step_sizes(plan.optim, trained, plan.r))
    rest = 0
    for first in (True, False):
        living, rest = _run(allocator, step, first=first)
        if first:
            for entry in trained:
                for size in state_sizes(plan.optim, entry, plan.r):
                    allocator.keep(size, entry.count)
        allocator.passing(temporaries)
        for block in living:
            allocator.large.give(block)
    seen = allocator.peak_reserved_bytes
    lifted = min(round(seen * (1 + UNSEEN_SHARE)), step.limit_bytes)
    return Reservation(reserved_bytes=max(seen, lifted), rest_bytes=rest)


def unpacked_bytes(tape: Tape, plan: FinetunePlan) -> int:
    """Return the bytes of all quantized weights before they were; on a CPU the C library keeps them when freed.

    Source:
        SmolLM2-135M in 4 bit on a CPU: 1,669 MiB resident at the peak, 1,719 MiB with these and 1,314 MiB without
        (torch 2.13.0, bitsandbytes 0.50.2, glibc, 2026-11-22).
    """
    itemsize = _FLOAT if plan.dtype == "float32" else _HALF
    return sum(
        _unpacked_bytes(entry, plan) // _HALF * itemsize * entry.count
        for entry in tape.residents
        if _is_packed(entry, plan)
    )


def _load(allocator: Allocator, tape: Tape, plan: FinetunePlan) -> None:
    """Replay loading: one block for the whole model first, then each weight, quantized where the plan says so.

    Source: transformers modeling_utils.py, caching_allocator_warmup; integrations/bitsandbytes.py (5.23).
    """
    order = list(_in_order(tape))
    weights = [entry for entry in order if entry.component == "weights" and entry.is_parameter]
    whole = sum(entry.elements(plan.r) * _loaded_itemsize(entry, plan) for entry in weights)
    allocator.passing([rounded_bytes(whole)])
    waiting: deque[int] = deque()
    loaded: list[tuple[int, Resident]] = []
    for entry in order:
        size = rounded_bytes(entry.elements(plan.r) * _loaded_itemsize(entry, plan))
        if size <= SMALL_BYTES:
            allocator.keep(entry.bytes_each(plan.r))
            continue
        if _is_packed(entry, plan):
            waiting.append(allocator.large.take(rounded_bytes(_unpacked_bytes(entry, plan))))
        loaded.append((allocator.large.take(size), entry))
        if len(waiting) == WAITING_WEIGHTS:
            allocator.large.give(waiting.popleft())
    for block in waiting:
        allocator.large.give(block)
    _raise(allocator, plan, loaded)


def _raise(allocator: Allocator, plan: FinetunePlan, loaded: Sequence[tuple[int, Resident]]) -> None:
    """Replay ``prepare_model_for_kbit_training``: a tensor in 32 bit is made, then the one in 16 bit is freed.

    Source: peft utils/other.py (0.21.2).
    """
    for block, entry in loaded:
        if _loaded_itemsize(entry, plan) < entry.itemsize:
            allocator.large.take(entry.bytes_each(plan.r))
            allocator.large.give(block)


def _in_order(tape: Tape) -> Iterator[Resident]:
    """Yield the base model's tensors one by one: the embedding, the layers, the rest."""
    base = [entry for entry in tape.residents if entry.component in {"weights", "quantization_constants"}]
    outside = sorted((entry for entry in base if entry.layer is None), key=lambda entry: -entry.num_elements)
    inside: dict[int, list[Resident]] = {}
    for entry in base:
        if entry.layer is not None:
            inside.setdefault(entry.layer, []).append(entry)
    yield from outside[:1]
    for kind in tape.layers:
        like = tape.layers.count(kind)
        for entry in inside.get(kind, ()):
            yield from [entry] * (entry.count // like)
    for position, entry in enumerate(outside):
        yield from [entry] * (entry.count - (position == 0))


def _is_packed(entry: Resident, plan: FinetunePlan) -> bool:
    """Return whether an entry is a weight that bitsandbytes quantized."""
    if entry.component != "weights" or not entry.is_parameter or entry.layer is None:
        return False
    return plan.quantization != "none" and entry.itemsize == 1


def _unpacked_bytes(entry: Resident, plan: FinetunePlan) -> int:
    """Return the bytes of a quantized weight before it was."""
    return entry.elements(plan.r) * (2 if plan.load_in_4bit else 1) * _HALF


def _loaded_itemsize(entry: Resident, plan: FinetunePlan) -> int:
    """Return the bytes of an element as loaded, before ``prepare_model_for_kbit_training`` raised it."""
    raised = plan.prepare_kbit and entry.component == "weights" and entry.is_parameter and entry.itemsize == _FLOAT
    return _HALF if raised else entry.itemsize


def _run(allocator: Allocator, step: Step, *, first: bool) -> tuple[list[int], int]:
    """Replay one step; return the large blocks that it leaves, and the rests of blocks at its peak.

    The first step also brings cuBLAS its workspaces: of the main thread at the first product, of autograd's thread at
    the first one of the backward pass.
    """
    program, last = step.program, step.last_event
    sizes, sign_of = step.sizes[:last], program.sign[:last]
    large = sizes > SMALL_BYTES
    small = np.cumsum(np.where(large, 0, sign_of * sizes))
    allocator.grow_small(0, peak_bytes=int(small.max(initial=0)))
    chosen = np.flatnonzero(large)
    peak = int(np.searchsorted(chosen, step.peak_event, side="right"))
    turn = int(np.searchsorted(chosen, program.forward_events))
    workspaces = dict(zip((1, turn + 1), step.workspaces, strict=False)) if first else {}
    blocks: dict[int, int] = {}
    take, give, rest = allocator.large.take, allocator.large.give, 0
    signs, numbers = sign_of[chosen].tolist(), program.allocation[chosen].tolist()
    for position, (sign, number, size) in enumerate(zip(signs, numbers, sizes[chosen].tolist(), strict=True)):
        if position == peak:
            rest = allocator.large.rest_bytes
        if position in workspaces:
            allocator.keep(workspaces[position])
        if sign > 0:
            blocks[number] = take(size)
        else:
            give(blocks.pop(number))
    return list(blocks.values()), rest if peak < len(signs) else allocator.large.rest_bytes
