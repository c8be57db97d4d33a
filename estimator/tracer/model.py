"""The model to trace: built by the trainer's own code, reduced to a few layers of each kind, on fake tensors."""

import functools
import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.nn import Int8Params, Params4bit
from peft.tuners.lycoris_utils import LycorisLayer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.utils.parametrize import ParametrizationList
from transformers import PretrainedConfig, PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from estimator.tape.conditions import Conditions
from estimator.tracer.fused_loss import add_fused_loss
from specs import TASK_TYPES, FinetunePlan
from specs.embeddings import embedding_of
from trainer.model import build as trainer_model
from trainer.model.checkpointing import with_checkpointing
from trainer.model.experts import Expansion, expanded_shapes
from trainer.model.packing import META
from trainer.model.stored import in_16_bit
from trainer.model.towers import decoder_layers, is_skipped, text_tower


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
    passes: int = 1
    """How often a step runs through the layers; those of each pass are told apart."""

    @property
    def num_traced(self) -> int:
        """Layers that are traced, each once for every pass."""
        return self.passes * len(self.layers)

    @property
    def is_cut(self) -> bool:
        """Whether some layers stand for others."""
        return self.num_traced < len(self.kinds)


class CutError(Exception):
    """A few layers cannot stand for all: tensors of the model or of the step depend on every layer."""


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
        CutError: If a few layers cannot stand for all.
    """
    whole = _whole(json.dumps(config, sort_keys=True), _unadapted(plan), period=_period(plan), every_layer=every_layer)
    base = _base(plan, config, whole)
    layers = decoder_layers(base)
    unquantized = _unquantized_params(layers, whole.layers_like) if plan.quantization != "none" else 0
    prepared = with_checkpointing(trainer_model.prepared_base(base, plan), plan, device=META)
    if conditions.embeddings_cast_back:
        prepared.get_input_embeddings().to(torch.bfloat16)
        prepared.get_output_embeddings().to(torch.bfloat16)
    if conditions.liger_loss:
        add_fused_loss(base)
    elif plan.loss == "chunked":
        add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
    module, passes = _never_dropped(trainer_model.with_adapter(prepared, plan).train()), 1
    if TASK_TYPES[plan.task_type].embeds:
        module, passes = _embedder(plan, module, config), TEXT_PASSES
    _require_trained_throughout(layers, whole, checkpointing=plan.gradient_checkpointing)
    _make_fake(module, mode)
    kinds = tuple(number * len(layers) + like for number in range(passes) for like in whole.layers_like)
    return TracedModel(module, layers, kinds, whole.num_params, unquantized, passes)


TEXT_PASSES = 2
"""A step of embeddings runs through the model once for the texts that search, and once for all that may be found:
sentence-transformers 6.2, base/losses/merged_forward.py, ``embed_columns``."""


def _embedder(plan: FinetunePlan, module: nn.Module, config: dict[str, Any]) -> nn.Module:
    """Return a model with what makes one vector of each text."""
    embedding = importlib.import_module("trainer.model.embedding")  # sentence-transformers takes seconds to import
    made: nn.Module = embedding.Embedder(plan, module, embedding_of(config)).train()
    return made


def _never_dropped(module: nn.Module) -> nn.Module:
    """Return a model whose LoHa and LoKr draw no lots for whether a module is dropped, which a trace cannot follow.

    None is: the trainer drops none, and their layers' own ``training`` decides nothing else.
    """
    for part in module.modules():
        if isinstance(part, LycorisLayer):
            part.training = False
    return module


def _require_trained_throughout(layers: nn.ModuleList, whole: "_Whole", *, checkpointing: bool) -> None:
    """Require that the first layer trains something: layers before the first trained one keep nothing.

    With checkpointing, the embedding's output requires gradients, and all layers behave alike.

    Raises:
        CutError: If training starts at a later one of a few layers.
    """
    trained = [any(weight.requires_grad for weight in layer.parameters()) for layer in layers]
    if any(trained) and not trained[0] and not checkpointing and len(layers) < len(whole.layers_like):
        raise CutError("training starts at a later layer")


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
    outside: tuple[Any, ...]
    """The sizes of all tensors outside the layers."""
    skips_layers: bool
    """Whether there are layers that text does not pass through."""


@functools.lru_cache(maxsize=32)
def _whole(config_json: str, plan: FinetunePlan, *, period: int, every_layer: bool) -> _Whole:
    """Return the facts about a whole model; built only once and without quantization, since building is slow."""
    base = trainer_model.base_model(plan, in_16_bit(trainer_model.model_config(json.loads(config_json))), device=META)
    skips_layers = set_aside(base)
    layers = decoder_layers(base)
    kinds = [_kind(base, layers, number) for number in range(len(layers))]
    chosen, layers_like = (list(range(len(kinds))),) * 2 if every_layer else _chosen_layers(kinds, period)
    return _Whole(
        num_params=sum(parameter.numel() for parameter in base.parameters()),
        chosen=tuple(chosen),
        layers_like=tuple(layers_like),
        kinds_kept=tuple(kinds[number] for number in chosen),
        outside=_outside(base, layers),
        skips_layers=skips_layers,
    )


def _period(plan: FinetunePlan) -> int:
    """Return after how many layers it is the turn of a recomputed one again."""
    return plan.every_n_layers if plan.gradient_checkpointing else 1


def _unadapted(plan: FinetunePlan) -> FinetunePlan:
    """Return the plan that trains the whole model for the same task."""
    return FinetunePlan.for_method("full", "traced", task_type=plan.task_type, num_labels=plan.num_labels)


def _base(plan: FinetunePlan, config: dict[str, Any], whole: _Whole) -> PreTrainedModel:
    """Return the base model with only the chosen layers: of a shorter configuration, or cut out of the whole model.

    Raises:
        CutError: If tensors outside the layers depend on their number, as embeddings for each layer do.
    """
    if whole.skips_layers or len(whole.chosen) == len(whole.layers_like):
        base = trainer_model.base_model(plan, config, device=META)
        if set_aside(base):
            _cut(base, decoder_layers(base), whole.chosen)
        return base
    base = trainer_model.base_model(plan, _reduced(config, whole), device=META)
    layers = decoder_layers(base)
    if _outside(base, layers) != whole.outside:
        raise CutError("tensors outside the layers depend on their number")
    if [_kind(base, layers, number) for number in range(len(layers))] != list(whole.kinds_kept):
        base = trainer_model.base_model(plan, config, device=META)
        _cut(base, decoder_layers(base), whole.chosen)
    return base


def _reduced(config: dict[str, Any], whole: _Whole) -> PretrainedConfig:
    """Return the configuration of a model with only the chosen layers.

    Raises:
        CutError: If its lists for each layer cannot be set.
    """
    reduced = trainer_model.model_config(config)
    text = reduced.get_text_config()
    total = len(whole.layers_like)
    try:
        for name, value in list(vars(text).items()):
            if isinstance(value, list) and len(value) == total:
                setattr(text, name, [value[number] for number in whole.chosen])
        text.num_hidden_layers = len(whole.chosen)
    except (AttributeError, ValueError, TypeError) as error:
        raise CutError(str(error)) from error
    return reduced


def set_aside(model: nn.Module) -> bool:
    """Move layers that text skips, since they attend to an image, out of the list; return whether there are any.

    Their weights stay in memory, but no step runs through them.
    """
    tower, layers = text_tower(model), decoder_layers(model)
    skipped = [layer for layer in layers if is_skipped(layer)]
    if not skipped:
        return False
    kept = [layer for layer in layers if not is_skipped(layer)]
    del layers[:]
    layers.extend(kept)
    tower.add_module("skipped_layers", nn.Sequential(*skipped))
    for part in tower.modules():
        if hasattr(part, "cross_attention_layers"):
            part.cross_attention_layers = []
    return True


def _outside(model: nn.Module, layers: nn.ModuleList) -> tuple[Any, ...]:
    """Return the sizes of all tensors outside the layers, which are the same whether or not layers are quantized."""
    inside = {id(part) for part in layers.modules()}
    return tuple((name, _sizes(part)) for name, part in model.named_modules() if id(part) not in inside)


def _kind(model: nn.Module, layers: nn.ModuleList, number: int) -> tuple[Any, ...]:
    """Return what can make one layer behave differently from another: its attention type and module sizes."""
    layer_types = getattr(model.config.get_text_config(), "layer_types", None)
    modules = layers[number].named_modules()
    sizes = tuple((name, _sizes(module)) for name, module in modules if not isinstance(module, _EXPANSION))
    return (layer_types[number] if layer_types else None, sizes)


_EXPANSION = (nn.ModuleDict, ParametrizationList, Expansion)
"""Modules that experts in 4 bit consist of."""


def _sizes(module: nn.Module) -> tuple[Any, ...]:
    """Return the sizes of a module, which are the same whether or not it is quantized."""
    if isinstance(module, nn.Linear):
        return (module.in_features, module.out_features, module.bias is not None)
    return tuple(sorted((name, tuple(shape)) for name, shape in expanded_shapes(module).items()))


def _chosen_layers(kinds: list[tuple[Any, ...]], period: int) -> tuple[list[int], list[int]]:
    """Return the layers to trace and, for each layer, which of them it behaves like.

    The first and last layers behave differently from others of their kind; in between, the first of each kind stands
    for all.
    """
    if period > 1:
        return _chosen_periods(kinds, period)
    if len(kinds) <= 3:
        return list(range(len(kinds))), list(range(len(kinds)))
    first_of: dict[tuple[Any, ...], int] = {}
    for number, kind in enumerate(kinds[1:-1], start=1):
        first_of.setdefault(kind, number)
    chosen = [0, *sorted(first_of.values()), len(kinds) - 1]
    position = {number: index for index, number in enumerate(chosen)}
    middle = [position[first_of[kind]] for kind in kinds[1:-1]]
    return chosen, [0, *middle, len(chosen) - 1]


def _chosen_periods(kinds: list[tuple[Any, ...]], period: int) -> tuple[list[int], list[int]]:
    """Return the same where only the first layer of each period is recomputed.

    The first period and the last, which may be shorter, stand for themselves, the second for all in between: every
    layer keeps its neighbours, and its number within a period.
    """
    total = len(kinds)
    last = (total - 1) // period * period
    chosen = [*range(2 * period), *range(last, total)]
    like = [number if number < period else period + number % period for number in range(last)]
    like += range(2 * period, len(chosen))
    if len(chosen) >= total or any(kinds[number] != kinds[chosen[one]] for number, one in enumerate(like)):
        return list(range(total)), list(range(total))
    return chosen, like


_LAYER_LISTS = ("layer_types", "layers_block_type", "mlp_layer_types")
"""Fields with one entry a layer that a model reads while it runs."""


def _cut(model: nn.Module, layers: nn.ModuleList, chosen: Sequence[int]) -> None:
    """Keep only the chosen layers of a whole model, and of the lists of its configuration that have one entry each."""
    text = model.config.get_text_config()
    for name in _LAYER_LISTS:
        values = getattr(text, name, None)
        if isinstance(values, list) and len(values) == len(layers):
            _set(text, name, [values[number] for number in chosen])
    _set(text, "num_hidden_layers", len(chosen))
    kept = [layers[number] for number in chosen]
    del layers[:]
    layers.extend(kept)


def _set(config: PretrainedConfig, name: str, value: object) -> None:
    """Set a value of a configuration, also one that its class computes from others."""
    named = config.attribute_map.get(name, name)
    if isinstance(getattr(type(config), named, None), property):
        config.__class__ = type(type(config).__name__, (type(config),), {named: value})
    else:
        setattr(config, name, value)


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
    for parameter in module._parameters.values():
        state = getattr(parameter, "quant_state", None)
        if state is None:
            continue
        yield from (state.absmax, state.code)
        if state.nested:
            yield from (state.offset, state.state2.absmax)
    scales = getattr(getattr(module, "state", None), "SCB", None)
    if scales is not None:
        yield scales
