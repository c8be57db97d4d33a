"""What plans need: the memory of a plan for a model on a GPU, and how many GPUs it takes.

The tape comes from ``estimator.tape.library``, which may have to trace it first.
"""

from dataclasses import replace

from estimator.estimate import MemoryEstimate, estimate, peak_allocated_bytes
from estimator.replay.overhead import context_bytes, worker_bytes
from estimator.replay.reservation import Circumstances
from estimator.replay.sharding import gpus_needed as smallest_number
from estimator.replay.sharding import on_each_gpu, replica, share, with_unlimited_memory
from estimator.tape.kernels import fallback_warning, kernel_choice
from estimator.tape.library import tape_for
from estimator.tape.recipe import is_masked
from estimator.tape.tracer_process import Progress
from specs import FinetunePlan, GpuSpec, ModelSpec
from specs.fields import Sharding


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
    return replace(found, warnings=(*found.warnings, *(text for text in added if text is not None)))


def least_used_bytes(model: ModelSpec, plan: FinetunePlan, gpu: GpuSpec, *, progress: Progress | None = None) -> int:
    """Return bytes that a plan certainly uses, without the replay of the allocator that makes ``price`` slow.

    Leaves out the allocator's cache; returns 0 for strategies that shard the model.

    Raises:
        LorafitError: If the model cannot be built or traced.
    """
    if plan.sharding not in {"none", "ddp"}:
        return 0
    allocated = peak_allocated_bytes(tape_for(model, plan, progress=progress, gpu=gpu), plan, gpu)
    return allocated + _overhead_bytes(gpu)


def gpus_needed(model: ModelSpec, plan: FinetunePlan, gpu: GpuSpec, *, progress: Progress | None = None) -> int | None:
    """Return how many of these cards a plan needs; None if no number of them suffices.

    A plan without a strategy for several GPUs is sharded by FSDP.

    Raises:
        LorafitError: If the model cannot be built or traced.
    """
    several = strategy(plan)
    one = replace(plan, num_gpus=1, sharding="none", offload="none")
    tape = tape_for(model, one, progress=progress, gpu=gpu)
    alone = estimate(tape, one, gpu if several == "ddp" else with_unlimited_memory(gpu))
    components = {**alone.components, "overhead": _overhead_bytes(gpu)}
    whole = replica(tape, one)

    def used_on_each(num_gpus: int) -> int:
        if num_gpus == 1:
            least = least_used_bytes(model, one, gpu)
            return least if least > gpu.usable_bytes else estimate(tape, one, gpu).used_bytes
        held = share(whole, replace(plan, num_gpus=num_gpus, sharding=several))
        return sum(on_each_gpu(components, whole, held).values())

    return smallest_number(used_on_each, gpu.usable_bytes)


def strategy(plan: FinetunePlan) -> Sharding:
    """Return the strategy of a plan on several cards: its own, or FSDP if it has none."""
    return plan.sharding if plan.sharding != "none" else "fsdp"


def _overhead_bytes(gpu: GpuSpec) -> int:
    return worker_bytes() if gpu.is_cpu else context_bytes(gpu)


def _length_warning(model: ModelSpec, plan: FinetunePlan) -> str | None:
    limit = model.max_position_embeddings
    if limit is None or plan.max_length <= limit:
        return None
    return f"{model.name} was made for {limit:,} tokens, fewer than max_length {plan.max_length:,}: shorten max_length."
