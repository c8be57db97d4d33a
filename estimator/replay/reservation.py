"""What a run reserves from loading the model to its second step: the allocator keeps what was freed on the way."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from estimator.replay.allocator import EMPTY_CACHE, SMALL_BYTES, Events, reserved
from estimator.replay.optimizer import state_sizes, step_sizes
from estimator.tape.tape import COMPONENTS, Ints, Program, Resident, Tape, rounded_bytes
from specs import FinetunePlan
from specs.methods import Quantization

_HALF, _FLOAT = 2, 4
_GRADIENTS = COMPONENTS.index("gradients")

ONE_BY_ONE = (1, 2, 4, 8)
"""16-bit weights that lie on the device at once while each is quantized after the other: one, and up to a layer's if
Python frees them late. Where blocks end up is a matter of chance; the mean over such orders is what is expected."""

BY_THREADS = (8, 16, 24, 32)
"""The same where threads load weights faster than they are quantized, as transformers did from 5.0 until
https://github.com/huggingface/transformers/pull/44576 (March 2026); of 1 to 64, these fit the T4 runs of
Anassbzdd/fitcheck, which call for no more than one layer or five layers at once."""

UNSEEN_SHARE = 0.0225
"""What measured runs reserve beyond this replay, the mean over the rows of assets/measured: gaps in the pool of small
blocks, and what no replay of one process knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """How PyTorch reserves and transformers loads; the defaults are those of LoRAFit's own trainer."""

    expandable_segments: bool = True
    """``PYTORCH_ALLOC_CONF=expandable_segments:True``."""
    loaded_by_threads: bool = False
    """Weights were quantized while threads loaded the next ones."""
    cache_emptied: bool = True
    """``prepare_model_for_kbit_training`` empties the cache in the end, as it does since peft 0.19."""
    warmed_up: bool = True
    """Loading begins with one block for the whole model; transformers modeling_utils.py, caching_allocator_warmup."""

    reset_after_loading: bool = False
    """Peaks were counted from the training on, ``torch.cuda.reset_peak_memory_stats``."""

    def weights_in_flight(self, plan: FinetunePlan) -> tuple[int, ...]:
        """Return how many 16-bit weights wait on the device at once, in each of the loading orders to replay.

        An expandable segment closes the gaps: orders differ by about 1 % there, and one of them is enough.
        """
        if plan.quantization == "none" or (self.expandable_segments and not self.loaded_by_threads):
            return ONE_BY_ONE[:1]
        return BY_THREADS if self.loaded_by_threads else ONE_BY_ONE


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


def reservation(tape: Tape, plan: FinetunePlan, step: Step, circumstances: Circumstances) -> Reservation:
    """Return what PyTorch's allocator reserves for a run of a plan."""
    training, mark = _training(tape, plan, step)
    found = []
    for in_flight in circumstances.weights_in_flight(plan):
        loading = _loading(tape, _Quantized(plan.quantization, plan.prepare_kbit, in_flight), circumstances)
        first_slot = int(loading.slots.max(initial=-1)) + 1
        events = _joined(loading, Events(slots=training.slots + first_slot, sizes=training.sizes))
        found.append(
            reserved(
                events,
                limit_bytes=step.limit_bytes,
                mark=len(loading.slots) + mark,
                expandable=circumstances.expandable_segments,
                since=len(loading.slots) if circumstances.reset_after_loading else 0,
            )
        )
    seen = round(sum(entry.peak_bytes for entry in found) / len(found))
    lifted = min(round(seen * (1 + UNSEEN_SHARE)), step.limit_bytes)
    rest = round(sum(entry.rest_bytes for entry in found) / len(found))
    return Reservation(reserved_bytes=max(seen, lifted), rest_bytes=rest)


def unpacked_bytes(tape: Tape, plan: FinetunePlan) -> int:
    """Return the bytes of all quantized weights before they were; on a CPU the C library keeps them when freed.

    Source:
        SmolLM2-135M in 4 bit on a CPU: 1,669 MiB resident at the peak, 1,719 MiB with these and 1,314 MiB without
        (torch 2.13.0, bitsandbytes 0.50.2, glibc, 2026-11-22).
    """
    itemsize = _FLOAT if plan.dtype == "float32" else _HALF
    return sum(
        _unpacked_bytes(entry, plan.quantization) // _HALF * itemsize * entry.count
        for entry in tape.residents
        if _is_packed(entry, plan.quantization)
    )


