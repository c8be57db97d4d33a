"""Reads off a built model what an adapter may train in it, and why other layers get none."""

import inspect
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from peft.utils import transformers_weight_conversion as conversion
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from specs import PlanError
from specs.targets import Layers, Linear, Stacked, grouped, template
from trainer.model.experts import expanded_shapes, stacked_experts
from trainer.model.towers import beyond_text, text_tower

_ROUTERS = frozenset({"gate", "router", "modality_router", "shared_expert_gate"})
"""Parts of a path that lead to what chooses experts, in transformers 5.23."""

# PEFT 0.21, peft/tuners/tuners_utils.py, _check_lora_target_modules_mamba: it refuses these names in these models.
_REFUSED_BY_PEFT = ("out_proj", "conv1d")
_MAMBA_TYPES = frozenset({"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"})


def layers(model: nn.Module) -> Layers:
    """Return every linear layer and every stack of experts of a model, on any device and quantized or not."""
    reasons = _Reasons(model)
    found: dict[Any, list[str]] = defaultdict(list)
    others: dict[str, list[str]] = defaultdict(list)
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            found[(template(path), *_sizes(module), reasons.of(path, module))].append(path)
        elif path:
            others[template(path)].append(path)
    linear = tuple(
        Linear(
            path=path,
            numbers=numbers,
            in_features=facts[1],
            out_features=facts[2],
            has_bias=facts[3],
            left_out=facts[4],
        )
        for facts, paths in found.items()
        for path, numbers in [grouped(paths)]
    )
    names = {layer.name for layer in linear}
    return Layers(
        linear=linear,
        stacked=tuple(_stacked(model)),
        namesakes=tuple(grouped(paths) for path, paths in others.items() if path.rpartition(".")[2] in names),
        moved=_moved(model),
        num_biases=sum(weight.numel() for name, weight in model.named_parameters() if name.endswith("bias")),
        num_params=sum(weight.numel() for weight in model.parameters()),
    )


def norms(model: nn.Module) -> str:
    """Return an expression for the norms of a model that text reaches, with the numbers of layers left open.

    Raises:
        PlanError: If it has none with weights.
    """
    reasons = _Reasons(model)
    found = dict.fromkeys(
        template(path)
        for path, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        and next(module.parameters(recurse=False), None) is not None
        and not reasons.of(path, module)
    )
    if not found:
        raise PlanError("method", "trains norms, and the model has none with weights", None, "Choose lora")
    return "|".join(re.escape(path).replace(re.escape("#"), r"\d+") for path in found)


def task_head(model: nn.Module) -> tuple[str, ...]:
    """Return the modules that a task adds on top of the model, which are new and trained whole.

    They are what lies outside the model that was trained before; a language model's own head is none. BERT's pooler
    lies inside, but not every checkpoint has it: it would be made up anew each time that the model is loaded.
    """
    if not isinstance(model, PreTrainedModel) or model.can_generate() or model.get_output_embeddings() is not None:
        return ()
    if model.base_model is model:  # embeddings have no head
        return ()
    outside = [
        name
        for name, module in model.named_children()
        if module is not model.base_model and next(module.parameters(), None) is not None
    ]
    pooler = getattr(model.base_model, "pooler", None)
    inside = [f"{model.base_model_prefix}.pooler"] if isinstance(pooler, nn.Module) and outside else []
    return (*outside, *inside)


def unread_pooler(model: nn.Module) -> nn.Module | None:
    """Return BERT's pooler where a model is read without a head: embeddings pass it by. None of any other model."""
    if not isinstance(model, PreTrainedModel) or model.base_model is not model:
        return None
    pooler = getattr(model, "pooler", None)
    return pooler if isinstance(pooler, nn.Module) else None


