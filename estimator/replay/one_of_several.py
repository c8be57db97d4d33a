"""Replays the step of one of several GPUs: what it gathers, reduces and holds, phase by phase."""

from dataclasses import dataclass, replace
from functools import cached_property

from estimator.replay.optimizer import OptimizerMemory, optimizer_memory
from estimator.replay.replay import Replay
from estimator.replay.reservation import Circumstances
from estimator.replay.sharding import (
    Replica,
    Share,
    Unit,
    computed_itemsize,
    gathered_bytes,
    is_packed,
    replica,
    share,
    trained_itemsize,
)
from estimator.replay.streaming import streamed
from estimator.tape.divided import Gathering, Row, divided
from estimator.tape.tape import Resident, Tape
from specs import FinetunePlan, GpuSpec

_FLOAT = 4

FSDP_2 = Gathering(
    embedding=2, layer_forward=2, layer_backward=2, layer_at_turn=1, tail=2, reduces=True, copies_gradients=True
)
"""A gathered unit and the buffer it came in; in the backward pass the buffer of the next one, fetched ahead.

Source: torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py (2.13), ``wait_for_unshard``, ``_backward_prefetch``
and ``reduce_scatter_states``; the units are those of accelerate/utils/fsdp_utils.py, fsdp2_prepare_model (1.15)."""

FSDP_1 = Gathering(
    root=True, layer_forward=1, layer_backward=2, layer_at_turn=1, reduces=True, root_gradients_last=True
)
"""The root stays gathered from the start to the end; in the backward pass the next layer is fetched ahead.

Source: torch/distributed/fsdp/_runtime_utils.py (2.4), ``_post_forward_reshard`` and ``_prefetch_handle``."""

FSDP_1_REENTRANT = replace(FSDP_1, layer_backward=1)
"""With reentrant checkpointing the first pass runs without gradients and leaves no hook that would fetch ahead."""

FSDP_1_REENTRANT_FROZEN = replace(FSDP_1_REENTRANT, keeps_inputs=True)
"""A layer whose weights are frozen waits for the gradient of its input: the hook keeps the node of the detached input,
and so the input and its gradient, until the backward pass ends. Source: ``_register_post_backward_reshard_only_hook``
and torch/autograd/graph.py, register_multi_grad_hook (2.4)."""

ZERO = Gathering(reduces=True)
"""Stages 2 and 3 reduce gradients bucket by bucket; the bucket and the live parameters of stage 3 are constants."""


def replay_of(tape: Tape, plan: FinetunePlan, gpu: GpuSpec, circumstances: Circumstances | None = None) -> Replay:
    """Return the replay of a plan's step on its device, or on one of its devices.

    Args:
        tape: The tape of one device that holds everything.
        plan: Decides batch, length, rank, optimizer, and how several devices share the model.
        gpu: The device.
        circumstances: How PyTorch reserves and transformers loads; None means as in LoRAFit's trainer.
    """
    around = circumstances or Circumstances()
    if plan.num_gpus == 1:
        one = streamed(tape, plan, on_cpu=gpu.is_cpu) if plan.layer_offloading else tape
        return Replay(one, plan, gpu, around)
    model = replica(tape, plan)
    held = share(model, plan)
    return OneOfSeveral(_divided_tape(tape, model, plan, around), plan, gpu, around, model=model, held=held)


@dataclass(frozen=True, kw_only=True)
class OneOfSeveral(Replay):
    """The replay of one of several devices."""

    model: Replica
    """What the devices share."""
    held: Share
    """What one of them holds."""

    @cached_property
    def fixed(self) -> dict[str, int]:
        """Bytes by component that stay allocated during the whole step, from the second step on."""
        held = dict(self.held.components)
        gradients = held.pop("gradients")
        fixed = {**super().fixed, **held, "gradients": 0}
        fixed["workspace"] = super().fixed["workspace"] + held["workspace"]
        if self._accumulates:
            # accelerate's no_sync leaves FSDP's gradients whole until the last batch; DeepSpeed reduces each batch.
            fixed["gradients"] = self.gradient_bytes if self.plan.sharding in {"fsdp", "ddp"} else gradients
        return fixed

    @cached_property
    def optimizer(self) -> OptimizerMemory:
        """The memory of the optimizer."""
        found = optimizer_memory(self.plan, self.tape.residents)
        return replace(found, state_bytes=self.held.components["optimizer_states"])

    def _fixed_at_step(self) -> int:
        return self.fixed_bytes - self.fixed["gradients"]

    def _left_bytes(self) -> int:
        return self.held.components["gradients"]

    def load_bytes(self) -> int:
        """Return the peak while the model loads: one device's part, and the largest unit before it is divided."""
        at_rest = sum(self.fixed[name] for name in ("weights", "quantization_constants"))
        units = (*self.model.layers.values(), self.model.embedding, self.model.tail)
        itemsize = trained_itemsize(self.model, self.plan)
        largest = max(gathered_bytes(unit, itemsize) for unit in units)
        return at_rest + (largest if self.plan.sharding in {"zero3", "fsdp"} else 0)


