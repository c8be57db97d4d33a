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

    @property
    def total_bytes(self) -> int:
        """Bytes of all of them."""
        return self.count * self.bytes_each


def alive_at_peak(replay: Replay) -> tuple[Tensors, ...]:
    """Return what is alive when the forward and backward pass need the most memory, largest total first.

    What is known only as a sum (optimizer states, accumulated gradients, cuBLAS workspace) is one entry.
    """
    listed = _made_and_not_freed(replay) + _residents(replay)
    found = [Tensors(component, count, size) for (component, size), count in listed.items() if count and size]
    for component, num_bytes in replay.components_after(replay.peak_event()).items():
        rest = num_bytes - sum(entry.total_bytes for entry in found if entry.component == component)
        if rest < 0:
            found, rest = [entry for entry in found if entry.component != component], num_bytes
        if rest:
            found.append(Tensors(component, 1, rest))
    return tuple(sorted(found, key=lambda entry: entry.total_bytes, reverse=True))


def _made_and_not_freed(replay: Replay) -> Counter[tuple[str, int]]:
    program, passed = replay.tape.program, replay.peak_event() + 1
    allocation, sign = program.allocation[:passed], program.sign[:passed]
    alive = np.bincount(allocation, weights=sign) > 0
    made = np.flatnonzero((sign > 0) & alive[allocation])
    return Counter(
        (COMPONENTS[component], int(size))
        for component, size in zip(program.component[made], replay.sizes[made], strict=True)
    )


def _residents(replay: Replay) -> Counter[tuple[str, int]]:
    counted: Counter[tuple[str, int]] = Counter()
    for resident in replay.tape.residents:
        counted[resident.component, resident.bytes_each(replay.plan.r)] += resident.count
    return counted
