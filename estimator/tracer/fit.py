"""Turns recordings of the same step at different sizes into a tape: exact formulas for sizes, blocks for layers."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from typing import Any

import numpy as np
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING as PREFIXES
from torch import nn
from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as TILE_COLUMNS

from estimator.tape.sizes import CHUNK_MONOMIALS, COLUMNS, MONOMIALS, ROW_MONOMIALS, Ints, basis, num_chunks
from estimator.tape.tape import BACKWARD_START, KINDS, OTHER_PASS, Block, Resident, Tape
from estimator.tracer.fold import folded
from estimator.tracer.model import CutError, TracedModel, quantization_constants
from estimator.tracer.recorder import IN_RAM, Allocation, Place, Recording
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
    chunk: int | None = None
    """Tokens of a chunk, for a model with layers that work in chunks."""

    @property
    def basis(self) -> Ints:
        """The values of the monomials at this size."""
        return np.array(basis(self.batch, self.length, self.rank, self.chunk), dtype=np.int64)

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
    if not _are_alike(recordings):
        recordings = [folded(recording) for recording in recordings]
    if not _are_alike(recordings):
        rule = "runs operations that depend on the length in a way that no formula holds"
        raise TraceError(models[0].module.config.model_type, rule, None, "Choose another model")
    first = recordings[0]
    near = _Distances(models[0])
    if models[0].is_cut:
        near.require(first)
    columns = list(zip(*(recording.allocations for recording in recordings), strict=True))
    rows = [(_row(probes, column), _fewer(probes, column)) for column in columns]
    distinct = sorted(set(rows))
    number = {row: index for index, row in enumerate(distinct)}
    cells = [
        (number[row], KINDS.index(_component(allocation)))
        for row, allocation in zip(rows, first.allocations, strict=True)
    ]
    return Tape(
        sizes=np.array([_dense(row) for row, _ in distinct], dtype=np.int64).reshape(-1, COLUMNS),
        blocks=_no_events(models[0].num_traced) | _blocks(first, cells, near),
        layers=models[0].kinds,
        residents=tuple(_residents(probes, models)),
        num_params=models[0].num_params,
        repeats={index: fewer for index, (_, fewer) in enumerate(distinct) if fewer >= 0},
        facts=facts,
    )


def _are_alike(recordings: Sequence[Recording]) -> bool:
    """Return whether recordings at different sizes have the same events."""
    first = recordings[0]
    return all(other.events == first.events and other.places == first.places for other in recordings[1:])


class _Distances:
    """Says how a layer's pass refers to another one's, so that it holds in the whole model too."""

    def __init__(self, model: TracedModel) -> None:
        self._other_pass = len(model.layers) if model.passes > 1 else None

    def relation(self, place: Place, seen_from: Place) -> str:
        """Return the direction of one layer's pass, and its distance from another's."""
        number, other = place[1], seen_from[1]
        if number is None or other is None:
            raise TraceError("trace", "only layers have a distance")
        if abs(number - other) == self._other_pass:
            return f"{place[0]}{OTHER_PASS}"
        return f"{place[0]}{number - other:+d}"

    def require(self, recording: Recording) -> None:
        """Require that layers hand tensors only to the next one: a cut changes every other distance.

        The same layer in another pass is found in the whole model too.

        Raises:
            CutError: If a tensor of one layer lives until a layer further away, as shared keys and values do.
        """
        for event, place in zip(recording.events, recording.places, strict=True):
            giver = recording.allocations[-event - 1].place if event < 0 else place
            if giver[1] is None or place[1] is None or abs(giver[1] - place[1]) in {0, 1, self._other_pass}:
                continue
            raise CutError("a layer frees a tensor of one that is not next to it")


Row = tuple[tuple[int, int], ...]
"""Column and coefficient of each term of a size formula."""


def _dense(row: Row) -> list[int]:
    values = [0] * COLUMNS
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
        rule = "has a size that no formula of batch and length holds here"
        raise TraceError(f"trace: {allocations[0].op}", rule, measured, "It can be trained without an estimate")
    shape = allocations[0].shape
    if len(shape) == 2 and shape == (probes[0].scored, TILE_COLUMNS):
        scored, tile = MONOMIALS.index("n"), MONOMIALS.index("t")
        return tuple((tile if column == scored else column, coefficient) for column, coefficient in row)
    return row


def _fewer(probes: Sequence[Probe], allocations: Sequence[Allocation]) -> int:
    """Return how many chunks less than there are an allocation stands for; -1 for a single tensor.

    Raises:
        TraceError: If its loop does not run once for each chunk.
    """
    if allocations[0].members is None:
        return -1
    fewer = {
        num_chunks(probe.length, probe.chunk or 1) - (allocation.members or 0)
        for probe, allocation in zip(probes, allocations, strict=True)
    }
    if len(fewer) > 1 or min(fewer) < 0 or probes[0].chunk is None:
        raise TraceError(f"trace: {allocations[0].op}", "repeats with the length, but not once for each chunk")
    return fewer.pop()


def _one_term(points: Sequence[Ints], measured: Sequence[int]) -> Row | None:
    for column in _columns(points):
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
    for one, two in _pairs(_columns(points)):
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


def _columns(points: Sequence[Ints]) -> list[int]:
    """Return the columns to try: those of chunks only for a model that has them."""
    has_chunks = points[0][2 * len(MONOMIALS)] > 0
    of_rows = [*range(COLUMNS - len(ROW_MONOMIALS), COLUMNS)]
    return [*range(COLUMNS - len(of_rows) if has_chunks else 2 * len(MONOMIALS)), *of_rows]


def _pairs(columns: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield pairs of columns, first those of tensors that grow by a constant number of tokens or chunks."""
    names = (*MONOMIALS, *(f"{name}r" for name in MONOMIALS), *CHUNK_MONOMIALS)
    usual = (("b", "bs"), ("b", "bc"), ("1", "s"), ("1", "c"))
    first = [(names.index(one), names.index(two)) for one, two in usual if names.index(two) in columns]
    return chain(first, combinations(columns, 2))


