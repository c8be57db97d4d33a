"""What a device holds, and what its process keeps in RAM, while frozen 4-bit layers wait there."""

from dataclasses import replace

import numpy as np

from estimator.replay.sharding import Unit, outer_units
from estimator.tape.sizes import pinned_bytes
from estimator.tape.tape import Resident, Tape
from specs import FinetunePlan


def streamed(tape: Tape, plan: FinetunePlan, *, on_cpu: bool) -> Tape:
    """Return the tape of a device on which one layer at a time takes the place that all share.

    Their constants stay on the device. A table of words that is no output head as well is read in RAM. A CPU has
    everything in RAM, and the place besides. Source: ``trainer.model.streaming``.
    """
    place = Resident(
        component="weights",
        num_elements=max(_layer_bytes(tape, plan).values(), default=0),
        num_elements_per_rank=0,
        itemsize=1,
        trainable=False,
        count=1,
        is_parameter=False,
    )
    if on_cpu:
        return tape.with_sizes(tape.sizes, (*tape.residents, place))
    kept = [entry for entry in tape.residents if not _waits(entry)]
    words = _words(tape, plan)
    if words is not None:
        kept[kept.index(words)] = replace(words, count=words.count - 1)
    return tape.with_sizes(tape.sizes, (*(entry for entry in kept if entry.count), place))


def streamed_bytes(tape: Tape, plan: FinetunePlan) -> int:
    """Return the RAM of all that waits there: pinned weights of layers, and the table of words."""
    waiting = [(entry.elements(plan.r) * entry.itemsize, entry.count) for entry in tape.residents if _waits(entry)]
    pinned = sum(int(pinned_bytes(np.array(size))) * count for size, count in waiting)
    words = _words(tape, plan)
    return pinned + (words.elements(plan.r) * words.itemsize if words is not None else 0)


def _waits(entry: Resident) -> bool:
    """Return whether a tensor is a 4-bit weight of a layer, packed into bytes."""
    is_weight = entry.component == "weights" and entry.is_parameter and entry.layer is not None
    return is_weight and entry.itemsize == 1


def _layer_bytes(tape: Tape, plan: FinetunePlan) -> dict[int, int]:
    """Return the bytes of one layer's packed weights, by traced layer."""
    found: dict[int, int] = {}
    for entry in tape.residents:
        if entry.layer is not None and _waits(entry):
            share = entry.count // tape.layers.count(entry.layer)
            found[entry.layer] = found.get(entry.layer, 0) + share * entry.bytes_each(plan.r)
    return found


def _words(tape: Tape, plan: FinetunePlan) -> Resident | None:
    """Return the frozen table of words where it is not the output head as well."""
    outside = [entry for entry in tape.residents if entry.is_parameter and entry.layer is None]
    embedding, _ = outer_units(outside, plan.r)
    if embedding == Unit(frozen_bytes=0, trained_params=0) or embedding.trained_params:
        return None
    return max((entry for entry in outside if not entry.trainable), key=lambda entry: entry.elements(plan.r))
