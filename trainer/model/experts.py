"""Stacked experts in 4 bit: quantized one by one while they are loaded, expanded only while their layer runs.

transformers 5 keeps the experts of a mixture as parameters of three dimensions, which its own quantization skips.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any
from unittest import mock

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Params4bit
from torch import nn
from torch.nn.utils import parametrize
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.integrations.bitsandbytes import Bnb4bitQuantize
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name, should_convert_module

from trainer.model.packing import expanded, packed


def stacked_experts(model: nn.Module) -> Iterator[str]:
    """Yield the path of each parameter that holds the weights of several experts.

    These are the parameters of three dimensions in modules of experts; those of DBRX have two.
    """
    for path, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, nn.Linear) or "expert" not in f"{path}.{kind}".lower():
            continue
        least = 2 if kind.startswith("Dbrx") else 3
        for name, shape in expanded_shapes(module).items():
            if len(shape) >= least:
                yield f"{path}.{name}"


def quantize_stacked_experts(model: nn.Module, quantization: BitsAndBytesConfig, kept: list[str]) -> None:
    """Put the stacked experts of a model into 4 bit, as the loader does; ``kept`` names what is left as it is."""
    for path in _to_quantize(model, kept):
        _expand_on_access(model, path, quantization)


def expanded_shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Return the shapes of a module's own parameters by name; those of weights in 4 bit as they are expanded."""
    shapes = {name: parameter.shape for name, parameter in module.named_parameters(recurse=False)}
    for name, steps in getattr(module, "parametrizations", {}).items():
        shapes[name] = steps.original.quant_state.shape
    return shapes


@contextmanager
def quantized_while_loading() -> Iterator[None]:
    """Let transformers' loader quantize each stack of experts as it is read, as it does plain linear layers."""
    with mock.patch.dict(AUTO_QUANTIZER_MAPPING, bitsandbytes_4bit=_Quantizer):
        yield


def _to_quantize(model: nn.Module, kept: list[str]) -> list[str]:
    return [path for path in stacked_experts(model) if should_convert_module(path, kept)]


def _expand_on_access(model: nn.Module, path: str, quantization: BitsAndBytesConfig) -> None:
    """Make a module return a weight expanded whenever it asks for it."""
    module, name = get_module_from_name(model, path)
    weight = getattr(module, name)
    if getattr(weight, "quant_state", None) is None:
        weight = packed(weight.data, quantization)
        setattr(module, name, weight)
    parametrize.register_parametrization(module, name, Expansion(weight.quant_state), unsafe=True)
    module.forward = MethodType(_forward, module)


class Expansion(nn.Module):
    """Expands a weight in 4 bit."""

    def __init__(self, quant_state: QuantState) -> None:
        super().__init__()
        self.quant_state = quant_state

    @torch.no_grad()
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight in its own shape, after letting go of what a module needs no more."""
        _let_go()
        return expanded(weight, self.quant_state)


_ALSO_WHILE_TRACING = True


def _forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run the forward pass of experts with each weight expanded once, and again for the backward pass."""
    with parametrize.cached(), _expanded_again(module), _one_at_a_time(module):
        return type(module).forward(module, *args, **kwargs)


_RUNNING: list[nn.Module] = []
"""The experts that are running and need only the weight that they asked for last."""


@contextmanager
def _one_at_a_time(module: nn.Module) -> Iterator[None]:
    """Within the context, keep one expanded weight of a module, if its code reads each once and in turn.

    transformers 5.23, integrations/moe.py, grouped_mm_experts_forward does; loops over experts return to each weight.
    """
    in_turn = getattr(getattr(module, "config", None), "_experts_implementation", None) == "grouped_mm"
    if not (in_turn and hasattr(module, "_apply_gate")):
        yield
        return
    _RUNNING.append(module)
    try:
        yield
    finally:
        _RUNNING.pop()


