"""Turns recordings of the same step at different sizes into a tape: exact formulas for sizes, blocks for layers."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from torch import nn
from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as TILE_COLUMNS

from estimator.tape.tape import BACKWARD_START, COMPONENTS, MONOMIALS, Block, Ints, Resident, Tape, basis
from estimator.tracer.model import TracedModel, quantization_constants
from estimator.tracer.recorder import Allocation, Place, Recording
from specs import TraceError
from trainer.model.adapters import is_adalora


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One size that a step was recorded at."""

    batch: int
    length: int
    """Tokens of a sequence, including virtual ones."""
    rank: int
    added: int = 0
    """Virtual tokens in a sequence."""

    @property
    def basis(self) -> Ints:
        """The values of the monomials at this size."""
        return np.array(basis(self.batch, self.length, self.rank), dtype=np.int64)

    @property
    def scored(self) -> int:
        """Positions with a loss; the few virtual tokens count, although a run leaves them out."""
        return self.batch * (self.length - 1)


def tape(
    probes: Sequence[Probe], recordings: Sequence[Recording], models: Sequence[TracedModel], facts: dict[str, Any]
) -> Tape:
    """Return the tape of a step from its recordings at two sizes; a third resolves sums of two terms.

    Raises:
        TraceError: If the sequence of events depends on the size, or a size is not a polynomial.
    """
    first = recordings[0]
    for other in recordings[1:]:
        if other.events != first.events or other.places != first.places:
            rule = "must run the same operations at every length, unlike recurrent layers"
            raise TraceError(
                models[0].module.config.model_type, rule, None, "Choose a model with only attention layers"
            )
    rows = [_row(probes, [recording.allocations[n] for recording in recordings]) for n in range(len(first.allocations))]
    distinct = sorted(set(rows))
    number = {row: index for index, row in enumerate(distinct)}
    cells = [
        (number[row], COMPONENTS.index(_component(allocation)))
        for row, allocation in zip(rows, first.allocations, strict=True)
    ]
    return Tape(
        sizes=np.array([_dense(row) for row in distinct], dtype=np.int64).reshape(-1, 2 * len(MONOMIALS)),
        blocks=_blocks(first, cells),
        layers=models[0].kinds,
        residents=tuple(_residents(probes, models)),
        num_params=models[0].num_params,
        facts=facts,
    )


Row = tuple[tuple[int, int], ...]
"""Column and coefficient of each term of a size formula."""


def _dense(row: Row) -> list[int]:
    values = [0] * (2 * len(MONOMIALS))
    for column, coefficient in row:
        values[column] = coefficient
    return values


def _row(probes: Sequence[Probe], allocations: Sequence[Allocation]) -> Row:
    """Return the formula of one allocation's bytes."""
    measured = [allocation.num_bytes for allocation in allocations]
    if not any(measured):
        return ()
    points = [probe.basis for probe in probes]
    row = _one_term(points, measured) or _two_terms(points, measured, falling=probes[0].added > 0)
    if row is None:
        raise TraceError(f"trace: {allocations[0].op}", "sizes must be polynomials of batch and length", measured)
    shape = allocations[0].shape
    if len(shape) == 2 and shape == (probes[0].scored, TILE_COLUMNS):
        scored, tile = MONOMIALS.index("n"), MONOMIALS.index("t")
        return tuple((tile if column == scored else column, coefficient) for column, coefficient in row)
    return row


def _one_term(points: Sequence[Ints], measured: Sequence[int]) -> Row | None:
    for column in range(2 * len(MONOMIALS)):
        coefficient, remainder = divmod(measured[0], int(points[0][column]))
        if not remainder and all(coefficient * int(p[column]) == m for p, m in zip(points, measured, strict=True)):
            return ((column, coefficient),)
    return None


def _two_terms(points: Sequence[Ints], measured: Sequence[int], *, falling: bool) -> Row | None:
    """Return the two-term formula that holds at three or more points.

    Args:
        points: The monomials' values at each point.
        measured: Bytes at each point.
        falling: Whether a term may be negative, as for tensors from before virtual tokens are added.
    """
    if len(points) < 3:
        return None
    for one, two in combinations(range(2 * len(MONOMIALS)), 2):
        a, b, c, d = (int(points[i][column]) for i in (0, 1) for column in (one, two))
        determinant = a * d - b * c
        if determinant == 0:
            continue
        x, x_remainder = divmod(measured[0] * d - measured[1] * b, determinant)
        y, y_remainder = divmod(a * measured[1] - c * measured[0], determinant)
        if x_remainder or y_remainder or (min(x, y) <= 0 and not falling):
            continue
        if all(x * int(p[one]) + y * int(p[two]) == m for p, m in zip(points, measured, strict=True)):
            return ((one, x), (two, y))
    return None


def _component(allocation: Allocation) -> str:
    """Return what an allocation is for."""
    if "gradient" in allocation.marks:
        return "gradients"
    if "workspace" in allocation.marks or "bitsandbytes.dequantize" in allocation.op:
        return "workspace"
    return "logits" if allocation.place[0] == "head" else "activations"