class _Quantized(NamedTuple):
    """How a base model is quantized while it is loaded."""

    quantization: Quantization
    prepare_kbit: bool
    weights_in_flight: int


class _Script:
    """Events as they are written down."""

    def __init__(self) -> None:
        self._slots: list[int] = []
        self._sizes: list[int] = []
        self._next = 0

    def take(self, num_bytes: int) -> int:
        """Allocate; return the slot."""
        self._slots.append(self._next)
        self._sizes.append(num_bytes)
        self._next += 1
        return self._next - 1

    def give(self, slot: int, num_bytes: int) -> None:
        """Free a slot."""
        self._slots.append(slot)
        self._sizes.append(-num_bytes)

    def empty_cache(self) -> None:
        """Give back what is unused."""
        self._slots.append(EMPTY_CACHE)
        self._sizes.append(0)

    def events(self) -> Events:
        """Return all of it."""
        return Events(slots=np.array(self._slots, dtype=np.int64), sizes=np.array(self._sizes, dtype=np.int64))


@lru_cache(maxsize=512)
def _loading(tape: Tape, how: _Quantized, circumstances: Circumstances) -> Events:
    """Return the events of loading: one block for the whole model first, then each weight, quantized where it shall be.

    Source: transformers modeling_utils.py, caching_allocator_warmup; integrations/bitsandbytes.py (5.23).
    """
    script = _Script()
    order = [(entry, _loaded_itemsize(entry, prepare_kbit=how.prepare_kbit)) for entry in _in_order(tape)]
    if circumstances.warmed_up:
        whole = rounded_bytes(sum(entry.num_elements * itemsize for entry, itemsize in order if _is_weight(entry)))
        script.give(script.take(whole), whole)
    waiting: deque[tuple[int, int]] = deque()
    loaded: list[tuple[int, int, Resident]] = []
    for entry, itemsize in order:
        if _is_packed(entry, how.quantization):
            unpacked = rounded_bytes(_unpacked_bytes(entry, how.quantization))
            waiting.append((script.take(unpacked), unpacked))
        size = rounded_bytes(entry.num_elements * itemsize)
        loaded.append((script.take(size), size, entry))
        if len(waiting) == how.weights_in_flight:
            script.give(*waiting.popleft())
    for slot, size in waiting:
        script.give(slot, size)
    if how.prepare_kbit:
        _raise(script, loaded, tape, cache_emptied=circumstances.cache_emptied)
    return script.events()


def _raise(script: _Script, loaded: list[tuple[int, int, Resident]], tape: Tape, *, cache_emptied: bool) -> None:
    """Write ``prepare_model_for_kbit_training`` down: a tensor in 32 bit is made, then the one in 16 bit is freed.

    Source: peft utils/other.py (0.21.2). What TRL cast back afterwards went the same way (trl 0.13).
    """
    cast_back = tape.facts.get("conditions", {}).get("embeddings_cast_back", False)
    raised = []
    for slot, size, entry in loaded:
        goes_back = cast_back and entry.layer is None and _is_weight(entry)
        if size < entry.bytes_each(0) or goes_back:
            high = rounded_bytes(entry.num_elements * _FLOAT)
            raised.append((script.take(high), high, entry))
            script.give(slot, size)
    if cache_emptied:
        script.empty_cache()
    for slot, size, entry in raised if cast_back else ():
        script.take(entry.bytes_each(0))
        script.give(slot, size)


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


def _is_weight(entry: Resident) -> bool:
    """Return whether an entry is a parameter of the base model."""
    return entry.component == "weights" and entry.is_parameter


def _is_packed(entry: Resident, quantization: Quantization) -> bool:
    """Return whether an entry is a weight that bitsandbytes quantized."""
    return quantization != "none" and _is_weight(entry) and entry.layer is not None and entry.itemsize == 1


def _unpacked_bytes(entry: Resident, quantization: Quantization) -> int:
    """Return the bytes of a quantized weight before it was."""
    return entry.num_elements * (2 if quantization == "4bit" else 1) * _HALF


def _loaded_itemsize(entry: Resident, *, prepare_kbit: bool) -> int:
    """Return the bytes of an element as loaded, before ``prepare_model_for_kbit_training`` raised it."""
    return _HALF if prepare_kbit and _is_weight(entry) and entry.itemsize == _FLOAT else entry.itemsize


