"""LoRA on stacked experts in 4 bit: PEFT finds them, nests their adapters as on 16-bit experts, and trains them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any
from unittest import mock

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from peft.tuners.lora.layer import ParamWrapper
from torch import nn
from torch.nn.utils import parametrize

from specs import PlanError

_inject = LoraModel._inject_parameters


@contextmanager
def reaching_experts() -> Iterator[None]:
    """Within the context, let PEFT put and load adapters on stacked experts that are in 4 bit.

    PEFT 0.21 matches a parametrized weight only by its whole path, nests the adapters of one module in another order
    there than over plain weights, so that saved ones no longer fit, and leaves its own step behind after each pass.
    """
    with mock.patch.object(LoraModel, "_inject_parameters", _injected):
        yield


def _injected(self: LoraModel, peft_config: LoraConfig, model: nn.Module, *rest: Any, **more: Any) -> list[str]:
    """Adapt what ``target_parameters`` names, whether it is in 4 bit or not.

    Raises:
        PlanError: If there is nothing of that name.
    """
    named = peft_config.target_parameters
    packed = [path for path in _in_4_bit(model) if _is_named(path, named)]
    # What is saved keeps the short names: they fit experts in 16 bit too.
    peft_config.target_parameters = [*named, *packed]
    try:
        found = _inject(self, peft_config, model, *rest, **more)
    finally:
        peft_config.target_parameters = named
    if not found:
        raise PlanError("target_parameters", "must name stacked experts of the model", sorted(named), "Leave it empty")
    for path in dict.fromkeys(_unwrapped(path.rpartition(".")[0]) for path in packed):
        _settle(model, path)
    return found


def _in_4_bit(model: nn.Module) -> Iterator[str]:
    for path, module in model.named_modules():
        yield from (f"{path}.{name}" for name in getattr(module, "parametrizations", {}))


def _is_named(path: str, names: Sequence[str]) -> bool:
    plain = _unwrapped(path)
    return any(plain == name or plain.endswith(f".{name}") for name in names)


def _unwrapped(path: str) -> str:
    return path.replace(".base_layer", "")


def _settle(model: nn.Module, path: str) -> None:
    """Nest the adapters of one module as PEFT does over plain weights: the first weight's innermost."""
    parent, _, name = path.rpartition(".")
    inside, wrappers = model.get_submodule(path), []
    while isinstance(inside, ParamWrapper):
        wrappers.append(inside)
        inside = inside.base_layer
    order = list(inside.parametrizations)
    for wrapper in sorted(wrappers, key=lambda one: order.index(one.parameter_name)):
        wrapper.base_layer = inside
        wrapper._activate_lora = MethodType(_activated, wrapper)
        inside = wrapper
    setattr(model.get_submodule(parent), name, inside)


@contextmanager
def _activated(wrapper: ParamWrapper, adapters: Sequence[str]) -> Iterator[None]:
    """Within the context, add a wrapper's adapters to the weight whenever it is expanded."""
    active = [name for name in adapters if name in wrapper.lora_A]
    steps = wrapper.get_base_layer().parametrizations[wrapper.parameter_name]
    before = len(steps)
    for name in active:
        steps.append(_Update(wrapper, name))
    try:
        with parametrize.cached():
            yield
    finally:
        del steps[before:]


class _Update(nn.Module):
    """Adds one adapter's update to the expanded weights of all experts."""

    def __init__(self, wrapper: ParamWrapper, name: str) -> None:
        super().__init__()
        inward, outward = wrapper.lora_A[name].weight, wrapper.lora_B[name].weight
        first = inward.reshape(wrapper.num_experts, -1, inward.shape[-1])  # (experts, r, in)
        last = outward.reshape(outward.shape[0], -1, wrapper.num_experts).permute(2, 0, 1)  # (experts, out, r)
        swapped = wrapper._did_swap_in_out_features
        self.left, self.right = (last, first) if swapped else (first.transpose(1, 2), last.transpose(1, 2))
        self.scaling = wrapper.scaling[name]

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight with the update: (experts, out, in), or as the architecture stores it."""
        left, right = self.left.to(weight.dtype), self.right.to(weight.dtype)
        return torch.baddbmm(weight, left, right, alpha=self.scaling)
