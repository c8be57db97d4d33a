"""What each of several GPUs holds under DDP, ZeRO-1/2/3 or FSDP2, with or without offload to the host."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from estimator.replay.optimizer import optimizer_memory
from estimator.tape.tape import Resident, Tape
from specs import MIB, FinetunePlan

MOST_GPUS = 16_384
"""The most GPUs that ``gpus_needed`` considers; Llama 3.1 405B was trained on as many, arXiv:2407.21783."""

NCCL_BYTES = 2 * 32 * 4 * MIB
"""An upper bound for what NCCL holds outside PyTorch: two buffers of 4 MiB on each of up to 32 channels.

Source: https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html, NCCL_BUFFSIZE and NCCL_MAX_CTAS."""

# stage3_max_live_parameters and the share of hidden_size that keeps small parameters whole: deepspeed/runtime/zero/
# config.py, and the ``auto`` values of transformers/integrations/deepspeed.py (5.23).
_MAX_LIVE_PARAMS = 1_000_000_000
_PERSISTENT_HIDDEN_SIZES = 10

_HALF, _FLOAT = 2, 4
_BOUNDLESS_BYTES = 2**50


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Parameters that are gathered together: one decoder layer, or the output head."""

    frozen_bytes: int
    trained_params: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One whole model with its adapter and optimizer, as a single GPU would hold it, before sharding."""

    frozen: Mapping[str, int]
    """Bytes of the frozen parameters, by component."""
    trained: Mapping[str, int]
    """Elements of the trained parameters, by component."""
    trained_itemsize: int
    """Bytes of one trained element."""
    whole: Mapping[str, int]
    """Bytes that no strategy shards, by component: quantization constants, buffers, weights packed as integers."""
    persistent_bytes: int
    """Bytes of parameters that ZeRO-3 considers too small to shard."""
    optimizer_bytes: int
    states_follow_weights: bool
    """Whether the optimizer's states have the dtype of the weights, as in PyTorch's own optimizers."""
    layers: Mapping[int, Unit]
    """A decoder layer of each traced kind."""
    embedding: Unit
    """The input embedding; empty if it is the output head as well."""
    tail: Unit
    """The output head with the smaller parameters outside the layers, which FSDP2 keeps gathered between the passes."""
    hidden_size: int

    @property
    def layer(self) -> Unit:
        """The largest decoder layer."""
        return max(self.layers.values(), key=unit_size)

    @property
    def trained_params(self) -> int:
        """Elements of all trained parameters."""
        return sum(self.trained.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one GPU holds of a replica, and what its process holds in RAM."""

    components: Mapping[str, int]
    """Bytes on the GPU by component of the estimate; buffers and gathered parameters count as workspace."""
    outside_bytes: int
    """Bytes on the GPU outside PyTorch, used by NCCL."""
    host_bytes: int
    """Bytes in RAM per GPU."""

    @property
    def num_bytes(self) -> int:
        """All bytes on the GPU."""
        return sum(self.components.values()) + self.outside_bytes


def replica(tape: Tape, plan: FinetunePlan) -> Replica:
    """Return the replica that a plan's strategy shards, from the tensors of its tape."""
    divisible = [entry for entry in tape.residents if entry.is_parameter and not is_packed(entry, plan)]
    whole = [entry for entry in tape.residents if not entry.is_parameter or is_packed(entry, plan)]
    trained = [entry for entry in divisible if entry.trainable]
    outside = [entry for entry in divisible if entry.layer is None]
    hidden_size = min(entry.elements(plan.r) for entry in outside)  # that of the last norm
    small = _PERSISTENT_HIDDEN_SIZES * hidden_size
    embedding, tail = outer_units(outside, plan.r)
    return Replica(
        frozen=_by_component(divisible, plan.r, trainable=False),
        trained=_by_component(divisible, plan.r, trainable=True),
        trained_itemsize=max((entry.itemsize for entry in trained), default=_FLOAT),
        whole=_by_component(whole, plan.r, trainable=False),
        persistent_bytes=sum(_num_bytes(entry, plan.r) for entry in divisible if entry.elements(plan.r) <= small),
        optimizer_bytes=optimizer_memory(plan, tape.residents).state_bytes,
        states_follow_weights=plan.optim in {"adamw_torch", "adamw_torch_fused"},
        layers={
            kind: _unit([entry for entry in divisible if entry.layer == kind], plan.r, tape.layers.count(kind))
            for kind in dict.fromkeys(tape.layers)
        },
        embedding=embedding,
        tail=tail,
        hidden_size=hidden_size,
    )