def _training(tape: Tape, plan: FinetunePlan, step: Step) -> tuple[Events, int]:
    """Return the events from the adapter to the second optimizer step, and the place of that step's peak among them.

    Under accumulation the second pass of a step is the telling one: gradients are there already, and each new one is
    added to the old one and freed.
    """
    trained = [entry for entry in tape.residents if entry.trainable]
    num_slots = int(step.program.allocation.max(initial=-1)) + 1
    first = _pass(step, 0)
    following = []
    if plan.gradient_accumulation_steps > 1:
        following = [_rest_of_pass(first, step), _merging(_pass(step, num_slots), step)]
    temporaries = _kept(list(step_sizes(plan.optim, trained, plan.r)), 2 * num_slots)
    adapter = [(entry.bytes_each(plan.r), entry.count) for entry in tape.residents if entry.component == "adapter"]
    permanent = [size for size, count in adapter for _ in range(count)]
    states = [size for entry in trained for size in state_sizes(plan.optim, entry, plan.r) * entry.count]
    kept = 2 * num_slots + len(temporaries.slots)
    ending = (temporaries, _freed(temporaries), _freed(_joined(first, *following)))
    begun = (
        _kept(permanent, kept),
        _with_workspaces(first, step, kept + len(permanent) + len(states)),
        *following,
        _kept(states, kept + len(permanent)),
        *ending,
    )
    passes = (first, *following)
    place = sum(len(part.slots) for part in (*begun, *passes[:-1]))
    return _joined(*begun, *passes, *ending), place + _place(passes[-1], step)


def _pass(step: Step, first_slot: int) -> Events:
    """Return the events of one forward and backward pass."""
    told = slice(step.last_event)
    return Events(slots=step.program.allocation[told] + first_slot, sizes=step.program.sign[told] * step.sizes[told])


def _rest_of_pass(events: Events, step: Step) -> Events:
    """Return how a pass ends that was told no further than it reserves: gradients are made, activations freed."""
    component, sign = step.program.component, step.program.sign
    gradients = (component == _GRADIENTS) & (sign > 0)
    left = _freed(events)
    activations = ~np.isin(left.slots, step.program.allocation[gradients])
    untold = np.flatnonzero(gradients[step.last_event :]) + step.last_event
    return Events(
        slots=np.concatenate([left.slots[activations], step.program.allocation[untold]]),
        sizes=np.concatenate([left.sizes[activations], step.sizes[untold]]),
    )


def _merging(events: Events, step: Step) -> Events:
    """Return a pass in which each gradient is freed after the event that follows it."""
    told = slice(step.last_event)
    made = np.flatnonzero((step.program.component[told] == _GRADIENTS) & (step.program.sign[told] > 0))
    places = np.minimum(made + 2, len(events.slots))
    return Events(
        slots=np.insert(events.slots, places, events.slots[made]),
        sizes=np.insert(events.sizes, places, -events.sizes[made]),
    )


def _place(events: Events, step: Step) -> int:
    """Return where the step's peak is in a pass into which frees of gradients may have been inserted."""
    inserted = len(events.slots) - step.last_event
    return step.peak_event + (inserted if inserted and step.peak_event >= step.program.forward_events else 0)


def _with_workspaces(events: Events, step: Step, first_slot: int) -> Events:
    """Return a first pass in which each thread's first product brings its cuBLAS workspace."""
    chosen = np.flatnonzero(np.abs(events.sizes) > SMALL_BYTES)
    turn = int(np.searchsorted(chosen, step.program.forward_events))
    places = [int(chosen[place]) for place in (1, turn + 1) if place < len(chosen)]
    sizes = list(step.workspaces)[: len(places)]
    return Events(
        slots=np.insert(events.slots, places[: len(sizes)], np.arange(len(sizes)) + first_slot),
        sizes=np.insert(events.sizes, places[: len(sizes)], sizes),
    )


def _kept(sizes: Sequence[int], first_slot: int) -> Events:
    """Return allocations, each in a slot of its own."""
    return Events(
        slots=np.arange(first_slot, first_slot + len(sizes), dtype=np.int64), sizes=np.array(sizes, dtype=np.int64)
    )


def _freed(events: Events) -> Events:
    """Return the frees of what events leave allocated."""
    num_slots = int(events.slots.max(initial=-1)) + 1
    left = np.bincount(events.slots, weights=events.sizes, minlength=num_slots).astype(np.int64)
    slots = np.flatnonzero(left)
    return Events(slots=slots, sizes=-left[slots])


def _joined(*parts: Events) -> Events:
    """Return events one after the other."""
    return Events(
        slots=np.concatenate([part.slots for part in parts]), sizes=np.concatenate([part.sizes for part in parts])
    )
