"""The model to trace: built by the trainer's own code, cut to a few layers of each kind, its tensors made fake."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from trl.trainer.utils import add_fused_lm_head

from estimator.conditions import Conditions
from specs import FinetunePlan, TraceError
from trainer import model as trainer_model


@dataclass(frozen=True, slots=True)
class TracedModel:
    """A model on fake tensors, and how its few layers stand for all."""

    module: nn.Module
    layers: nn.ModuleList
    kinds: tuple[int, ...]
    """For each layer of the whole model the traced layer that it behaves like."""
    num_params: int
    """Parameters of the whole base model, tied weights once."""
    unquantized_params: int
    """Weights of the layers that bitsandbytes leaves in 16 bit though the plan quantizes."""


def traced_model(
    plan: FinetunePlan, config: dict[str, Any], conditions: Conditions, mode: FakeTensorMode
) -> TracedModel:
    """Return the model of a plan with its tensors fake and its layers cut to those that differ.

    Raises:
        SpecError: If transformers does not know the architecture.
        PlanError: If a target module does not exist.
        TraceError: If the decoder layers cannot be found.
    """
    base = trainer_model.base_model(plan, config, device=trainer_model.META)
    num_params = sum(_num_params(base))
    layers = decoder_layers(base)
    chosen, kinds = _chosen_layers([_kind(base, layers, number) for number in range(len(layers))])
    unquantized = _unquantized_params(layers) if plan.quantization != "none" else 0
    _cut(base, layers, chosen)
    prepared = trainer_model.with_checkpointing(trainer_model.prepared_base(base, plan), plan)
    if conditions.embeddings_cast_back:
        prepared.get_input_embeddings().to(torch.bfloat16)
        prepared.get_output_embeddings().to(torch.bfloat16)
    if plan.loss == "chunked":
        add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
    module = trainer_model.with_adapter(prepared, plan).train()
    _make_fake(module, mode)
    return TracedModel(module, layers, kinds, num_params, unquantized)


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the list of decoder layers: the longest list of modules with weights."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    found = max(lists, key=len, default=None)
    if found is None or not len(found):
        raise TraceError(type(model).__name__, "has no list of decoder layers", None, "Choose a decoder-only model")
    return found


def _num_params(model: nn.Module) -> Iterator[int]:
    """Yield the parameters of each distinct tensor, unpacked."""
    packed = {
        id(module.weight): module.in_features * module.out_features
        for module in model.modules()
        if isinstance(module, Linear4bit)
    }
    for parameter in model.parameters():
        yield packed.get(id(parameter), parameter.numel())


def _kind(model: nn.Module, layers: nn.ModuleList, number: int) -> tuple[Any, ...]:
    """Return what makes one layer behave unlike another: its attention type, its modules and their shapes."""
    layer = layers[number]
    layer_types = getattr(model.config, "layer_types", None)
    shapes = tuple((name, tuple(parameter.shape), parameter.dtype) for name, parameter in layer.named_parameters())
    modules = tuple(type(module).__name__ for module in layer.modules())
    return (layer_types[number] if layer_types else None, modules, shapes)


def _chosen_layers(kinds: list[tuple[Any, ...]]) -> tuple[list[int], tuple[int, ...]]:
    """Return the layers to trace, and for each layer which of them it behaves like.

    First and last behave unlike the others of their kind; of each kind in between, the first stands for all.
    """
    if len(kinds) <= 3:
        return list(range(len(kinds))), tuple(range(len(kinds)))
    first_of: dict[tuple[Any, ...], int] = {}
    for number, kind in enumerate(kinds[1:-1], start=1):
        first_of.setdefault(kind, number)
    chosen = [0, *sorted(first_of.values()), len(kinds) - 1]
    position = {number: index for index, number in enumerate(chosen)}
    middle = [position[first_of[kind]] for kind in kinds[1:-1]]
    return chosen, (0, *middle, len(chosen) - 1)


def _cut(model: nn.Module, layers: nn.ModuleList, chosen: list[int]) -> None:
    """Keep only the chosen layers, in the module and in the configuration."""
    config = model.config
    total = len(layers)
    kept = [layers[number] for number in chosen]
    del layers[:]
    layers.extend(kept)
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == total:
            setattr(config, name, [value[number] for number in chosen])
    config.num_hidden_layers = len(chosen)


def _unquantized_params(layers: nn.ModuleList) -> int:
    """Return the weights that are no plain linear layers, such as stacked experts: bitsandbytes leaves them alone."""
    weights = (parameter for layer in layers for parameter in layer.parameters() if parameter.dim() > 1)
    return sum(
        weight.numel() for weight in weights if weight.is_floating_point() and not hasattr(weight, "quant_state")
    )


def _make_fake(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replace the meta tensors by fake CPU tensors; tied ones stay tied."""
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        return FakeTensor(mode, meta, torch.device("cpu"))

    def once(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            new = fake(tensor.detach())
            if isinstance(tensor, nn.Parameter):
                new = nn.Parameter(new, requires_grad=tensor.requires_grad)
            made[id(tensor)] = (tensor, new)
        return made[id(tensor)][1]

    for part in module.modules():
        for owner in (part._parameters, part._buffers):
            for name in [name for name, tensor in owner.items() if tensor is not None]:
                _replace(part, owner, name, once=once, fake=fake)


def _replace(
    part: nn.Module, owner: dict[str, Any], name: str, *, once: Callable[..., Any], fake: Callable[..., Any]
) -> None:
    """Replace one tensor of a module, and the quantization constants that come with it."""
    state, eight_bit = getattr(owner[name], "quant_state", None), getattr(owner[name], "SCB", None)
    owner[name] = once(owner[name])
    if eight_bit is not None:
        # Where the first forward pass of bitsandbytes' Linear8bitLt moves them to.
        part.state.CB, part.state.SCB = owner[name].detach(), fake(eight_bit)
        owner[name].CB = owner[name].SCB = None
    if state is None:
        return
    state.absmax, state.code = fake(state.absmax), fake(state.code)
    if state.nested:
        state.offset = fake(state.offset)
        state.state2.absmax, state.state2.code = fake(state.state2.absmax), fake(state.state2.code)
    owner[name].quant_state = state
    part.quant_state = state


def quantization_constants(module: nn.Module) -> Iterator[torch.Tensor]:
    """Yield the tensors that bitsandbytes keeps beside a quantized weight."""
    weight = getattr(module, "weight", None)
    state = getattr(weight, "quant_state", None)
    if state is not None:
        yield from (state.absmax, state.code)
        if state.nested:
            yield from (state.offset, state.state2.absmax)
    scales = getattr(getattr(module, "state", None), "SCB", None)
    if scales is not None:
        yield scales
