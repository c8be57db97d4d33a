"""The step of one of several devices: a tape with the weights it gathers and the gradients it gives away."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from estimator.tape.sizes import basis
from estimator.tape.tape import BACKWARD_START, COMPONENTS, OTHER_PASS, TURN, Block, Tape

_GRADIENTS = COMPONENTS.index("gradients")
_WORKSPACE = COMPONENTS.index("workspace")
_BY_DISTANCE = ("+", "-", OTHER_PASS)
_HANDED_DOWN = ("F-1", "B+1")
"""In a layer's backward pass: the layer's kept input, and the gradient of what it returned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering:
    """Which weights a device gathers when, in one version of a strategy; all counts are of whole units.

    A unit is a decoder layer, the embedding, the tail (final norm and output head), or the root (what is in no other).
    """

    root: bool = False
    """The root is gathered at the start and kept to the end of the backward pass."""
    embedding: int = 0
    """Copies of the embedding in the start."""
    layer_forward: int = 0
    """Copies of a layer in its forward pass."""
    layer_backward: int = 0
    """Copies of a layer, its own and that of the next one, in its backward pass."""
    layer_at_turn: int = 0
    """Copies of the last layer from the start of the backward pass to the last layer's."""
    tail: int = 0
    """Copies of the tail in the forward pass; one remains until its backward pass is over."""
    reduces: bool = False
    """Each unit's gradients become one device's part of them once the unit's backward pass is over."""
    copies_gradients: bool = False
    """They are first copied into one buffer, which lives until the next unit's gradients are complete."""
    root_gradients_last: bool = False
    """Gradients outside the layers are reduced after all others."""
    keeps_inputs: bool = False
    """The input of each layer and its gradient stay until the end of the backward pass."""