def share(model: Replica, plan: FinetunePlan) -> Share:
    """Return what each of a plan's GPUs holds besides activations, and what its process holds in RAM.

    Args:
        model: The replica to shard.
        plan: Decides strategy, number of GPUs, offload, and mixed precision.
    """
    if plan.sharding == "fsdp":
        return _fsdp(model, plan)
    if plan.sharding.startswith("zero"):
        return _zero(model, plan)
    return _data_parallel(model, plan)


def gpus_needed(bytes_on_each: Callable[[int], int], usable_bytes: int, *, most: int = MOST_GPUS) -> int | None:
    """Return the smallest number of GPUs on which a plan fits; None if no number of them suffices.

    Args:
        bytes_on_each: The bytes on each GPU, by the number of GPUs; never grows from two GPUs on.
        usable_bytes: What one GPU can hold.
        most: The largest number to consider.
    """
    if bytes_on_each(1) <= usable_bytes:
        return 1
    if most < 2 or bytes_on_each(most) > usable_bytes:
        return None
    too_few, enough = 1, most
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if bytes_on_each(middle) <= usable_bytes:
            enough = middle
        else:
            too_few = middle
    return enough


def _data_parallel(model: Replica, plan: FinetunePlan) -> Share:
    """Everything on each GPU, and with DDP a second copy of the gradients in the buckets that are reduced.

    Source: torch/nn/parallel/distributed.py, ``gradient_as_bucket_view`` (off in accelerate 1.15): turning it on
    would save that copy.
    """
    itemsize = model.trained_itemsize
    gradients = model.trained_params * itemsize
    several = plan.sharding == "ddp"
    return Share(
        components=_components(
            _summed(model.frozen, _scaled(model.trained, itemsize), model.whole),
            gradients=gradients,
            optimizer_states=model.optimizer_bytes,
            workspace=gradients if several else 0,
        ),
        outside_bytes=NCCL_BYTES if several else 0,
        host_bytes=0,
    )


def _zero(model: Replica, plan: FinetunePlan) -> Share:
    """DeepSpeed's stages shard the optimizer, gradients and parameters in turn, with 32-bit copies of trained weights.

    Source: Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054; deepspeed/runtime/zero/stage_1_and_2.py
    (``single_partition_of_fp32_groups``, ``ipg_buffer``) and stage3.py; bucket of hidden_size² elements, the ``auto``
    of transformers/integrations/deepspeed.py.
    """
    gpus, stage = plan.num_gpus, int(plan.sharding[-1])
    itemsize = trained_itemsize(model, plan)
    weights = _summed(model.frozen, _scaled(model.trained, itemsize))
    gradients = model.trained_params * itemsize
    master = _FLOAT * _shard(model.trained_params, gpus) + _state_bytes(model, _FLOAT, gpus)
    workspace, host = model.hidden_size**2 * itemsize, 0
    if stage == 3:
        live = min(sum(weights.values()), _MAX_LIVE_PARAMS * _HALF)
        workspace += live
        weights, host = _shards(weights, plan)
        weights = _summed(weights, {"weights": model.persistent_bytes})
    if stage >= 2:
        gradients = _shard(gradients, gpus)
    if plan.offload != "none":
        # Gradients go to the host in 32-bit as they are computed; only those of one layer are on the GPU.
        host += master + _FLOAT * _shard(model.trained_params, gpus)
        master, gradients = 0, model.layer.trained_params * itemsize
    return Share(
        components=_components(
            _summed(weights, model.whole), gradients=gradients, optimizer_states=master, workspace=workspace
        ),
        outside_bytes=NCCL_BYTES,
        host_bytes=host,
    )


def _fsdp(model: Replica, plan: FinetunePlan) -> Share:
    """FSDP shards parameters, gradients and optimizer; what it gathers for a while is part of the step's events.

    Source: accelerate/utils/fsdp_utils.py, fsdp2_prepare_model (1.15): trained weights in 32-bit under mixed precision.
    """
    gpus = plan.num_gpus
    itemsize = trained_itemsize(model, plan)
    weights, host = _shards(_summed(model.frozen, _scaled(model.trained, itemsize)), plan)
    gradients = _shard(model.trained_params * itemsize, gpus)
    states = _state_bytes(model, itemsize, gpus)
    if plan.offload == "all":
        host += gradients + states
        gradients = states = 0
    return Share(
        components=_components(
            _summed(weights, model.whole), gradients=gradients, optimizer_states=states, workspace=0
        ),
        outside_bytes=NCCL_BYTES,
        host_bytes=host,
    )


