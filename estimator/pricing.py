"""What plans need: the memory of a plan for a model on a GPU, and how many GPUs it takes.

The tape comes from ``estimator.tape.library``, which may have to trace it first.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from estimator.estimate import MemoryEstimate, estimate, peak_allocated_bytes, verdict
from estimator.replay.overhead import context_bytes, worker_bytes
from estimator.replay.reservation import Circumstances
from estimator.replay.sharding import gpus_needed as smallest_number
from estimator.tape.kernels import fallback_warning, kernel_choice
from estimator.tape.library import tape_for
from estimator.tape.recipe import is_masked
from estimator.tape.tracer_process import Progress
from specs import CatalogError, FinetunePlan, GpuSpec, ModelSpec
from specs.fields import Sharding
from specs.stored import EXPANDED, stored_in

_BYTES_EXPANDED = 2
"""Bytes of a weight in 16 bit."""


def price(
    model: ModelSpec,
    plan: FinetunePlan,
    gpu: GpuSpec,
    *,
    progress: Progress | None = None,
    circumstances: Circumstances | None = None,
) -> MemoryEstimate:
    """Return the memory of a plan for a model on a card.

    Args:
        model: The base model.
        plan: The plan.
        gpu: The card.
        progress: Told what is happening while a trace runs.
        circumstances: How PyTorch reserves and transformers loads; None means as in LoRAFit's trainer.

    Raises:
        LorafitError: If the model cannot be built or traced.
    """
    found = estimate(tape_for(model, plan, progress=progress, gpu=gpu), plan, gpu, circumstances)
    choice = kernel_choice(model, plan, gpu, masked=is_masked(plan))
    added = (fallback_warning(choice, model, plan), _length_warning(model, plan))
    found = replace(found, warnings=(*found.warnings, *(text for text in added if text is not None), *model.notes))
    return _with_loading(found, model, gpu)


def plan_for(model: ModelSpec, name: str, method: str, values: Mapping[str, Any]) -> FinetunePlan:
    """Return the plan that some of its fields make for a model; the others are as PEFT and TRL have them.

    Where nobody says, it is for text generation if the model can do that, several cards hold the model each (DDP), and
    the length is no more than the model was made for.

    Args:
        model: The base model.
        name: How the plan names it.
        method: The method.
        values: Fields of the plan.

    Raises:
        PlanError: If the method or a field is unknown, or they contradict each other.
        CatalogError: If the length is more than the model was made for.
    """
    usual = "CAUSAL_LM" if not model.task_types else model.task_types[0]
    kept, number = {"task_type": usual, **values}, values.get("num_gpus")
    if isinstance(number, int) and number > 1:
        kept.setdefault("sharding", "ddp")
    limit, length = model.max_position_embeddings, values.get("max_length")
    if limit is not None and isinstance(length, int) and length > limit:
        way_out = "Shorten max_length or choose a model made for longer sequences"
        raise CatalogError("max_length", f"{model.name} was made for at most {limit:,} tokens", length, way_out)
    task = {"task_type": kept["task_type"]} if isinstance(kept["task_type"], str) else {}
    bare = FinetunePlan.for_method(method, name, **task)
    plan = FinetunePlan.from_dict({**bare.to_dict(), **kept})
    chosen = plan.with_sharding(plan.sharding, fixed=values)
    return chosen if limit is None else replace(chosen, max_length=min(plan.max_length, limit))


def _with_loading(found: MemoryEstimate, model: ModelSpec, gpu: GpuSpec) -> MemoryEstimate:
    """Return an estimate with the RAM of a checkpoint that is expanded to 16 bit there before it is quantized anew."""
    if stored_in(model.config) not in EXPANDED:
        return found
    loading = _BYTES_EXPANDED * found.num_params + worker_bytes()
    if not gpu.is_cpu:
        return replace(found, host_bytes=max(found.host_bytes, loading))
    used = max(found.used_bytes, loading)
    more = {"cache": found.components["cache"] + used - found.used_bytes}
    return replace(
        found,
        used_bytes=used,
        host_bytes=used,
        components={**found.components, **more},
        verdict=verdict(used, gpu.usable_bytes),
    )


def least_used_bytes(model: ModelSpec, plan: FinetunePlan, gpu: GpuSpec, *, progress: Progress | None = None) -> int:
    """Return bytes that a plan certainly uses, without the replay of the allocator that makes ``price`` slow.

    Leaves out the allocator's cache.

    Raises:
        LorafitError: If the model cannot be built or traced.
    """
    allocated = peak_allocated_bytes(tape_for(model, plan, progress=progress, gpu=gpu), plan, gpu)
    return allocated + _overhead_bytes(gpu)


def gpus_needed(
    model: ModelSpec,
    plan: FinetunePlan,
    gpu: GpuSpec,
    *,
    spread: Callable[[FinetunePlan, int], FinetunePlan] | None = None,
    progress: Progress | None = None,
) -> int | None:
    """Return how many of these cards a plan needs; None if no number of them suffices.

    Args:
        model: The base model.
        plan: The plan.
        gpu: The card.
        spread: Returns the plan on several cards; None keeps all that one card has, and shards a plan without a
            strategy by FSDP.
        progress: Told what is happening while a trace runs.

    Raises:
        LorafitError: If the model cannot be built or traced.
    """
    one = replace(plan, num_gpus=1, sharding="none", offload="none")
    tape = tape_for(model, one, progress=progress, gpu=gpu)

    def used_on_each(num_gpus: int) -> int:
        each = one if num_gpus == 1 else (spread or on_several)(plan, num_gpus)
        least = peak_allocated_bytes(tape, each, gpu) + _overhead_bytes(gpu)
        return least if least > gpu.usable_bytes else estimate(tape, each, gpu).used_bytes

    return smallest_number(used_on_each, gpu.usable_bytes)


def strategy(plan: FinetunePlan) -> Sharding:
    """Return the strategy of a plan on several cards: its own, or FSDP if it has none."""
    return plan.sharding if plan.sharding != "none" else "fsdp"


def on_several(plan: FinetunePlan, num_gpus: int) -> FinetunePlan:
    """Return a plan on several cards, which hold all layers themselves."""
    return plan.with_sharding(strategy(plan), num_gpus=num_gpus, layer_offloading=False)


def _overhead_bytes(gpu: GpuSpec) -> int:
    beyond = worker_bytes() if gpu.is_cpu else context_bytes(gpu)
    return beyond + max(gpu.own_bytes, -beyond)


def _length_warning(model: ModelSpec, plan: FinetunePlan) -> str | None:
    limit = model.max_position_embeddings
    if limit is None or plan.max_length <= limit:
        return None
    return f"{model.name} was made for {limit:,} tokens, fewer than max_length {plan.max_length:,}: shorten max_length."
