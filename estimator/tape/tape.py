"""The tape: what one training step allocates and frees, in order, as a function of batch, length, rank and layers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from estimator.tape.checks import require_tape
from estimator.tape.sizes import COLUMNS, LARGEST_TENSOR_BYTES, Ints, basis, num_chunks, rounded, rounded_bytes
from specs.errors import PlanError, TraceError

FORMAT = 1
"""Number of the file format; a tape in another format is traced again."""

COMPONENTS = (
    "weights",
    "quantization_constants",
    "adapter",
    "gradients",
    "optimizer_states",
    "activations",
    "logits",
    "workspace",
)
"""What an allocation on the device is for."""

KINDS = (*COMPONENTS, "in_ram")
"""What an allocation is for, and last: what waits in RAM, outside the device."""
_IN_RAM = len(COMPONENTS)

FORWARD, BACKWARD = "F", "B"

_LAYERS_IN_FULL = 2
"""Number of layers at each end of a run of identical layers that are replayed in full."""

BACKWARD_START = "|"
"""Marks, among the events of the head, where the backward pass starts."""

TURN = "turn"
"""The block between two passes of a step through the same layers."""

OTHER_PASS = "~"  # noqa: S105 - no password
"""In place of a distance: the same layer in the other of two passes of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """Tensors that stay allocated during the whole step: weights, constants, the adapter."""

    component: str
    """One of ``COMPONENTS``."""
    num_elements: int
    """Elements of one tensor that do not depend on the rank."""
    num_elements_per_rank: int
    """Elements of one tensor that each unit of rank adds."""
    itemsize: int
    """Bytes of one element."""
    trainable: bool
    """Whether it gets a gradient and optimizer states."""
    count: int
    """Number of such tensors in the whole model."""
    layer: int | None = None
    """The traced layer it belongs to; None outside the layers."""
    is_parameter: bool = True
    """Whether it is one of the model's parameters in PyTorch."""

    def elements(self, rank: int) -> int:
        """Return the elements of one tensor."""
        return self.num_elements + self.num_elements_per_rank * rank

    def bytes_each(self, rank: int) -> int:
        """Return the bytes that the caching allocator hands out for one tensor."""
        return rounded_bytes(self.elements(rank) * self.itemsize)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The events of one stretch of the step: a layer's forward or backward pass, or what surrounds the layers."""

    allocations: tuple[tuple[int, int], ...]
    """Size (row of ``Tape.sizes``) and component of each allocation, in order."""
    events: tuple[tuple[str, int], ...]
    """Source and index. ``+`` makes the next allocation of this block. Anything else frees an allocation: of this block
    (``=``), of a named block (its name), or the index-th entry of what a neighbour hands over (``F-1``, ``F0``,
    ``B+1``: direction and distance in layers; ``B~``: the same layer in the other of two passes)."""
    handed_over: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """For each receiver (``B0``: own backward pass, ``F+1``: the next layer's forward pass, ...), the allocations
    that it frees."""