def trained_itemsize(model: Replica, plan: FinetunePlan) -> int:
    """Return the bytes of a trained weight as one device stores its part of it."""
    if plan.sharding.startswith("zero"):
        # The engine casts the whole module to the dtype of mixed precision, the adapter included.
        return _HALF if plan.autocast_dtype else model.trained_itemsize
    raised = plan.sharding == "fsdp" and plan.autocast_dtype is not None and plan.quantization == "none"
    return _FLOAT if raised else model.trained_itemsize


def computed_itemsize(model: Replica, plan: FinetunePlan) -> int:
    """Return the bytes of a trained weight, and of its gradient, as the passes use them."""
    mixed = plan.sharding == "fsdp" and plan.autocast_dtype is not None
    return _HALF if mixed else trained_itemsize(model, plan)


def _components(weights: Mapping[str, int], *, gradients: int, optimizer_states: int, workspace: int) -> dict[str, int]:
    return {**weights, "gradients": gradients, "optimizer_states": optimizer_states, "workspace": workspace}


def _shards(weights: Mapping[str, int], plan: FinetunePlan) -> tuple[dict[str, int], int]:
    """Return one GPU's shard of the parameters, and the bytes of it that are in RAM instead."""
    sharded = {name: _shard(num_bytes, plan.num_gpus) for name, num_bytes in weights.items()}
    if plan.offload != "all":
        return sharded, 0
    return dict.fromkeys(sharded, 0), sum(sharded.values())


def _state_bytes(model: Replica, itemsize: int, gpus: int) -> int:
    """Return one GPU's shard of the optimizer states, for trained weights with this many bytes per element."""
    factor = itemsize / model.trained_itemsize if model.states_follow_weights else 1
    return _shard(round(model.optimizer_bytes * factor), gpus)


def gathered_bytes(unit: Unit, itemsize: int) -> int:
    """Return the bytes of a unit with this many bytes for each trained weight."""
    return unit.frozen_bytes + unit.trained_params * itemsize


def _shard(total: int, gpus: int) -> int:
    return -(-total // gpus)


def is_packed(entry: Resident, plan: FinetunePlan) -> bool:
    """Return whether weights are packed as integers, which FSDP and ZeRO-3 do not shard; accelerate warns about it."""
    return entry.itemsize == 1 and plan.quantization != "none"


def _num_bytes(entry: Resident, rank: int) -> int:
    return entry.elements(rank) * entry.itemsize * entry.count


def _by_component(entries: list[Resident], rank: int, *, trainable: bool) -> dict[str, int]:
    """Return the bytes of frozen tensors, or the elements of trained ones, by component."""
    found: dict[str, int] = {}
    for entry in entries:
        if entry.trainable == trainable:
            size = entry.elements(rank) * entry.count if trainable else _num_bytes(entry, rank)
            found[entry.component] = found.get(entry.component, 0) + size
    return found


def outer_units(outside: list[Resident], rank: int) -> tuple[Unit, Unit]:
    """Return the input embedding, empty if it is the output head as well, and all else outside the layers."""
    single = [replace(entry, count=1) for entry in outside for _ in range(entry.count)]
    single.sort(key=lambda entry: entry.elements(rank), reverse=True)
    untied = len(single) > 1 and single[0].elements(rank) == single[1].elements(rank)
    return _unit(single[:untied], rank, 1), _unit(single[untied:], rank, 1)


def _unit(entries: list[Resident], rank: int, copies: int) -> Unit:
    """Return one of several identical units, from the tensors of all of them."""
    return Unit(
        frozen_bytes=sum(_by_component(entries, rank, trainable=False).values()) // copies,
        trained_params=sum(_by_component(entries, rank, trainable=True).values()) // copies,
    )


def unit_size(unit: Unit) -> int:
    """Return the bytes of a unit whose trained weights are gathered in 16 bit."""
    return unit.frozen_bytes + _HALF * unit.trained_params


def _scaled(elements: Mapping[str, int], itemsize: int) -> dict[str, int]:
    return {name: number * itemsize for name, number in elements.items()}


def _summed(*parts: Mapping[str, int]) -> dict[str, int]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0) for part in parts) for name in names}