def _component(allocation: Allocation) -> str:
    """Return what an allocation is for."""
    if IN_RAM in allocation.marks:
        return IN_RAM
    if "gradient" in allocation.marks:
        return "gradients"
    if "workspace" in allocation.marks or "bitsandbytes.dequantize" in allocation.op:
        return "workspace"
    return "logits" if allocation.place[0] == "head" else "activations"


def _no_events(layers: int) -> dict[str, Block]:
    """Return empty blocks for all places; a place without events of its own keeps its one."""
    names = ("start", "head", *(f"{direction}{number}" for direction in "FB" for number in range(layers)))
    return {name: Block(allocations=(), events=()) for name in names}


def _blocks(recording: Recording, cells: Sequence[tuple[int, int]], near: _Distances) -> dict[str, Block]:
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
        given = handed[giver][near.relation(receiver, giver)]
        entry[number] = len(given)
        given.append(local[number])
    events: dict[Place, list[tuple[str, int]]] = {place: [] for place in [*members, *recording.places]}
    for position, (event, place) in enumerate(zip(recording.events, recording.places, strict=True)):
        if position == recording.backward_from:
            events[place].append((BACKWARD_START, 0))
        if event >= 0:
            events[place].append(("+", 0))
        else:
            giver, number = recording.allocations[-event - 1].place, -event - 1
            events[place].append(_source(giver, place, local[number], entry.get(number), near))
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


def _source(giver: Place, receiver: Place, local: int, entry: int | None, near: _Distances) -> tuple[str, int]:
    """Return how a free refers to its allocation."""
    if giver == receiver:
        return "=", local
    return (_name(giver), local) if entry is None else (near.relation(giver, receiver), entry)


def _residents(probes: Sequence[Probe], models: Sequence[TracedModel]) -> Iterator[Resident]:
    """Yield the tensors that exist before the step, with identical ones grouped."""
    layers_like = Counter(models[0].kinds)
    counted: Counter[Resident] = Counter()
    low, high = (list(_tensors(model)) for model in models[:2])
    per_rank = probes[1].rank - probes[0].rank
    for (resident, elements), (_, more) in zip(low, high, strict=True):
        slope, remainder = divmod(more - elements, per_rank) if per_rank else (0, more - elements)
        if remainder:
            raise TraceError("trace", "sizes of weights must be linear in the rank", more - elements)
        sized = replace(resident, num_elements=elements - slope * probes[0].rank, num_elements_per_rank=slope)
        counted[sized] += 1 if sized.layer is None else layers_like[sized.layer]
    for resident, count in counted.items():
        yield replace(resident, count=count)


_ADAPTER_NAMES = re.compile(rf"(^|\.)({'|'.join(sorted({*PREFIXES.values()}))}|vera_|prompt_encoder|modules_to_save)")
"""Matches the names of the tensors that PEFT adds; VeRA's matrices do not begin as its vectors do."""

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
        for name, tensor in part.named_buffers(recurse=False):
            component = "adapter" if _ADAPTER_NAMES.search(f"{path}.{name}") else "weights"
            yield from _once(seen, tensor, component, layer, is_parameter=False)
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