def _blocks(recording: Recording, cells: Sequence[tuple[int, int]]) -> dict[str, Block]:
    """Return the events by place, with each free referring to its allocation in a way that works for any layer."""
    local: dict[int, int] = {}
    members: dict[Place, list[int]] = defaultdict(list)
    for number, allocation in enumerate(recording.allocations):
        local[number] = len(members[allocation.place])
        members[allocation.place].append(number)
    frees = {-event - 1: place for event, place in zip(recording.events, recording.places, strict=True) if event < 0}
    handed: dict[Place, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    entry: dict[int, int] = {}
    for number, receiver in sorted(frees.items()):
        giver = recording.allocations[number].place
        if giver[1] is None or receiver[1] is None or giver == receiver:
            continue
        given = handed[giver][_relation(receiver, giver)]
        entry[number] = len(given)
        given.append(local[number])
    events: dict[Place, list[tuple[str, int]]] = {place: [] for place in [*members, *recording.places]}
    for position, (event, place) in enumerate(zip(recording.events, recording.places, strict=True)):
        if position == recording.backward_from:
            events[place].append((BACKWARD_START, 0))
        if event >= 0:
            events[place].append(("+", 0))
        else:
            number = -event - 1
            events[place].append(_source(recording.allocations[number].place, place, local[number], entry.get(number)))
    return {
        _name(place): Block(
            allocations=tuple(cells[number] for number in members[place]),
            events=tuple(listed),
            handed_over={relation: tuple(given) for relation, given in handed[place].items()},
        )
        for place, listed in events.items()
    }


def _name(place: Place) -> str:
    return place[0] if place[1] is None else f"{place[0]}{place[1]}"


def _relation(place: Place, seen_from: Place) -> str:
    """Return the direction and distance of one layer's pass relative to another's."""
    if place[1] is None or seen_from[1] is None:
        raise TraceError("trace", "only layers have a distance")
    return f"{place[0]}{place[1] - seen_from[1]:+d}"


def _source(giver: Place, receiver: Place, local: int, entry: int | None) -> tuple[str, int]:
    """Return how a free refers to its allocation."""
    if giver == receiver:
        return "=", local
    if entry is not None:
        return _relation(giver, receiver), entry
    return _name(giver), local


def _residents(probes: Sequence[Probe], models: Sequence[TracedModel]) -> Iterator[Resident]:
    """Yield the tensors that exist before the step, with identical ones grouped."""
    layers_like = Counter(models[0].kinds)
    counted: Counter[Resident] = Counter()
    low, high = (list(_tensors(model)) for model in models[:2])
    per_rank = probes[1].rank - probes[0].rank
    for (resident, elements), (_, more) in zip(low, high, strict=True):
        slope, remainder = divmod(more - elements, per_rank)
        if remainder:
            raise TraceError("trace", "sizes of weights must be linear in the rank", more - elements)
        sized = replace(resident, num_elements=elements - slope * probes[0].rank, num_elements_per_rank=slope)
        counted[sized] += 1 if sized.layer is None else layers_like[sized.layer]
    for resident, count in counted.items():
        yield replace(resident, count=count)


_ADAPTER_NAMES = re.compile(r"(^|\.)(lora_|ia3_|prompt_encoder)")
"""Matches the names of the tensors that PEFT adds."""

_AVERAGES = 3
"""Tensors of a weight's size that AdaLoRA's rank allocator keeps for each: peft/tuners/adalora/layer.py (0.21),
``ipt``, ``exp_avg_ipt`` and ``exp_avg_unc``."""


def _tensors(model: TracedModel) -> Iterator[tuple[Resident, int]]:
    """Yield each tensor of a model once with its elements, and what AdaLoRA keeps for it from the first step on."""
    uses_adalora = is_adalora(model.module)
    layer_of = {id(part): number for number, layer in enumerate(model.layers) for part in layer.modules()}
    seen: set[int] = set()
    for path, part in model.module.named_modules():
        layer = layer_of.get(id(part))
        for name, parameter in part.named_parameters(recurse=False):
            component = "adapter" if _ADAPTER_NAMES.search(f"{path}.{name}") else "weights"
            for resident, elements in _once(seen, parameter, component, layer, is_parameter=True):
                yield resident, elements
                if uses_adalora and resident.trainable:
                    yield from [(replace(resident, trainable=False, is_parameter=False), elements)] * _AVERAGES
        for tensor in part.buffers(recurse=False):
            yield from _once(seen, tensor, "weights", layer, is_parameter=False)
        for tensor in quantization_constants(part):
            yield from _once(seen, tensor, "quantization_constants", layer, is_parameter=False)


def _once(
    seen: set[int], tensor: Any, component: str, layer: int | None, *, is_parameter: bool
) -> Iterable[tuple[Resident, int]]:
    if id(tensor) in seen:
        return
    seen.add(id(tensor))
    yield (
        Resident(
            component=component,
            num_elements=0,
            num_elements_per_rank=0,
            itemsize=tensor.element_size(),
            trainable=isinstance(tensor, nn.Parameter) and tensor.requires_grad,
            count=1,
            layer=layer,
            is_parameter=is_parameter,
        ),
        tensor.numel(),
    )
