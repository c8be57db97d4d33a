"""The model to trace: built by the trainer's own code, reduced to a few layers of each kind, on fake tensors."""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.nn import Int8Params, Params4bit
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from transformers import PretrainedConfig
from trl.trainer.utils import add_fused_lm_head

from estimator.tape.conditions import Conditions
from estimator.tracer.fused_loss import add_fused_loss
from specs import FinetunePlan, TraceError
from trainer.model import build as trainer_model


@dataclass(frozen=True, slots=True)
class TracedModel:
    """A model on fake tensors, and which of its few layers stands for each real layer."""

    module: nn.Module
    layers: nn.ModuleList
    kinds: tuple[int, ...]
    """For each layer of the whole model, the traced layer that it behaves like."""
    num_params: int
    """Parameters of the whole base model, tied weights counted once."""
    unquantized_params: int
    """Weights of the layers that bitsandbytes leaves in 16-bit although the plan quantizes."""


def traced_model(
    plan: FinetunePlan,
    config: dict[str, Any],
    conditions: Conditions,
    mode: FakeTensorMode,
    *,
    every_layer: bool = False,
) -> TracedModel:
    """Return the model of a plan on fake tensors, reduced to the layers that differ.

    Args:
        plan: What to build.
        config: The model's configuration.
        conditions: What older libraries did differently.
        mode: The mode that the fake tensors belong to.
        every_layer: Keep all layers, for comparison.

    Raises:
        SpecError: If transformers does not know the architecture.
        PlanError: If a target module does not exist.
        TraceError: If the decoder layers cannot be found.
    """
    whole = _whole(json.dumps(config, sort_keys=True), every_layer=every_layer)
    base = trainer_model.base_model(plan, _reduced(config, whole), device=trainer_model.META)
    layers = decoder_layers(base)
    if [_kind(base, layers, number) for number in range(len(layers))] != list(whole.kinds_kept):
        base = trainer_model.base_model(plan, config, device=trainer_model.META)
        layers = decoder_layers(base)
        _cut(base, layers, whole.chosen)
    unquantized = _unquantized_params(layers, whole.layers_like) if plan.quantization != "none" else 0
    prepared = trainer_model.with_checkpointing(trainer_model.prepared_base(base, plan), plan)
    if conditions.embeddings_cast_back:
        prepared.get_input_embeddings().to(torch.bfloat16)
        prepared.get_output_embeddings().to(torch.bfloat16)
    if conditions.liger_loss:
        add_fused_loss(base)
    elif plan.loss == "chunked":
        add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
    module = trainer_model.with_adapter(prepared, plan).train()
    _make_fake(module, mode)
    return TracedModel(module, layers, whole.layers_like, whole.num_params, unquantized)


@dataclass(frozen=True, slots=True)
class _Whole:
    """The whole model that a few traced layers stand for."""

    num_params: int
    chosen: tuple[int, ...]
    """The layers of the whole model that are traced."""
    layers_like: tuple[int, ...]
    """For each layer of the whole model, the traced one that it behaves like."""
    kinds_kept: tuple[tuple[Any, ...], ...]
    """What makes each traced layer differ from others."""


@functools.lru_cache(maxsize=32)
def _whole(config_json: str, *, every_layer: bool) -> _Whole:
    """Return the facts about a whole model; built only once and without quantization, since building is slow."""
    plan = FinetunePlan.for_method("full", "traced")
    base = trainer_model.base_model(plan, json.loads(config_json), device=trainer_model.META)
    layers = decoder_layers(base)
    kinds = [_kind(base, layers, number) for number in range(len(layers))]
    chosen, layers_like = (list(range(len(kinds))),) * 2 if every_layer else _chosen_layers(kinds)
    return _Whole(
        num_params=sum(parameter.numel() for parameter in base.parameters()),
        chosen=tuple(chosen),
        layers_like=tuple(layers_like),
        kinds_kept=tuple(kinds[number] for number in chosen),
    )


