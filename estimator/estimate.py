"""The estimate: bytes that a plan allocates, reserves and uses on a device, phase by phase, and whether it fits."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from estimator.replay.one_of_several import OneOfSeveral, replay_of
from estimator.replay.overhead import context_bytes, worker_bytes
from estimator.replay.replay import GRADIENTS, Replay
from estimator.replay.reservation import Circumstances, unpacked_bytes
from estimator.replay.streaming import streamed_bytes
from estimator.tape.chunks import PYTORCH
from estimator.tape.tape import COMPONENTS, Tape
from specs import MIB, TASK_TYPES, FinetunePlan, GpuSpec, gib
from specs.model import WITHOUT_ATTENTION

Verdict = Literal["fits", "tight", "does not fit"]

ERROR_BAND = (-0.08, 0.07)
"""Fractions by which a real run may use less or more, from the errors that ``make accuracy`` prints."""

TIMELINE_POINTS = 160
_NOTABLE_SHARE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is allocated at one moment of a step."""

    phase: str
    """load, forward, backward or optimizer."""
    position: float
    """From 0, the start of the phase, to 1, its end."""
    components: Mapping[str, int]
    """Bytes by component."""

    @property
    def allocated_bytes(self) -> int:
        """All bytes allocated."""
        return sum(self.components.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """The memory of one run on one device."""

    num_params: int
    """Parameters of the base model, tied weights counted once."""
    trainable_params: int
    peak_allocated_bytes: int
    """The most that tensors take at once: ``torch.cuda.max_memory_allocated``."""
    peak_reserved_bytes: int
    """The most that PyTorch holds, including its cache: ``torch.cuda.max_memory_reserved``."""
    used_bytes: int
    """What nvidia-smi shows: reserved memory and the CUDA context. On a CPU, the memory of the worker process."""
    host_bytes: int
    """RAM of the worker process."""
    phases: Mapping[str, int]
    """Peak allocated bytes while loading and in the forward pass, backward pass and optimizer step."""
    components: Mapping[str, int]
    """What ``used_bytes`` is made of at the peak."""
    verdict: Verdict
    error_band: tuple[float, float]
    """Fractions of ``used_bytes`` by which a real run may differ, down and up."""
    capacity_bytes: int
    """What the device can hand out."""
    warnings: tuple[str, ...]
    """What a person should know before starting the run."""
    assumptions: tuple[str, ...]
    """What the figures assume."""
    own_bytes: int
    """What of ``used_bytes`` earlier runs on the device taught: they used so much more than predicted, or less."""
    course: Callable[[], tuple[Moment, ...]] = field(repr=False, compare=False)
    """Replays the course of one step; a function, since tables of many plans do not need it."""

    @property
    def timeline(self) -> tuple[Moment, ...]:
        """The course of one step."""
        return self.course()

    @property
    def own_text(self) -> str:
        """What earlier runs on the device added to the prediction, in words; empty where that is next to nothing."""
        if abs(self.own_bytes) < MIB:
            return ""
        sign, more = ("+", "more") if self.own_bytes > 0 else ("-", "less")
        return f"On this device: {sign}{gib(abs(self.own_bytes))}, as your runs took {more} than predicted."

    @property
    def spare_bytes(self) -> int:
        """What is left on the device; negative if it does not fit."""
        return self.capacity_bytes - self.used_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values, without the timeline."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "course"}
        plain = {"phases": dict(self.phases), "components": dict(self.components)}
        return {**values, **plain, "spare_bytes": self.spare_bytes}


def estimate(
    tape: Tape, plan: FinetunePlan, gpu: GpuSpec, circumstances: Circumstances | None = None
) -> MemoryEstimate:
    """Return the memory of a plan on a device.

    Args:
        tape: The tape of the plan's model and method, from ``estimator.tape.library.tape_for``.
        plan: Decides batch, length, rank, optimizer and accumulation.
        gpu: The device.
        circumstances: How PyTorch reserves and transformers loads; None means as in LoRAFit's trainer.
    """
    replay = replay_of(tape, plan, gpu, circumstances)
    phases = replay.phases()
    peak = max(phases.values())
    reserved = peak + unpacked_bytes(tape, plan) if gpu.is_cpu else max(replay.reservation.reserved_bytes, peak)
    outside, in_ram = _shared_out(replay)
    host = worker_bytes() + replay.optimizer.paged_bytes + replay.waiting_bytes
    waiting = streamed_bytes(tape, plan) if plan.layer_offloading and not gpu.is_cpu else 0
    host += waiting
    beyond = worker_bytes() if gpu.is_cpu else context_bytes(gpu) + outside
    own = max(gpu.own_bytes, -beyond)
    used = reserved + beyond + own
    components = {
        **_components_at_peak(replay, phases),
        "cache": reserved - peak,
        "overhead": used - reserved,
    }
    return MemoryEstimate(
        num_params=tape.num_params,
        trainable_params=trainable_params(tape, plan),
        peak_allocated_bytes=peak,
        peak_reserved_bytes=reserved,
        used_bytes=used,
        host_bytes=(used if gpu.is_cpu else host) + in_ram,
        phases=phases,
        components=components,
        verdict=verdict(used, gpu.usable_bytes),
        error_band=ERROR_BAND,
        capacity_bytes=gpu.usable_bytes,
        own_bytes=own,
        warnings=(*_warnings(tape, plan), *_sharding_warnings(plan), *_ram_warnings(replay, waiting)),
        assumptions=(*_assumptions(tape, plan, replay.circumstances, gpu), *_sharding_assumptions(plan)),
        course=partial(_timeline, tape, plan, gpu),
    )


def peak_allocated_bytes(tape: Tape, plan: FinetunePlan, gpu: GpuSpec) -> int:
    """Return only the peak of allocated bytes, for tables of many plans."""
    return replay_of(tape, plan, gpu).peak_bytes


def trainable_params(tape: Tape, plan: FinetunePlan) -> int:
    """Return the number of weights that get a gradient."""
    return sum(entry.elements(plan.r) * entry.count for entry in tape.residents if entry.trainable)


def verdict(used_bytes: int, capacity_bytes: int, error_band: tuple[float, float] = ERROR_BAND) -> Verdict:
    """Return whether this many bytes fit on a device, given how far the estimate may be off."""
    if used_bytes > capacity_bytes:
        return "does not fit"
    return "tight" if used_bytes * (1 + error_band[1]) > capacity_bytes else "fits"


def _shared_out(replay: Replay) -> tuple[int, int]:
    """Return the bytes that sharing a model takes outside PyTorch on the device, and those it moves to RAM."""
    if not isinstance(replay, OneOfSeveral):
        return 0, 0
    return replay.held.outside_bytes, replay.held.host_bytes


def _sharding_assumptions(plan: FinetunePlan) -> tuple[str, ...]:
    if plan.num_gpus == 1:
        return ()
    found = f"The figures are for each of {plan.num_gpus:,} devices under {plan.sharding}."
    if plan.sharding != "fsdp" or plan.gradient_accumulation_steps == 1:
        return (found,)
    return (
        found,
        "Until the last batch of a step each device holds all gradients whole: accelerate defers the exchange.",
    )


def _sharding_warnings(plan: FinetunePlan) -> tuple[str, ...]:
    divides_weights = plan.sharding in {"zero3", "fsdp"}
    if divides_weights and plan.load_in_4bit and plan.bnb_4bit_quant_storage == "uint8":
        return (
            f"{plan.sharding} does not shard 4-bit weights packed as uint8: every GPU holds all of them; "
            "set bnb_4bit_quant_storage to the dtype of the other weights.",
        )
    return ()


def _ram_warnings(replay: Replay, layers_bytes: int) -> tuple[str, ...]:
    """Return what waits in RAM beside the device."""
    parts = (("the layers", layers_bytes), ("their inputs", replay.waiting_bytes))
    found = [f"{words} in {gib(num_bytes)}" for words, num_bytes in parts if num_bytes]
    return (f"RAM must have room for what waits there, pinned: {', '.join(found)}.",) if found else ()


def _components_at_peak(replay: Replay, phases: Mapping[str, int]) -> dict[str, int]:
    """Return what the peak is made of, in the phase where it occurs."""
    if max(phases, key=lambda name: phases[name]) in {"forward", "backward"}:
        components = replay.components_after(replay.peak_event())
        components["workspace"] += replay.slack_bytes
        return components
    components = replay.components_after(len(replay.deltas) - 1)
    components["workspace"] += max(phases.values()) - sum(components.values())
    return components


_LEFT = {
    "8bit": "in 8-bit only plain linear layers are quantized, in 4-bit stacked experts are too.",
    "4bit": "they belong to no linear layer or stack of experts, or the model's own code multiplies them.",
}


def _warnings(tape: Tape, plan: FinetunePlan) -> tuple[str, ...]:
    found = [str(text) for text in tape.facts.get("warnings", ())]
    left = int(tape.facts.get("unquantized_params", 0))
    if left > tape.num_params * _NOTABLE_SHARE and plan.quantization != "none":
        found.append(
            f"{left / 1e9:.1f} billion weights of the layers stay in 16-bit ({gib(2 * left)}): "
            + _LEFT["8bit" if plan.load_in_8bit else "4bit"]
        )
    return tuple(found)


def _length_assumption(plan: FinetunePlan) -> str:
    if plan.task_type == "SEQ_2_SEQ_LM":
        return "What the encoder reads and what the decoder writes have max_length tokens each."
    if TASK_TYPES[plan.task_type].embeds:
        return f"Each of the {plan.texts_per_row} texts of a row has max_length tokens."
    return "Every sequence has max_length tokens, and every token counts in the loss."


def _assumptions(tape: Tape, plan: FinetunePlan, circumstances: Circumstances, gpu: GpuSpec) -> tuple[str, ...]:
    conditions = tape.facts.get("conditions", {})
    segments = "expandable segments" if circumstances.expandable_segments else "segments of fixed size"
    reserves = f"PyTorch reserves memory in {segments} (expandable_segments in PYTORCH_ALLOC_CONF)."
    return (
        *(() if gpu.is_cpu else (reserves, *_emptied(plan))),
        _length_assumption(plan),
        *_attention_assumption(tape),
        *_recurrent_assumption(str(conditions.get("recurrent_kernels", "auto")), gpu),
        *_without_checkpointing(plan),
        "Traced with " + ", ".join(f"{name} {text}" for name, text in tape.facts.get("versions", {}).items()) + ".",
    )


def _emptied(plan: FinetunePlan) -> Iterator[str]:
    """Yield when what is unused goes back to the driver; the peak is that of the steps that keep it."""
    number = plan.torch_empty_cache_steps
    if number is not None:
        steps = "each step" if number == 1 else f"the first and every {number:,}th step after it"
        yield f"PyTorch's unused memory is given back before the backward pass of {steps}."


def _without_checkpointing(plan: FinetunePlan) -> Iterator[str]:
    """Yield which settings of the plan have no effect since nothing is recomputed."""
    if plan.gradient_checkpointing:
        return
    if plan.activation_offloading:
        yield "activation_offloading changes nothing without gradient_checkpointing."
    if plan.every_n_layers > 1:
        yield "every_n_layers changes nothing without gradient_checkpointing."


def _attention_assumption(tape: Tape) -> tuple[str, ...]:
    """Return in which kernel attention runs, for a model that has some."""
    if tape.facts.get("config", {}).get("model_type") in WITHOUT_ATTENTION:
        return ()
    kernel = tape.facts.get("conditions", {}).get("attention_kernel", "flash")
    return (f"Attention runs in the {kernel.replace('_', '-')} kernel.",)


def _recurrent_assumption(kernels: str, gpu: GpuSpec) -> tuple[str, ...]:
    """Return in which code recurrent layers run, for a model that has some."""
    if kernels == "auto":
        return ()
    if kernels == PYTORCH:
        return ("Recurrent layers run in transformers' PyTorch code.",)
    where = "are taken to be installed" if gpu.recurrent_packages is None else "are installed here"
    return (f"Recurrent layers run in the kernels of {kernels.replace('+', ' and ')}, which {where}.",)


def _timeline(tape: Tape, plan: FinetunePlan, gpu: GpuSpec) -> tuple[Moment, ...]:
    """Return the course of one step: of each stretch, the moment with the most memory."""
    replay = replay_of(tape, plan, gpu)
    program, total, width = replay.tape.program, len(replay.deltas), len(COMPONENTS)
    edges = np.unique(np.linspace(0, total, TIMELINE_POINTS + 1).astype(int))
    highest = [start + int(replay.allocated[start:stop].argmax()) for start, stop in pairwise(edges.tolist())]
    # What changes up to each of these moments, by component: the sums between moments, accumulated.
    stretch = np.searchsorted(highest, np.arange(total)) * width
    cells = (len(highest) + 1) * width
    moved = np.bincount(stretch + program.component, weights=replay.deltas, minlength=cells)
    moved -= np.bincount(stretch + GRADIENTS, weights=replay.merged, minlength=cells)
    fixed = np.array([replay.fixed[name] for name in COMPONENTS])
    course = (moved.reshape(-1, width).cumsum(axis=0) + fixed).astype(np.int64).tolist()
    moments = []
    for event, values in zip(highest, course[:-1], strict=True):
        forward = event < program.forward_events
        first, last = (0, program.forward_events) if forward else (program.forward_events, total)
        moments.append(
            Moment(
                phase="forward" if forward else "backward",
                position=(event - first) / max(1, last - first),
                components=dict(zip(COMPONENTS, values, strict=True)),
            )
        )
    return tuple(moments)