class _Reasons:
    """Says of each linear layer of one model why it gets no adapter."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._head = _head(model)
        pooler = unread_pooler(model)
        self._unread = frozenset(map(id, pooler.modules())) if pooler is not None else frozenset()
        self._new = tuple(f"{name}." for name in task_head(model))
        self._beyond_text = re.compile(beyond_text(model) or "(?!)")
        self._mamba = getattr(getattr(model, "config", None), "model_type", "") in _MAMBA_TYPES
        self._read_past: dict[type[nn.Module], frozenset[str]] = {}

    def of(self, path: str, module: nn.Module) -> str:
        """Return a key of ``LEFT_OUT``, or nothing."""
        if module is self._head:
            return "head"
        if f"{path}.".startswith(self._new):
            return "task"
        if id(module) in self._unread:
            return "pooler"
        if self._beyond_text.fullmatch(path):
            return "tower"
        return self._by_path(path, module) or ("bypassed" if self._is_bypassed(path) else "")

    def _by_path(self, path: str, module: nn.Module) -> str:
        parts = path.split(".")
        if type(module).__name__.endswith("Router"):
            return "chooser"
        if type(module).__name__.endswith("GroupedLinear"):
            return "grouped"
        if not _ROUTERS.isdisjoint(parts):
            return "router"
        if "indexer" in parts:
            return "indexer"
        if parts[-1].isdigit():
            return "unnamed"
        return "expert" if re.search(r"experts?\.\d+\.", path) else ""

    def _is_bypassed(self, path: str) -> bool:
        """Return whether the layer's parent reads its weight itself, past an adapter, as Mamba's fused kernels do."""
        parent, _, name = path.rpartition(".")
        if self._mamba and name in _REFUSED_BY_PEFT:
            return True
        owner = self._model.get_submodule(parent)
        if not hasattr(owner, "A_log"):  # what Mamba learns of its decay
            return False
        kind = type(owner)
        if kind not in self._read_past:
            self._read_past[kind] = _read_past(kind)
        return name in self._read_past[kind]


def _head(model: nn.Module) -> nn.Module | None:
    """Return the output head of a model, or of the language model within it that keeps its own."""
    parts = (part for part in (model, text_tower(model)) if isinstance(part, PreTrainedModel))
    heads = (part.get_output_embeddings() for part in parts)
    return next((head for head in heads if head is not None), None)


def _read_past(kind: type[nn.Module]) -> frozenset[str]:
    """Return the submodules whose weights a module's own code computes with, instead of calling them."""
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        return frozenset()
    return frozenset(re.findall(r"self\.(\w+)\.weight(?!\.(?:dtype|device|data|shape)|[\w\"])", source))


def _sizes(module: nn.Module) -> tuple[int, int, bool]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features, module.bias is not None
    rows, columns = module.weight.shape
    return rows, columns, True


def _stacked(model: nn.Module) -> Iterator[Stacked]:
    found: dict[Any, list[str]] = defaultdict(list)
    for path in stacked_experts(model):
        owner, _, name = path.rpartition(".")
        module = model.get_submodule(owner)
        found[(template(path), *_stack_sizes(module, expanded_shapes(module)[name]))].append(path)
    for (_, experts, inside, outside), paths in found.items():
        path, numbers = grouped(paths)
        yield Stacked(path=path, numbers=numbers, num_experts=experts, in_features=inside, out_features=outside)


def _stack_sizes(module: nn.Module, shape: Sequence[int]) -> tuple[int, int, int]:
    """Return experts, inputs and outputs as PEFT's ``ParamWrapper`` reads them."""
    if len(shape) == 2:
        return 1, shape[1], shape[0]
    experts, first, second = shape
    return (experts, first, second) if getattr(module, "is_transposed", False) else (experts, second, first)


def _moved(model: nn.Module) -> tuple[str, ...]:
    """Return the names that PEFT's LoRA takes for those of transformers 4 and moves to router and experts.

    Source:
        PEFT 0.21, peft/utils/transformers_weight_conversion.py, _convert_peft_config_moe.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    kind = conversion._MODEL_TO_CONVERSION_PATTERN.get(model_type)
    if conversion.get_checkpoint_conversion_mapping(model_type) is None:
        return ()
    return tuple(conversion._MOE_TARGET_MODULE_MAPPING.get(kind, ()))