def _divided_tape(tape: Tape, model: Replica, plan: FinetunePlan, circumstances: Circumstances) -> Tape:
    """Return the tape of one device: its events, their sizes, and its part of the tensors."""
    itemsize = computed_itemsize(model, plan)
    units = {"embedding": model.embedding, "tail": model.tail}

    def whole_bytes(row: Row) -> int:
        if row.what == "root":
            return gathered_bytes(model.embedding, itemsize) + gathered_bytes(model.tail, itemsize)
        unit: Unit = model.layers[int(row.key)] if row.what == "layer" else units[row.what]
        return gathered_bytes(unit, itemsize)

    stored = trained_itemsize(model, plan)

    def part(num_bytes: int) -> int:
        on_device = 0 if plan.offload == "all" or plan.offload == "optimizer" else num_bytes
        return -(-on_device * stored // (itemsize * plan.num_gpus))

    how = _gathering(plan, circumstances)
    if not gathered_bytes(model.embedding, itemsize):  # it is part of the tail
        how = replace(how, embedding=0)
    found = divided(tape, how).filled(plan.r, whole_bytes, part, itemsize / model.trained_itemsize)
    return found.with_sizes(found.sizes, _residents(tape, model, plan))


def _gathering(plan: FinetunePlan, circumstances: Circumstances) -> Gathering:
    """Return what a plan's strategy gathers and gives away during a step."""
    if plan.sharding in {"ddp", "zero1"}:
        return Gathering()
    if plan.sharding != "fsdp":
        return ZERO
    if circumstances.fsdp_version == 2:
        found = FSDP_2
    elif not (plan.gradient_checkpointing and plan.use_reentrant):
        found = FSDP_1
    else:
        found = FSDP_1_REENTRANT if plan.method == "full" else FSDP_1_REENTRANT_FROZEN
    # accelerate's no_sync: gradients are whole until the last batch of a step.
    return found if plan.gradient_accumulation_steps == 1 else replace(found, reduces=False)


def _residents(tape: Tape, model: Replica, plan: FinetunePlan) -> tuple[Resident, ...]:
    """Return one device's tensors: its part of what the strategy divides, and a copy of the rest."""
    if plan.sharding == "ddp":
        return tape.residents
    divides_weights = plan.sharding in {"zero3", "fsdp"}
    stored = trained_itemsize(model, plan)
    found = []
    for entry in tape.residents:
        divisible = divides_weights and entry.is_parameter and not is_packed(entry, plan)
        if divisible and plan.offload == "all":
            continue  # its part lies in RAM
        parts = plan.num_gpus if divisible else 1
        found.append(
            replace(
                entry,
                num_elements=-(-entry.elements(plan.r) // parts),
                num_elements_per_rank=0,
                itemsize=stored if entry.trainable else entry.itemsize,
                trainable=entry.trainable and plan.sharding == "fsdp",
            )
        )
    if plan.sharding.startswith("zero") and plan.offload == "none":
        found.append(_master(model, plan))
    return tuple(found)


def _master(model: Replica, plan: FinetunePlan) -> Resident:
    """Return the 32-bit copy of one device's part of the trained weights, which DeepSpeed's optimizer works on."""
    return Resident(
        component="optimizer_states",
        num_elements=-(-model.trained_params // plan.num_gpus),
        num_elements_per_rank=0,
        itemsize=_FLOAT,
        trainable=True,
        count=1,
        is_parameter=False,
    )
