"""What a run reserves from loading the model to its second step: the allocator keeps what was freed in between."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from estimator.replay.allocator import EMPTY_CACHE, Events, reserved
from estimator.replay.two_steps import Step, joined, training
from estimator.tape.sizes import rounded_bytes
from estimator.tape.tape import Resident, Tape
from specs import FinetunePlan
from specs.adapters import Quantization

_HALF, _FLOAT = 2, 4

ONE_BY_ONE = (1, 2, 4, 8)
"""How many 16-bit weights are on the device at once while they are quantized one by one: one, or up to a whole layer if
Python frees them late. Where blocks end up is a matter of chance, so the estimate is the mean over these orders."""

BY_THREADS = (8, 16, 24, 32)
"""The same if threads load weights faster than they are quantized, as transformers did from 5.0 until
https://github.com/huggingface/transformers/pull/44576 (March 2026); of 1 to 64, these fit the T4 runs of
Anassbzdd/fitcheck, which call for no more than one layer or five layers at once."""

UNSEEN_SHARE = 0.0225
"""Share that measured runs reserve beyond this replay, the mean over the rows of assets/measured: gaps in the pool of
small blocks, and what a replay of one process cannot know."""

FSDP_1_UNSEEN_SHARE = 0.21
"""The same for FSDP1, the mean over the rows of assets/measured/fsdp.csv: its streams have pools of their own, and what
one stream frees waits for the others; torch/distributed/fsdp/_flat_param.py, ``_no_dispatch_record_stream`` (2.4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """How PyTorch reserves and transformers loads; the defaults are those of LoRAFit's own trainer."""

    expandable_segments: bool = True
    """``PYTORCH_ALLOC_CONF=expandable_segments:True``."""
    loaded_by_threads: bool = False
    """Weights were quantized while threads loaded the next ones."""
    cache_emptied: bool = True
    """``prepare_model_for_kbit_training`` empties the cache at its end, as it has since peft 0.19."""
    warmed_up: bool = True
    """Loading starts with one block for the whole model; transformers modeling_utils.py, caching_allocator_warmup."""

    reset_after_loading: bool = False
    """Peaks count only from the start of training, after ``torch.cuda.reset_peak_memory_stats``."""
    fsdp_version: Literal[1, 2] = 2
    """FSDP as one flat tensor for each layer (1), or as sharded tensors (2), which accelerate has had since 1.6."""
    outputs_carried: bool = False
    """The loop drops the outputs that it holds only when the next forward pass returns others; transformers' Trainer
    holds none."""

    def unseen_share(self, plan: FinetunePlan) -> float:
        """Return the share that runs of a plan reserve beyond the replay."""
        streams = plan.sharding == "fsdp" and self.fsdp_version == 1
        return FSDP_1_UNSEEN_SHARE if streams else UNSEEN_SHARE

    def weights_in_flight(self, plan: FinetunePlan) -> tuple[int, ...]:
        """Return how many 16-bit weights are on the device at once, in each of the loading orders to replay.

        Expandable segments close the gaps: orders then differ by about 1 %, and one of them is enough.
        """
        if plan.quantization == "none" or (self.expandable_segments and not self.loaded_by_threads):
            return ONE_BY_ONE[:1]
        return BY_THREADS if self.loaded_by_threads else ONE_BY_ONE


@dataclass(frozen=True, slots=True)
class Reservation:
    """The peaks that only a replay of the allocator shows."""

    reserved_bytes: int
    slack_bytes: int
    """What blocks hold at the step's peak beyond the bytes requested; PyTorch counts it as allocated."""


def reservation(tape: Tape, plan: FinetunePlan, step: Step, circumstances: Circumstances) -> Reservation:
    """Return what PyTorch's allocator reserves for a run of a plan."""
    trained, mark = training(tape, plan, step, carries=circumstances.outputs_carried)
    found = []
    upcasts = plan.prepare_kbit and not plan.layer_offloading  # such a model is prepared in RAM
    for in_flight in circumstances.weights_in_flight(plan):
        loading = _loading(tape, _Quantized(plan.quantization, upcasts, in_flight), circumstances)
        first_slot = int(loading.slots.max(initial=-1)) + 1
        slots = np.where(trained.slots == EMPTY_CACHE, EMPTY_CACHE, trained.slots + first_slot)
        events = joined(loading, Events(slots=slots, sizes=trained.sizes))
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
    with_unseen = min(round(seen * (1 + circumstances.unseen_share(plan))), step.limit_bytes)
    rest = round(sum(entry.slack_bytes for entry in found) / len(found))
    return Reservation(reserved_bytes=max(seen, with_unseen), slack_bytes=rest)


def unpacked_bytes(tape: Tape, plan: FinetunePlan) -> int:
    """Return the bytes of all quantized weights before quantization; on a CPU, the C library keeps them when freed.

    Source:
        SmolLM2-135M in 4-bit on a CPU: 1,669 MiB resident at the peak, 1,719 MiB with these and 1,314 MiB without
        (torch 2.13.0, bitsandbytes 0.50.2, glibc, 2026-11-22).
    """
    itemsize = _FLOAT if plan.dtype == "float32" else _HALF
    return sum(
        _unpacked_bytes(entry, plan.quantization) // _HALF * itemsize * entry.count
        for entry in tape.residents
        if _is_packed(entry, plan.quantization)
    )


class _Quantized(NamedTuple):
    """How a base model is quantized while it loads."""

    quantization: Quantization
    prepare_kbit: bool
    weights_in_flight: int


class _EventList:
    """A list of events under construction."""

    def __init__(self) -> None:
        self._slots: list[int] = []
        self._sizes: list[int] = []
        self._next = 0

    def allocate(self, num_bytes: int) -> int:
        """Allocate; return the slot."""
        self._slots.append(self._next)
        self._sizes.append(num_bytes)
        self._next += 1
        return self._next - 1

    def free(self, slot: int, num_bytes: int) -> None:
        """Free a slot."""
        self._slots.append(slot)
        self._sizes.append(-num_bytes)

    def empty_cache(self) -> None:
        """Return unused memory to the driver."""
        self._slots.append(EMPTY_CACHE)
        self._sizes.append(0)

    def events(self) -> Events:
        """Return all events."""
        return Events(slots=np.array(self._slots, dtype=np.int64), sizes=np.array(self._sizes, dtype=np.int64))


@lru_cache(maxsize=512)
def _loading(tape: Tape, how: _Quantized, circumstances: Circumstances) -> Events:
    """Return the events of loading: first one block for the whole model, then each weight, quantized if it is to be.

    Source: transformers modeling_utils.py, caching_allocator_warmup; integrations/bitsandbytes.py (5.23).
    """
    event_list = _EventList()
    order = [(entry, _loaded_itemsize(entry, prepare_kbit=how.prepare_kbit)) for entry in _in_order(tape)]
    if circumstances.warmed_up:
        whole = rounded_bytes(sum(entry.num_elements * itemsize for entry, itemsize in order if _is_weight(entry)))
        event_list.free(event_list.allocate(whole), whole)
    waiting: deque[tuple[int, int]] = deque()
    loaded: list[tuple[int, int, Resident]] = []
    for entry, itemsize in order:
        if _is_packed(entry, how.quantization):
            unpacked = rounded_bytes(_unpacked_bytes(entry, how.quantization))
            waiting.append((event_list.allocate(unpacked), unpacked))
        size = rounded_bytes(entry.num_elements * itemsize)
        loaded.append((event_list.allocate(size), size, entry))
        if len(waiting) == how.weights_in_flight:
            event_list.free(*waiting.popleft())
    for slot, size in waiting:
        event_list.free(slot, size)
    if how.prepare_kbit:
        _add_upcasts(event_list, loaded, tape, cache_emptied=circumstances.cache_emptied)
    return event_list.events()


def _add_upcasts(
    event_list: _EventList, loaded: list[tuple[int, int, Resident]], tape: Tape, *, cache_emptied: bool
) -> None:
    """Add ``prepare_model_for_kbit_training``: each 32-bit tensor is created before the 16-bit one is freed.

    Source: peft utils/other.py (0.21.2). TRL casts some back afterwards in the same way (trl 0.13).
    """
    cast_back = tape.facts.get("conditions", {}).get("embeddings_cast_back", False)
    upcast = []
    for slot, size, entry in loaded:
        goes_back = cast_back and entry.layer is None and _is_weight(entry)
        if size < entry.bytes_each(0) or goes_back:
            high = rounded_bytes(entry.num_elements * _FLOAT)
            upcast.append((event_list.allocate(high), high, entry))
            event_list.free(slot, size)
    if cache_emptied:
        event_list.empty_cache()
    for slot, size, entry in upcast if cast_back else ():
        event_list.allocate(entry.bytes_each(0))
        event_list.free(slot, size)


def _in_order(tape: Tape) -> Iterator[Resident]:
    """Yield the base model's tensors one by one: first the embedding, then the layers, then the others."""
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
    """Return the bytes of a quantized weight before quantization."""
    return entry.num_elements * (2 if quantization == "4bit" else 1) * _HALF


def _loaded_itemsize(entry: Resident, *, prepare_kbit: bool) -> int:
    """Return the bytes per element as loaded, before ``prepare_model_for_kbit_training`` upcasts it."""
    return _HALF if prepare_kbit and _is_weight(entry) and entry.itemsize == _FLOAT else entry.itemsize
