"""One training step of a plan, replayed from a tape: what is allocated at every moment, and what is reserved."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from estimator.allocator import SMALL_BYTES, LargePool, small_reserved_bytes
from estimator.optimizer import OptimizerMemory, optimizer_memory
from estimator.overhead import CUBLAS_WORKSPACES, cublas_workspace_bytes
from estimator.recipe import batch_shape
from estimator.tape import COMPONENTS, Ints, Tape
from specs import FinetunePlan, GpuSpec

GRADIENTS = COMPONENTS.index("gradients")
_NORM_BYTES = 512


@dataclass(frozen=True)
class Replay:
    """A tape at one batch, length and rank."""

    tape: Tape
    plan: FinetunePlan
    gpu: GpuSpec

    @cached_property
    def fixed(self) -> dict[str, int]:
        """Bytes by component that stay through the whole step, from the second step on."""
        fixed = dict.fromkeys(COMPONENTS, 0)
        for resident in self.tape.residents:
            fixed[resident.component] += resident.bytes_each(self.plan.r) * resident.count
        fixed["optimizer_states"] = self.optimizer.state_bytes
        fixed["workspace"] = CUBLAS_WORKSPACES * cublas_workspace_bytes(self.gpu)
        if self._accumulates:
            fixed["gradients"] = self.gradient_bytes
        return fixed

    @cached_property
    def optimizer(self) -> OptimizerMemory:
        """What the optimizer takes."""
        return optimizer_memory(self.plan, self.tape.residents)

    @cached_property
    def sizes(self) -> Ints:
        """Bytes of each event's allocation."""
        by_size = self.tape.bytes_by_size(*batch_shape(self.plan), self.plan.r)
        return by_size[self.tape.program.size]

    @cached_property
    def deltas(self) -> Ints:
        """What each event adds to the allocated bytes."""
        deltas = self.tape.program.sign * self.sizes
        if self._accumulates:
            # The gradients are there already: a new one is added to the old one at once, and freed.
            made = np.flatnonzero(self._gradient_events)
            following = np.minimum(made + 1, len(deltas) - 1)
            np.subtract.at(deltas, following, self.sizes[made])
        return deltas

    @cached_property
    def allocated(self) -> Ints:
        """Bytes allocated after each event, without what is fixed."""
        return np.cumsum(self.deltas)

    @cached_property
    def gradient_bytes(self) -> int:
        """Bytes of all gradients."""
        return int(self.sizes[self._gradient_events].sum())

    @property
    def fixed_bytes(self) -> int:
        """Bytes that stay through the whole step."""
        return sum(self.fixed.values())

    def peak_event(self) -> int:
        """Return the event after which most is allocated in the forward and backward pass."""
        return int(self.allocated.argmax())

    def phases(self) -> dict[str, int]:
        """Return the peak of each phase in bytes."""
        turn = self.tape.program.forward_events
        fixed = self.fixed_bytes
        return {
            "load": self.load_bytes(),
            "forward": fixed + int(self.allocated[:turn].max(initial=0)),
            "backward": fixed + int(self.allocated[turn:].max(initial=0)),
            "optimizer": self.optimizer_bytes(),
        }

    def load_bytes(self) -> int:
        """Return the peak while the model is loaded: its tensors, and the largest weight before it is quantized."""
        there = sum(self.fixed[name] for name in ("weights", "quantization_constants"))
        packed = [
            entry.elements(self.plan.r) * entry.itemsize
            for entry in self.tape.residents
            if entry.component == "weights" and entry.layer is not None
        ]
        factor = {"4bit": 4, "8bit": 2}.get(self.plan.quantization, 0)
        return there + factor * max(packed, default=0)

    def optimizer_bytes(self) -> int:
        """Return the peak of the optimizer's step: gradients, states, temporaries, and the gradients' norms."""
        left = 0 if self._accumulates else int(self.allocated[-1])
        trainable = sum(entry.count for entry in self.tape.residents if entry.trainable)
        return self.fixed_bytes + left + max(self.optimizer.step_bytes, trainable * _NORM_BYTES)

    def components_after(self, event: int) -> dict[str, int]:
        """Return what the allocated bytes after one event are for."""
        happened = self.tape.program.component[: event + 1]
        moved = np.bincount(happened, weights=self.deltas[: event + 1], minlength=len(COMPONENTS))
        return {name: self.fixed[name] + int(moved[index]) for index, name in enumerate(COMPONENTS)}

    def reserved(self) -> int:
        """Return the peak of what PyTorch's caching allocator reserves."""
        pool = LargePool()
        small = 0
        for resident in self.tape.residents:
            size = resident.bytes_each(self.plan.r)
            copies = resident.count * (3 if resident.trainable else 1)
            if size > SMALL_BYTES:
                for _ in range(copies):
                    pool.take(size)
            else:
                small += size * copies
        for _ in range(CUBLAS_WORKSPACES):
            workspace = cublas_workspace_bytes(self.gpu)
            if workspace:
                pool.take(workspace)
        program = self.tape.program
        large = self.sizes > SMALL_BYTES
        small_peak = int(np.cumsum(np.where(large, 0, self.deltas)).max(initial=0))
        chosen = np.flatnonzero(large)
        blocks: dict[int, int] = {}
        signs = program.sign[chosen].tolist()
        numbers = program.allocation[chosen].tolist()
        for sign, number, size in zip(signs, numbers, self.sizes[chosen].tolist(), strict=True):
            if sign > 0:
                blocks[number] = pool.take(size)
            else:
                pool.give(blocks.pop(number))
        return pool.peak_bytes + small_reserved_bytes(small + small_peak)

    @property
    def _accumulates(self) -> bool:
        return self.plan.gradient_accumulation_steps > 1

    @cached_property
    def _gradient_events(self) -> NDArray[np.bool_]:
        program = self.tape.program
        made: NDArray[np.bool_] = (program.component == GRADIENTS) & (program.sign > 0)
        return made
