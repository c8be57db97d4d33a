"""Folds loops over chunks or tokens: of the middle passes only what outlives its pass remains, as one allocation."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from estimator.tape.sizes import Ints
from estimator.tracer.recorder import Allocation, Place, Recording

KEPT_PASSES = 1
"""Passes at each end of a loop that stay as they were recorded. Each one changes what is allocated by the same amount,
so that the most that any pass reaches is reached by one at an end."""

_FEWEST_PASSES = 6
"""Fewer equal stretches in a row are no loop over chunks."""

_LONGEST_PASS = 600
"""Events of the longest pass that is looked for."""


@dataclass(frozen=True, slots=True)
class _Loop:
    """A stretch of events that repeats."""

    start: int
    period: int
    """Events of one pass."""
    passes: int
    place: Place

    @property
    def middle(self) -> range:
        """The events of all passes but the first and last few."""
        return range(self.start + KEPT_PASSES * self.period, self.start + (self.passes - KEPT_PASSES) * self.period)


def folded(recording: Recording) -> Recording:
    """Return a recording with every loop shortened to its first and last passes.

    What a middle pass creates and drops itself is left out. What other loops drop pass by pass, such as tensors kept
    for the backward pass, becomes one allocation for each tensor of a pass, as large as those of all middle passes.
    """
    loops = list(_loops(recording))
    return _Folding(recording, loops).result() if loops else recording


def _loops(recording: Recording) -> Iterator[_Loop]:
    """Yield the loops of a recording in order; a loop lies within one stretch of one place."""
    kinds: dict[tuple[object, ...], int] = {}
    tokens = np.array([kinds.setdefault(_token(recording, n), len(kinds)) for n in range(len(recording.events))])
    start = 0
    for place, stretch in groupby(recording.places):
        end = start + len(list(stretch))
        if place[1] is not None:
            yield from _loops_within(tokens, start, end, place)
        start = end


def _token(recording: Recording, position: int) -> tuple[object, ...]:
    """Return what makes two events alike: what is allocated, or what is freed and where it came from."""
    event = recording.events[position]
    allocation = recording.allocations[event if event >= 0 else -event - 1]
    return (event >= 0, allocation.op, allocation.num_bytes, None if event >= 0 else allocation.place)


def _loops_within(tokens: Ints, start: int, end: int, place: Place) -> Iterator[_Loop]:
    """Yield the loops between two events: the one that covers most, and those before and after it."""
    found = _longest_loop(tokens[start:end])
    if found is None:
        return
    first, period, passes = found
    yield from _loops_within(tokens, start, start + first, place)
    yield _Loop(start + first, period, passes, place)
    yield from _loops_within(tokens, start + first + period * passes, end, place)


def _longest_loop(tokens: Ints) -> tuple[int, int, int] | None:
    """Return start, period and number of passes of the loop that covers most events; None if there is none."""
    best: tuple[int, int, int] | None = None
    covered = 0
    for period in range(1, min(_LONGEST_PASS, len(tokens) // _FEWEST_PASSES) + 1):
        alike = np.concatenate(([False], tokens[period:] == tokens[:-period], [False]))
        edges = np.flatnonzero(alike[1:] != alike[:-1])
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        if not len(lengths):
            continue
        longest = int(lengths.argmax())
        passes = int(lengths[longest]) // period + 1
        if passes >= _FEWEST_PASSES and passes * period > covered:
            best, covered = (int(starts[longest]), period, passes), passes * period
    return best


class _Folding:
    """Rewrites the events of one recording."""

    def __init__(self, recording: Recording, loops: Sequence[_Loop]) -> None:
        self.old = recording
        self.loops = loops
        self.new = Recording()
        self._number: dict[object, int] = {}
        self._loop_of: dict[int, int] = {
            position: number for number, loop in enumerate(loops) for position in loop.middle
        }
        self._freed = {-event - 1: position for position, event in enumerate(recording.events) if event < 0}
        self._made = {event: position for position, event in enumerate(recording.events) if event >= 0}
        self._lumps: dict[tuple[int, int, int, int], list[int]] = {}
        for number, made in self._made.items():
            key = self._lump(made, self._freed.get(number))
            if key is not None:
                self._lumps.setdefault(key, []).append(number)

    def result(self) -> Recording:
        """Return the folded recording."""
        position = 0
        for number, loop in enumerate(self.loops):
            self._copy(range(position, loop.middle.start))
            self._shorten(number, loop)
            position = loop.middle.stop
        self._copy(range(position, len(self.old.events)))
        if self.old.backward_from >= len(self.old.events):
            self.new.backward_from = len(self.new.events)
        return self.new

    def _lump(self, made: int, freed: int | None) -> tuple[int, int, int, int] | None:
        """Return which tensor of which loops an allocation is, if both its events are left out."""
        giver, receiver = self._loop_of.get(made), self._loop_of.get(-1 if freed is None else freed)
        if giver is None or receiver is None or giver == receiver or freed is None:
            return None
        one, other = self.loops[giver], self.loops[receiver]
        return (giver, (made - one.start) % one.period, receiver, (freed - other.start) % other.period)

    def _copy(self, positions: range) -> None:
        for position in positions:
            if position == self.old.backward_from:
                self.new.backward_from = len(self.new.events)
            event, place = self.old.events[position], self.old.places[position]
            if event >= 0:
                self._make(event, self.old.allocations[event], place)
            else:
                self._free(-event - 1, place)

    def _shorten(self, number: int, loop: _Loop) -> None:
        """Write what the middle of a loop comes to: first the frees, so that no peak appears that was not there."""
        middle = self.old.events[loop.middle.start : loop.middle.stop]
        for event in middle:
            if event < 0 and self._loop_of.get(self._made[-event - 1]) is None:
                self._free(-event - 1, loop.place)
        for key in sorted(key for key in self._lumps if key[2] == number):
            self._free(key, loop.place)
        for event in middle:
            if event >= 0 and self._loop_of.get(self._freed.get(event, -1)) is None:
                self._make(event, self.old.allocations[event], loop.place)
        for key in sorted(key for key in self._lumps if key[0] == number):
            members = [self.old.allocations[member] for member in self._lumps[key]]
            self._make(key, _together(members), loop.place)

    def _make(self, key: object, allocation: Allocation, place: Place) -> None:
        self._number[key] = len(self.new.allocations)
        self.new.events.append(len(self.new.allocations))
        self.new.places.append(place)
        self.new.allocations.append(allocation)

    def _free(self, key: object, place: Place) -> None:
        self.new.events.append(-self._number[key] - 1)
        self.new.places.append(place)


def _together(members: Sequence[Allocation]) -> Allocation:
    """Return one allocation that stands for those of several passes; within a loop they are of one size."""
    return dataclasses.replace(members[0], members=len(members))
