"""The first two steps of a run as the allocator sees them, from the adapter to the second optimizer step. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from estimator.replay.allocator import EMPTY_CACHE, SMALL_BYTES, Events
from estimator.replay.optimizer import state_sizes, step_sizes
from estimator.tape.sizes import Ints
from estimator.tape.tape import Program, Tape
from specs import FinetunePlan

_NOTHING = Events(slots=np.empty(0, dtype=np.int64), sizes=np.empty(0, dtype=np.int64))
_CACHE = Events(slots=np.array([EMPTY_CACHE], dtype=np.int64), sizes=np.zeros(1, dtype=np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One training step as the allocator sees it."""

    program: Program
    sizes: Ints
    """Bytes of each event's allocation."""
    peak_event: int
    last_event: int
    """The last event to replay: later ones reserve nothing more."""
    workspaces: Sequence[int]
    """Bytes of each cuBLAS workspace."""
    limit_bytes: int
    """What the device can give to PyTorch."""


def training(tape: Tape, plan: FinetunePlan, step: Step, *, carries: bool) -> tuple[Events, int]:
    """Return the events from the adapter to the second optimizer step, and the position of that step's peak in them.

    With accumulation, the second pass of a step has the peak: gradients exist already, and each new one is added to the
    old one and freed. What a loop carries on is allocated anew before the next pass, in the room that it just left.
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
    workspaces = kept + len(permanent) + len(states)
    held = _kept(_outputs(step) if carries else [], workspaces + len(step.workspaces))
    ending = (temporaries, _freed(temporaries), _freed(joined(first, *following)))
    emptied, emptied_again = _emptied(plan)
    begun = (
        _kept(permanent, kept),
        _with_workspaces(_turned(first, step, emptied), step, workspaces),
        *_after_first(following, step, held, emptied),
        _kept(states, kept + len(permanent)),
        *ending,
    )
    turn = joined(_freed(held), emptied_again)
    passes = (held, _turned(first, step, turn), *_after_first(following, step, held, emptied_again))
    place = sum(len(part.slots) for part in (*begun, *passes[:-1]))
    inserted = len(turn.slots) if step.peak_event >= step.program.forward_events else 0
    return joined(*begun, *passes, *ending), place + inserted + _peak_position((first, *following)[-1], step)


def _outputs(step: Step) -> list[int]:
    """Return the bytes of each tensor that a loop still holds when a pass is over, besides the gradients."""
    sizes: list[int] = step.sizes[step.program.kept_outputs].tolist()
    return sizes


def _emptied(plan: FinetunePlan) -> tuple[Events, Events]:
    """Return what the first and the second step give back before their backward passes.

    Source: transformers trainer.py, ``training_step`` (5.23): where the number of finished steps can be divided.
    """
    number = plan.torch_empty_cache_steps
    return _NOTHING if number is None else _CACHE, _CACHE if number == 1 else _NOTHING


def _after_first(following: Sequence[Events], step: Step, held: Events, emptied: Events) -> Iterator[Events]:
    """Yield the passes of a step after its first one, each with what the loop carries into it."""
    if following:
        rest, last = following
        yield from (rest, held, _turned(last, step, joined(_freed(held), emptied)))


def _turned(events: Events, step: Step, turn: Events) -> Events:
    """Return a pass with further events between its forward and its backward half."""
    place = [step.program.forward_events] * len(turn.slots)
    return Events(slots=np.insert(events.slots, place, turn.slots), sizes=np.insert(events.sizes, place, turn.sizes))


def _pass(step: Step, first_slot: int) -> Events:
    """Return the events of one forward and backward pass."""
    replayed = slice(step.last_event)
    program = step.program
    sizes = program.sign[replayed] * step.sizes[replayed]
    return Events(slots=program.allocation[replayed] + first_slot, sizes=sizes)


def _rest_of_pass(events: Events, step: Step) -> Events:
    """Return the end of a pass that was replayed only while it reserves: create gradients, free activations."""
    gradients = step.program.kept_gradients
    left = _freed(events)
    activations = ~np.isin(left.slots, step.program.allocation[gradients])
    not_replayed = np.flatnonzero(gradients[step.last_event :]) + step.last_event
    return Events(
        slots=np.concatenate([left.slots[activations], step.program.allocation[not_replayed]]),
        sizes=np.concatenate([left.sizes[activations], step.sizes[not_replayed]]),
    )


def _merging(events: Events, step: Step) -> Events:
    """Return a pass in which each new gradient is freed after the event that follows it."""
    replayed = slice(step.last_event)
    made = np.flatnonzero(step.program.kept_gradients[replayed])
    places = np.minimum(made + 2, len(events.slots))
    return Events(
        slots=np.insert(events.slots, places, events.slots[made]),
        sizes=np.insert(events.sizes, places, -events.sizes[made]),
    )


def _peak_position(events: Events, step: Step) -> int:
    """Return the position of the step's peak in a pass, counting frees of gradients that were inserted."""
    inserted = len(events.slots) - step.last_event
    return step.peak_event + (inserted if inserted and step.peak_event >= step.program.forward_events else 0)


def _with_workspaces(events: Events, step: Step, first_slot: int) -> Events:
    """Return a first pass in which each thread's first matrix product allocates its cuBLAS workspace."""
    chosen = np.flatnonzero(np.abs(events.sizes) > SMALL_BYTES)
    backward_start = int(np.searchsorted(chosen, step.program.forward_events))
    places = [int(chosen[place]) for place in (1, backward_start + 1) if place < len(chosen)]
    sizes = list(step.workspaces)[: len(places)]
    return Events(
        slots=np.insert(events.slots, places[: len(sizes)], np.arange(len(sizes)) + first_slot),
        sizes=np.insert(events.sizes, places[: len(sizes)], sizes),
    )


def _kept(sizes: Sequence[int], first_slot: int) -> Events:
    """Return allocations that are kept, each in its own slot."""
    return Events(
        slots=np.arange(first_slot, first_slot + len(sizes), dtype=np.int64), sizes=np.array(sizes, dtype=np.int64)
    )


def _freed(events: Events) -> Events:
    """Return events that free whatever the given events leave allocated."""
    num_slots = int(events.slots.max(initial=-1)) + 1
    left = np.bincount(events.slots, weights=events.sizes, minlength=num_slots).astype(np.int64)
    slots = np.flatnonzero(left)
    return Events(slots=slots, sizes=-left[slots])


def joined(*parts: Events) -> Events:
    """Return events concatenated."""
    return Events(
        slots=np.concatenate([part.slots for part in parts]), sizes=np.concatenate([part.sizes for part in parts])
    )