@dataclass(frozen=True, eq=False)
class Program:
    """A tape unrolled over all layers: one entry per event."""

    sign: NDArray[np.int8]
    """+1 for an allocation, -1 for a free."""
    allocation: Ints
    """Number of the allocation that each event makes or frees."""
    size: Ints
    """Row of ``Tape.sizes``."""
    component: NDArray[np.int8]
    """Index into ``KINDS``."""
    forward_events: int
    """Events of the forward pass; the rest belong to the backward pass."""
    backward_ends: tuple[int, ...]
    """Number of events up to the end of each layer's backward pass, in the order of the backward pass."""
    places: Ints
    """The stretch that each event belongs to: the start, each layer's forward pass, the head, the backward passes."""
    has_turn: bool = False
    """Whether there is a stretch between the forward passes of the two halves of the layers."""

    @cached_property
    def kept_gradients(self) -> NDArray[np.bool_]:
        """Whether each event makes a gradient that is still there at the end."""
        made = (self.component == COMPONENTS.index("gradients")) & (self.sign > 0)
        found: NDArray[np.bool_] = made & ~np.isin(self.allocation, self.allocation[self.sign < 0])
        return found

    @cached_property
    def kept_outputs(self) -> NDArray[np.bool_]:
        """Whether each event makes something else that is still there at the end: what the loop holds."""
        made = (self.component != COMPONENTS.index("gradients")) & (self.sign > 0)
        found: NDArray[np.bool_] = made & ~np.isin(self.allocation, self.allocation[self.sign < 0])
        return found

    def outline(self, layers: Sequence[int]) -> "Outline":
        """Return the events that decide where blocks end up: all but tensors within one pass of a repeated layer.

        The first and last two layers of each kind are kept in full.

        Args:
            layers: The traced layer that each layer behaves like, ``Tape.layers``.
        """
        whole: set[int] = set()
        for kind in set(layers):
            alike = [number for number, like in enumerate(layers) if like == kind]
            whole.update(alike[:_LAYERS_IN_FULL], alike[-_LAYERS_IN_FULL:])
        inner = np.array([number not in whole for number in range(len(layers))])
        forward = np.insert(inner, len(layers) // 2, values=False) if self.has_turn else inner
        repeated = np.concatenate(([False], forward, [False], inner[::-1]))
        made = np.full(int(self.allocation.max(initial=-1)) + 1, -1, dtype=np.int64)
        freed = made.copy()
        made[self.allocation[self.sign > 0]] = self.places[self.sign > 0]
        freed[self.allocation[self.sign < 0]] = self.places[self.sign < 0]
        passing = (made == freed) & repeated[made]
        events = np.flatnonzero(~passing[self.allocation])
        return Outline(events=events, program=self.only(events))

    def only(self, events: Ints) -> "Program":
        """Return the program of some of the events, by their positions."""
        return replace(
            self,
            sign=self.sign[events],
            allocation=self.allocation[events],
            size=self.size[events],
            component=self.component[events],
            places=self.places[events],
            forward_events=int(np.searchsorted(events, self.forward_events)),
            backward_ends=tuple(np.searchsorted(events, self.backward_ends).tolist()),
        )


@dataclass(frozen=True, eq=False)
class Outline:
    """The events of a program that decide where blocks end up."""

    events: Ints
    """Their positions in the program."""
    program: Program


@dataclass(frozen=True, eq=False, kw_only=True)
class Tape:
    """One training step of one model by one method, valid for a range of batches and lengths."""

    sizes: Ints
    """Bytes as coefficients of the monomials, one row per distinct size: (sizes, COLUMNS)."""
    blocks: Mapping[str, Block]
    """``start`` and ``head``, for each traced layer i its passes ``Fi`` and ``Bi``, and ``turn`` between the forward
    passes of the two halves of the layers, if they are the same ones twice."""
    layers: tuple[int, ...]
    """Which traced layer each layer of the model behaves like, first to last."""
    residents: tuple[Resident, ...]
    """What is allocated before the step starts."""
    num_params: int
    """Parameters of the base model, tied weights counted once."""
    repeats: Mapping[int, int] = field(default_factory=dict)
    """The rows of ``sizes`` that stand for one tensor of every chunk, and for how many chunks less than there are."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else the estimate needs: the model's shapes, library versions, warnings of the trace."""

    @cached_property
    def program(self) -> Program:
        """The unrolled events on the device; computed once."""
        return self._unrolled.only(np.flatnonzero(self._unrolled.component != _IN_RAM))

    @cached_property
    def in_ram(self) -> Program:
        """The unrolled events of what waits in RAM; computed once."""
        return self._unrolled.only(np.flatnonzero(self._unrolled.component == _IN_RAM))

    @cached_property
    def _unrolled(self) -> Program:
        return _Unroller(self).program()

    @cached_property
    def outline(self) -> Outline:
        """The events of the program that decide where blocks end up; computed once."""
        return self.program.outline(self.layers)

    def with_sizes(self, sizes: Ints, residents: tuple[Resident, ...] | None = None) -> Self:
        """Return a tape with the same events, which are not unrolled again, and other sizes and residents."""
        other = replace(self, sizes=sizes, residents=self.residents if residents is None else residents)
        other.__dict__.update(program=self.program, outline=self.outline, in_ram=self.in_ram)
        return other

    def bytes_by_size(self, batch: int, length: int, rank: int) -> Ints:
        """Return the bytes that the allocator hands out for each row of ``sizes`` at one point.

        Raises:
            PlanError: If a tensor is so large that sums could overflow 64-bit integers.
        """
        values = basis(batch, length, rank, self.facts.get("chunk"))
        if (self.sizes @ np.array(values, dtype=np.float64)).max(initial=0) > LARGEST_TENSOR_BYTES:
            subject = "per_device_train_batch_size x max_length"
            rule = f"must keep each tensor of a step under {LARGEST_TENSOR_BYTES // 2**40} TiB"
            raise PlanError(subject, rule, f"{batch:,} x {length:,}", "Lower one of them")
        taken = rounded(self.sizes @ np.array(values, dtype=np.int64))
        for row, fewer in self.repeats.items():
            taken[row] *= max(num_chunks(length, self.facts["chunk"]) - fewer, 0)
        return taken

    def to_json(self) -> str:
        """Return the tape as JSON, which ``from_json`` reads back."""
        sparse = [[(int(i), int(row[i])) for i in np.flatnonzero(row)] for row in self.sizes]
        blocks = {
            name: [
                [value for pair in block.allocations for value in pair],
                _packed(block.events),
                {receiver: list(given) for receiver, given in block.handed_over.items()},
            ]
            for name, block in self.blocks.items()
        }
        return json.dumps(
            {
                "format": FORMAT,
                "sizes": sparse,
                "blocks": blocks,
                "layers": list(self.layers),
                "residents": [asdict(entry) for entry in self.residents],
                "num_params": self.num_params,
                **({"repeats": sorted(self.repeats.items())} if self.repeats else {}),
                "facts": dict(self.facts),
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a tape back.

        Raises:
            TraceError: If the text is not a tape in this format.
        """
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                raise TraceError("tape", f"must be of format {FORMAT}", values["format"], "It is traced again")
            require_tape(values, columns=COLUMNS, components=COMPONENTS, num_kinds=len(KINDS), resident=Resident)
            sizes = np.zeros((len(values["sizes"]), COLUMNS), dtype=np.int64)
            for row, entries in enumerate(values["sizes"]):
                for column, coefficient in entries:
                    sizes[row, column] = coefficient
            return cls(
                sizes=sizes,
                blocks={name: _block(*parts) for name, parts in values["blocks"].items()},
                layers=tuple(values["layers"]),
                residents=tuple(Resident(**entry) for entry in values["residents"]),
                num_params=values["num_params"],
                repeats=dict(values.get("repeats", ())),
                facts=values["facts"],
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise TraceError("tape", "must be a tape that LoRAFit wrote", None, "It is traced again") from error


def _packed(events: Sequence[tuple[str, int]]) -> list[Any]:
    """Return events as a list of sources and a flat list of (source, index) numbers."""
    sources = sorted({source for source, _ in events})
    number = {source: position for position, source in enumerate(sources)}
    return [sources, [value for source, index in events for value in (number[source], index)]]


def _block(allocations: list[int], packed: list[Any], handed_over: Mapping[str, list[int]]) -> Block:
    sources, flat = packed
    return Block(
        allocations=tuple(zip(allocations[::2], allocations[1::2], strict=True)),
        events=tuple((sources[source], index) for source, index in zip(flat[::2], flat[1::2], strict=True)),
        handed_over={receiver: tuple(given) for receiver, given in handed_over.items()},
    )


class _Unroller:
    """Lays out the blocks of a tape over all layers and numbers every allocation."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        layers = range(len(tape.layers))
        half = len(layers) // 2 if TURN in tape.blocks else len(layers)
        self.order: list[tuple[str, int | None]] = [
            ("start", None),
            *((FORWARD, layer) for layer in layers[:half]),
            *([(TURN, None)] if TURN in tape.blocks else []),
            *((FORWARD, layer) for layer in layers[half:]),
            ("head", None),
            *((BACKWARD, layer) for layer in reversed(layers)),
        ]
        self.base: dict[tuple[str, int | None], int] = {}
        total = 0
        for place in self.order:
            self.base[place] = total
            total += len(self._block(place).allocations)
        self.total = total
        self.backward_from = 0
        last_of: dict[tuple[str, int], int] = {}
        for direction, layer in self.order:
            if layer is not None:
                last_of[direction, tape.layers[layer]] = layer
        self.last_of = last_of

    def program(self) -> Program:
        """Return the events of the whole step; what is still alive at its end is not freed."""
        pieces: list[Ints] = []
        for place in self.order:
            pieces.append(self._piece(place, before=sum(map(len, pieces))))
        numbers = np.concatenate(pieces)
        cells = np.concatenate([self._cells(place) for place in self.order])
        allocation = np.where(numbers >= 0, numbers, -numbers - 1)
        return Program(
            sign=np.where(numbers >= 0, 1, -1).astype(np.int8),
            allocation=allocation,
            size=cells[allocation, 0],
            component=cells[allocation, 1].astype(np.int8),
            forward_events=self.backward_from,
            places=np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces]),
            has_turn=TURN in self.tape.blocks,
            backward_ends=tuple(
                int(end) for end in np.cumsum([len(piece) for piece in pieces])[-len(self.tape.layers) :]
            ),
        )

    def _block(self, place: tuple[str, int | None]) -> Block:
        name, layer = place
        return self.tape.blocks[name if layer is None else f"{name}{self.tape.layers[layer]}"]

    def _cells(self, place: tuple[str, int | None]) -> Ints:
        return np.array(self._block(place).allocations, dtype=np.int64).reshape(-1, 2)

    def _piece(self, place: tuple[str, int | None], *, before: int) -> Ints:
        """Return one block's events: n for allocation n, -n - 1 for its free."""
        block = self._block(place)
        numbers: list[int] = []
        following = self.base[place]
        for source, index in block.events:
            if source == "+":
                numbers.append(following)
                following += 1
            elif source == BACKWARD_START:
                self.backward_from = before + len(numbers)
            else:
                numbers.extend(-number - 1 for number in self._freed(place, source, index))
        return np.array(numbers, dtype=np.int64)

    def _freed(self, place: tuple[str, int | None], source: str, index: int) -> list[int]:
        """Return the allocations that one free event frees."""
        direction, layer = place
        if source == "=":
            return [self.base[place] + index]
        if source in {"start", TURN, "head"}:
            # A tensor that several layers share is freed by the last of them.
            shared = layer is not None and self.last_of[direction, self.tape.layers[layer]] != layer
            return [] if shared else [self.base[source, None] + index]
        if layer is None:
            # The head frees one tensor of each layer that behaves like the traced one.
            wanted, traced = source[0], int(source[1:])
            return [self.base[wanted, i] + index for i, kind in enumerate(self.tape.layers) if kind == traced]
        if source[1:] == OTHER_PASS:
            half = len(self.tape.layers) // 2
            wanted, distance, back = source[0], half if layer < half else -half, OTHER_PASS
        else:
            wanted, distance = source[0], int(source[1:])
            back = f"{-distance:+d}"
        giver = (wanted, layer + distance)
        if giver not in self.base:
            return []
        given = self._block(giver).handed_over.get(f"{direction}{back}", ())
        return [self.base[giver] + given[index]] if index < len(given) else []
