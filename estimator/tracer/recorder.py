"""Records every tensor storage that a step on fake tensors creates and drops, and where in the step."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Place = tuple[str, int | None]
"""Where an event happens: ``start``, ``turn``, ``head``, or the forward (F) or backward (B) pass of a layer."""

HEAD: Place = ("head", None)
"""What follows the layers: the last norm, the logits and the loss."""

TURN: Place = ("turn", None)
"""What lies between two passes through the layers: the pooling of the first texts, and the words of the others."""

IN_RAM = "in_ram"
"""Marks what waits in RAM, outside the device."""

Scratch = Callable[[Any, Sequence[Any]], tuple[Sequence[int], Sequence[int]]]
"""Returns the bytes that an operator's CUDA kernel allocates internally, before and after its result."""

Replaced = Callable[[Any, Sequence[Any]], Any]
"""Returns the result of an operator that fake tensors cannot run, or None."""


@dataclass(slots=True)
class Allocation:
    """One storage that the step created."""

    num_bytes: int
    place: Place
    backward: bool
    op: str
    shape: tuple[int, ...]
    marks: set[str] = field(default_factory=set)
    """What is known about its use: ``gradient``, ``logits``, ``workspace``, ``tile``, ``in_ram``."""
    members: int | None = None
    """How many tensors of this size it stands for, one of each pass of a loop; None for a single one."""


@dataclass(slots=True)
class Recording:
    """The events of one step: n makes the n-th allocation, -n - 1 frees it."""

    allocations: list[Allocation] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    backward_from: int = 0
    """Number of events before the backward pass starts."""


class Recorder(TorchDispatchMode):
    """Observes every operator call below autograd and autocast, and the end of every storage."""

    def __init__(self, known: Iterable[torch.Tensor], *, scratch: Scratch, replaced: Replaced) -> None:
        super().__init__()
        self.recording = Recording()
        self.place: Place = ("start", None)
        self.backward = False
        self._scratch_of = scratch
        self._replaced = replaced
        self._alive: dict[int, tuple[Any, int]] = {}
        # Kept alive, so that no later storage reuses the address of one that the step drops, such as a cast bias.
        self._held = [tensor.untyped_storage() for tensor in known]
        self._known = {storage._cdata for storage in self._held}
        self._open = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operator and record the storages it creates, plus the scratch memory of its CUDA kernel."""
        del types
        result = self._replaced(func, args)
        if result is None:
            result = func(*args, **(kwargs or {}))
        if func is torch.ops.prim.device.default or not self._open:
            return result
        before, after = self._scratch_of(func, args)
        scratch = [self._scratch(func, size) for size in before]
        outputs = result if isinstance(result, tuple | list) else (result,)
        for output in outputs:
            if isinstance(output, torch.Tensor):
                self._allocated(output, func)
        scratch += [self._scratch(func, size) for size in after]
        for number in reversed(scratch):
            self._event(-number - 1)
        return result

    def enter(self, place: Place) -> None:
        """Set the place that the following events belong to."""
        self.place = place

    def enter_backward(self) -> None:
        """Mark the start of the backward pass."""
        self.backward = True
        self.recording.backward_from = len(self.recording.events)

    def close(self) -> Recording:
        """Stop recording; storages that are still alive have no free."""
        self._open = False
        self._order_frees()
        return self.recording

    def mark(self, tensor: torch.Tensor, *marks: str) -> None:
        """Record the use of a tensor that the step created."""
        found = self._alive.get(tensor.untyped_storage()._cdata)
        if found is not None:
            self.recording.allocations[found[1]].marks.update(marks)

    def waiting_in_ram(self, **_: Any) -> torch.autograd.graph.saved_tensors_hooks:
        """Return hooks that let saved tensors wait in RAM, in the place of PyTorch's ``save_on_cpu``.

        The tensors stay where they are computed; their copies are marked. PyTorch makes the same copies between a card
        and RAM: one for each saved tensor, and another when it is needed again.
        """

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept = tensor.clone(memory_format=torch.contiguous_format)
            self.mark(kept, IN_RAM)
            return kept

        return torch.autograd.graph.saved_tensors_hooks(pack, torch.Tensor.clone)

    def _order_frees(self) -> None:
        """Sort consecutive frees, since autocast drops its cached weights in the order of their addresses."""
        events, places = self.recording.events, self.recording.places
        start = 0
        for position in range(1, len(events) + 1):
            same = position < len(events) and events[position] < 0 and places[position] == places[start]
            if not (same and events[start] < 0):
                if events[start] < 0:
                    events[start:position] = sorted(events[start:position], reverse=True)
                start = position

    def _event(self, number: int) -> None:
        self.recording.events.append(number)
        self.recording.places.append(self.place)

    def _new(self, func: Any, num_bytes: int, shape: tuple[int, ...]) -> int:
        number = len(self.recording.allocations)
        self.recording.allocations.append(Allocation(num_bytes, self.place, self.backward, str(func), shape))
        self._event(number)
        return number

    def _scratch(self, func: Any, num_bytes: int) -> int:
        number = self._new(func, num_bytes, ())
        self.recording.allocations[number].marks.add("workspace")
        return number

    def _allocated(self, tensor: torch.Tensor, func: Any) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive or key in self._known:
            return
        number = self._new(func, storage.nbytes(), tuple(tensor.shape))

        def record_free(_: Any, key: int = key, number: int = number) -> None:
            self._alive.pop(key, None)
            if self._open:
                self._event(-number - 1)

        self._alive[key] = (weakref.ref(storage, record_free), number)