class Row(NamedTuple):
    """What an added row of sizes stands for."""

    what: str
    """root, embedding, tail, layer, gradients (whole, in one buffer), part (one device's) or gradient (one tensor)."""
    key: int | str
    """The traced layer, the block, or the row of the tape that it scales."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Divided:
    """A tape whose events are those of one of several devices, before the number of devices is known."""

    tape: Tape
    """With the added rows at the end of ``sizes``, still empty."""
    added: tuple[Row, ...]
    gradients: Mapping[str, tuple[int, ...]]
    """For each block with gradients, the rows of the whole tape that they have."""

    def filled(self, rank: int, whole_bytes: Callable[[Row], int], part: Callable[[int], int], scale: float) -> Tape:
        """Return the tape with all sizes.

        Args:
            rank: The adapter's rank.
            whole_bytes: The bytes of a root, embedding, tail or layer.
            part: One device's share of so many bytes of gradients.
            scale: By how much larger gradients are than on the tape.
        """
        rows = self.tape.sizes[: len(self.tape.sizes) - len(self.added)] @ np.array(basis(1, 2, rank), dtype=np.int64)
        whole = {name: round(sum(int(rows[row]) for row in used) * scale) for name, used in self.gradients.items()}
        sizes = self.tape.sizes.copy()
        for place, row in enumerate(self.added, start=len(sizes) - len(self.added)):
            if row.what == "gradient":
                sizes[place, 0] = round(int(rows[int(row.key)]) * scale)
            elif row.what in {"gradients", "part"}:
                total = whole[str(row.key)]
                sizes[place, 0] = total if row.what == "gradients" else part(total)
            else:
                sizes[place, 0] = whole_bytes(row)
        return self.tape.with_sizes(sizes)


@lru_cache(maxsize=64)
def divided(tape: Tape, how: Gathering) -> Divided:
    """Return the events of one of several devices.

    Args:
        tape: The step of one device that holds everything.
        how: What is gathered and given away when.
    """
    return _Editor(tape, how).divided()


@dataclass
class _Edited:
    """A block under construction: its events refer to allocations of the old block until all blocks are rebuilt."""

    allocations: list[tuple[int, int]] = field(default_factory=list)
    events: list[tuple[str, int]] = field(default_factory=list)
    number: dict[int, int] = field(default_factory=dict)
    """The new number of each allocation of the old block."""

    def allocate(self, size: int, component: int = _WORKSPACE) -> int:
        """Add an allocation and return its number."""
        self.events.append(("+", 0))
        self.allocations.append((size, component))
        return len(self.allocations) - 1

    def free(self, number: int) -> None:
        """Free an allocation of this block by its new number."""
        self.events.append(("new", number))


class _Editor:
    """Adds to each block of a tape what one of several devices gathers, reduces and keeps."""

    def __init__(self, tape: Tape, how: Gathering) -> None:
        self.tape, self.how = tape, how
        self.rows: dict[Row, int] = {}
        self.blocks: dict[str, _Edited] = {}
        self.gradients = {name: found for name, block in tape.blocks.items() if (found := _kept_gradients(block))}
        self.first, self.last = f"B{tape.layers[0]}", f"B{tape.layers[-1]}"

    def divided(self) -> Divided:
        """Return the edited tape."""
        self.blocks = {name: self._edited(name) for name in self.tape.blocks}
        blocks = {name: self._rebuilt(name) for name in self.tape.blocks}
        added = tuple(sorted(self.rows, key=lambda row: self.rows[row]))
        empty = np.zeros((len(added), self.tape.sizes.shape[1]), dtype=self.tape.sizes.dtype)
        return Divided(
            tape=replace(self.tape, blocks=blocks, sizes=np.concatenate((self.tape.sizes, empty))),
            added=added,
            gradients={
                name: tuple(self.tape.blocks[name].allocations[number][0] for number in found)
                for name, found in self.gradients.items()
            },
        )

    def _row(self, what: str, key: int | str = "") -> int:
        return self.rows.setdefault(Row(what, key), len(self.tape.sizes) + len(self.rows))

    def _edited(self, name: str) -> _Edited:
        edited, block = _Edited(), self.tape.blocks[name]
        passing = self._gather(edited, name)
        for source, index in block.events:
            if source == "+":
                old = len(edited.number)
                edited.number[old] = edited.allocate(*self._allocation(name, old))
            elif source == BACKWARD_START:
                edited.events.append((source, index))
                passing = self._turned(edited, passing)
            elif not (self.how.keeps_inputs and name[0] == "B" and source in _HANDED_DOWN):
                edited.events.append((source, index))
        for number in passing:
            edited.free(number)
        if self.how.reduces:
            self._reduce(edited, name)
        if name == self.first and self.how.root:
            edited.events.append(("new start", 0))
        return edited

    def _allocation(self, name: str, number: int) -> tuple[int, int]:
        size, component = self.tape.blocks[name].allocations[number]
        return (self._row("gradient", size), component) if number in self.gradients.get(name, ()) else (size, component)

    def _gather(self, edited: _Edited, name: str) -> list[int]:
        """Add what is gathered before a block, and return what of it is given up after the block."""
        how, kind = self.how, name[1:]
        if name == TURN:
            return []
        copies = {"start": how.embedding, "head": how.tail, "F": how.layer_forward, "B": how.layer_backward}
        if name in {"start", "head"}:
            if name == "start" and how.root:
                edited.allocate(self._row("root"))  # the first of the block: layer 0's backward pass frees it
            row = self._row("embedding" if name == "start" else "tail") if copies[name] else 0
            return [edited.allocate(row) for _ in range(copies[name])]
        found = [edited.allocate(self._row("layer", int(kind))) for _ in range(copies[name[0]])]
        if name[0] == "B" and how.copies_gradients and name in self.gradients:
            found.append(edited.allocate(self._row("gradients", name)))
        return found

    def _turned(self, edited: _Edited, passing: list[int]) -> list[int]:
        """Add the start of the backward pass: one copy of the tail is left, and the last layer is fetched."""
        for number in passing[1:]:
            edited.free(number)
        fetched = self.how.layer_at_turn
        return passing[:1] + [edited.allocate(self._row("layer", int(self.last[1:]))) for _ in range(fetched)]

    def _reduce(self, edited: _Edited, name: str) -> None:
        """Replace a block's gradients by one device's part of them."""
        late = self.how.root_gradients_last
        if name in self.gradients and not (late and name == "head"):
            self._reduce_own(edited, name)
        if late and name == self.first and "head" in self.gradients:
            edited.allocate(self._row("part", "head"), _GRADIENTS)
            edited.events.extend(("head", number) for number in self.gradients["head"])

    def _reduce_own(self, edited: _Edited, name: str) -> None:
        buffer = edited.allocate(self._row("gradients", name)) if self.how.copies_gradients or name[0] != "B" else None
        edited.allocate(self._row("part", name), _GRADIENTS)
        for number in self.gradients[name]:
            edited.free(edited.number[number])
        if buffer is not None:
            edited.free(buffer)

    def _rebuilt(self, name: str) -> Block:
        edited, old = self.blocks[name], self.tape.blocks[name]
        return Block(
            allocations=tuple(edited.allocations),
            events=tuple(self._event(edited, *event) for event in edited.events),
            handed_over={
                receiver: tuple(edited.number[number] for number in given)
                for receiver, given in old.handed_over.items()
            },
        )

    def _event(self, edited: _Edited, source: str, index: int) -> tuple[str, int]:
        """Return an event with the new number of what it frees."""
        if source == "new":
            return "=", index
        if source == "new start":
            return "start", index
        if source == "=":
            return source, edited.number[index]
        if source in {"+", BACKWARD_START} or source[1:2] in _BY_DISTANCE:
            return source, index
        return source, self.blocks[source].number[index]


def _kept_gradients(block: Block) -> tuple[int, ...]:
    """Return the numbers of a block's allocations that are gradients and outlive it."""
    freed = {index for source, index in block.events if source == "="}
    freed |= {number for given in block.handed_over.values() for number in given}
    made = enumerate(block.allocations)
    return tuple(number for number, (_, component) in made if component == _GRADIENTS and number not in freed)