def _reduced(config: dict[str, Any], whole: _Whole) -> PretrainedConfig:
    """Return the configuration of a model with only the chosen layers."""
    reduced = trainer_model.model_config(config)
    total = len(whole.layers_like)
    for name, value in list(vars(reduced).items()):
        if isinstance(value, list) and len(value) == total:
            setattr(reduced, name, [value[number] for number in whole.chosen])
    reduced.num_hidden_layers = len(whole.chosen)
    return reduced


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the list of decoder layers: the longest list of modules with weights."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    found = max(lists, key=len, default=None)
    if found is None or not len(found):
        raise TraceError(type(model).__name__, "has no list of decoder layers", None, "Choose a decoder-only model")
    return found


def _kind(model: nn.Module, layers: nn.ModuleList, number: int) -> tuple[Any, ...]:
    """Return what can make one layer behave differently from another: its attention type and module sizes."""
    layer_types = getattr(model.config, "layer_types", None)
    sizes = tuple((name, _sizes(module)) for name, module in layers[number].named_modules())
    return (layer_types[number] if layer_types else None, sizes)


def _sizes(module: nn.Module) -> tuple[Any, ...]:
    """Return the sizes of a module, which are the same whether or not it is quantized."""
    if isinstance(module, nn.Linear):
        return (module.in_features, module.out_features, module.bias is not None)
    return tuple(tuple(parameter.shape) for parameter in module.parameters(recurse=False))


def _chosen_layers(kinds: list[tuple[Any, ...]]) -> tuple[list[int], list[int]]:
    """Return the layers to trace and, for each layer, which of them it behaves like.

    The first and last layers behave differently from others of their kind; in between, the first of each kind stands
    for all.
    """
    if len(kinds) <= 3:
        return list(range(len(kinds))), list(range(len(kinds)))
    first_of: dict[tuple[Any, ...], int] = {}
    for number, kind in enumerate(kinds[1:-1], start=1):
        first_of.setdefault(kind, number)
    chosen = [0, *sorted(first_of.values()), len(kinds) - 1]
    position = {number: index for index, number in enumerate(chosen)}
    middle = [position[first_of[kind]] for kind in kinds[1:-1]]
    return chosen, [0, *middle, len(chosen) - 1]


def _cut(model: nn.Module, layers: nn.ModuleList, chosen: Sequence[int]) -> None:
    """Keep only the chosen layers of a whole model."""
    layer_types = getattr(model.config, "layer_types", None)
    if layer_types:
        model.config.layer_types = [layer_types[number] for number in chosen]
    model.config.num_hidden_layers = len(chosen)
    kept = [layers[number] for number in chosen]
    del layers[:]
    layers.extend(kept)


def _unquantized_params(layers: nn.ModuleList, layers_like: Sequence[int]) -> int:
    """Return the number of weights outside plain linear layers, such as stacked experts: bitsandbytes skips them."""
    return sum(
        weight.numel() * layers_like.count(number)
        for number, layer in enumerate(layers)
        for weight in layer.parameters()
        if weight.dim() > 1 and not isinstance(weight, Params4bit | Int8Params)
    )


def _make_fake(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replace the meta tensors with fake CPU tensors; tied ones stay tied."""
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
    """Replace one tensor of a module and its quantization constants."""
    state, eight_bit = getattr(owner[name], "quant_state", None), getattr(owner[name], "SCB", None)
    owner[name] = once(owner[name])
    if eight_bit is not None:
        # The first forward pass of bitsandbytes' Linear8bitLt moves them here.
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
    """Yield the tensors that bitsandbytes keeps for a quantized weight."""
    weight = getattr(module, "weight", None)
    state = getattr(weight, "quant_state", None)
    if state is not None:
        yield from (state.absmax, state.code)
        if state.nested:
            yield from (state.offset, state.state2.absmax)
    scales = getattr(getattr(module, "state", None), "SCB", None)
    if scales is not None:
        yield scales