def _let_go() -> None:
    """Empty the expanded weights of the experts that are running, which their code still has at hand.

    What autograd keeps of a weight has its own reference.
    """
    for owner, name in [key for module in _RUNNING[-1:] for key in parametrize._cache if key[0] == id(module)]:
        weight = parametrize._cache.pop((owner, name))
        for one in (weight, weight._base):
            if one is not None:
                one.data = one.new_empty(0)


@contextmanager
def _expanded_again(module: nn.Module) -> Iterator[None]:
    """Within the context, let autograd keep how to expand the module's weights in place of the expanded weights.

    All other tensors go to the hooks around, such as those of gradient checkpointing: PyTorch asks only the innermost.
    """
    around = torch._C._autograd._top_saved_tensors_default_hooks(_ALSO_WHILE_TRACING)
    keep, restore = around or (torch.Tensor.detach, _unchanged)

    def pack(tensor: torch.Tensor) -> Any:
        return _Expansion.of(tensor, module) or keep(tensor)

    def unpack(kept: Any) -> torch.Tensor:
        return kept.tensor() if isinstance(kept, _Expansion) else restore(kept)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def _unchanged(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


@dataclass(frozen=True, slots=True)
class _Expansion:
    """How to make a view of an expanded weight again."""

    weight: Params4bit
    steps: tuple[nn.Module, ...]
    """Each takes the weight that the one before returns: expansion, and what an adapter adds."""
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: torch.Tensor, module: nn.Module) -> "_Expansion | None":
        """Return how to make a tensor that is a view of one of the module's expanded weights, or None.

        A view of one expert alone is kept: expanding all of them again for each would take too long.
        """
        storage = tensor.untyped_storage()._cdata
        for name, steps in module.parametrizations.items():
            whole = parametrize._cache.get((id(module), name))
            if whole is None or whole.numel() != tensor.numel():
                continue
            if whole.untyped_storage()._cdata == storage:
                return cls(steps.original, tuple(steps), tensor.size(), tensor.stride(), tensor.storage_offset())
        return None

    @torch.no_grad()
    def tensor(self) -> torch.Tensor:
        """Return the view."""
        whole: torch.Tensor = self.weight
        for step in self.steps:
            whole = step(whole)
        return whole.as_strided(self.size, self.stride, self.offset)


class _Quantizer(Bnb4BitHfQuantizer):
    """transformers' quantizer of linear layers to 4 bit, for stacked experts too."""

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        """Return whether a parameter is to be quantized."""
        return param_name in self.stacked or super().param_needs_quantization(model, param_name, **kwargs)

    def get_quantize_ops(self) -> Bnb4bitQuantize:
        """Return the operation that quantizes a parameter."""
        return _Quantize(self)

    def _process_model_before_weight_loading(self, model: PreTrainedModel, device_map: Any, **kwargs: Any) -> None:
        super()._process_model_before_weight_loading(model, device_map, **kwargs)
        self.stacked = _to_quantize(model, self.modules_to_not_convert)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        for path in self.stacked:
            _expand_on_access(model, path, self.quantization_config)
        return super()._process_model_after_weight_loading(model, **kwargs)

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        for path in self.stacked:
            module, name = get_module_from_name(model, path)
            whole = getattr(module, name).to(dtype)
            parametrize.remove_parametrizations(module, name, leave_parametrized=False)
            setattr(module, name, nn.Parameter(whole, requires_grad=False))
            vars(module).pop("forward", None)
        return super()._dequantize(model, dtype)


class _Quantize(Bnb4bitQuantize):
    """Quantizes one parameter that was just read."""

    def convert(
        self, input_dict: dict[str, Any], full_layer_name: str | None = None, model: Any = None, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Return the weights in 4 bit by path."""
        quantized: dict[str, torch.Tensor] = {}
        for path, values in input_dict.items():
            if path in self.hf_quantizer.stacked:
                value = values[0] if isinstance(values, list) else values
                quantized[path] = packed(value, self.hf_quantizer.quantization_config)
            else:
                quantized |= super().convert({path: values}, full_layer_name, model, **kwargs)
        return quantized
