"""Which tensors are alive at the memory peak of a training step."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from estimator.replay.replay import Replay
from estimator.tape.tape import COMPONENTS


@dataclass(frozen=True, slots=True)
class Tensors:
    """Tensors of the same size and purpose."""

    component: str
    """What they are for: one of the tape's ``COMPONENTS``."""
    count: int
    bytes_each: int
    """What the allocator hands out for one of them."""
    place: str = ""
    """The part of the model that they belong to or were made in; empty where it is known only as a sum."""

    @property
    def total_bytes(self) -> int:
        """Bytes of all of them."""
        return self.count * self.bytes_each


def alive_at_peak(replay: Replay) -> tuple[Tensors, ...]:
    """Return what is alive when the forward and backward pass need the most memory, largest total first.

    What is known only as a sum (optimizer states, accumulated gradients, cuBLAS workspace) is one entry.
    """
    listed = _made_and_not_freed(replay) + _residents(replay)
    found = [Tensors(part, count, size, place) for (part, size, place), count in listed.items() if count and size]
    for component, num_bytes in replay.components_after(replay.peak_event()).items():
        rest = num_bytes - sum(entry.total_bytes for entry in found if entry.component == component)
        if rest < 0:
            found, rest = [entry for entry in found if entry.component != component], num_bytes
        if rest:
            found.append(Tensors(component, 1, rest))
    return tuple(sorted(found, key=lambda entry: entry.total_bytes, reverse=True))


def _made_and_not_freed(replay: Replay) -> Counter[tuple[str, int, str]]:
    program, passed = replay.tape.program, replay.peak_event() + 1
    allocation, sign = program.allocation[:passed], program.sign[:passed]
    alive = np.bincount(allocation, weights=sign) > 0
    made = np.flatnonzero((sign > 0) & alive[allocation])
    layers = len(replay.tape.layers) + program.has_turn
    return Counter(
        (COMPONENTS[component], int(size), _place(int(stretch), layers))
        for component, size, stretch in zip(
            program.component[made], replay.sizes[made], program.places[made], strict=True
        )
    )


def _place(stretch: int, layers: int) -> str:
    """Return where in a step a stretch of the program is: the start, the layers forward, the head, then backward."""
    if stretch == 0:
        return "before the layers"
    if stretch <= layers:
        return "layers, forward"
    return "head and loss" if stretch == layers + 1 else "layers, backward"


def _residents(replay: Replay) -> Counter[tuple[str, int, str]]:
    counted: Counter[tuple[str, int, str]] = Counter()
    for resident in replay.tape.residents:
        place = "layers" if resident.layer is not None else "outside the layers"
        counted[resident.component, resident.bytes_each(replay.plan.r), place] += resident.count
    return counted
