"""Frozen 4-bit layers that wait in RAM: before each computes, it is copied to the device, in the place of the last.

Only bytes move: every weight keeps its place on the device, which all layers share in turn, so that whoever holds a
weight, as autograd does for the backward pass, finds the right values there whenever its layer computes.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from bitsandbytes.functional import QuantState
from torch import nn
from transformers import PreTrainedModel

from trainer.model.towers import decoder_layers

ALIGNMENT = 512
"""Where each weight of a layer begins, in bytes: as the allocator would align it."""


def offload_layers(model: nn.Module, base: PreTrainedModel, *, device: str) -> None:
    """Move a model that was loaded into RAM to a device, but for what waits in RAM.

    In RAM stay the 4-bit weights of the decoder's layers, and the table of words where it is no output head as well:
    words are looked up there.

    Args:
        model: The base model with what is around it.
        base: The base model.
        device: A torch device such as ``cuda:0``; on ``cpu`` the shared place is in RAM too, which saves nothing.
    """
    words = _table_of_words(base)
    if words is not None:
        _leave_in_ram(words, device)
    layers = decoder_layers(base)
    _Stream(_packed_weights(layers), layers, device)
    _move(model, device)
    base.hf_device_map = {"": device}  # where accelerate and transformers' trainer take the model to be


class _Stream:
    """The place on the device that layers share, and what of each layer waits in RAM."""

    def __init__(self, weights: Sequence[Sequence[nn.Parameter]], layers: nn.ModuleList, device: str) -> None:
        sizes = [[-(-weight.nbytes // ALIGNMENT) * ALIGNMENT for weight in each] for each in weights]
        self._place = torch.empty(max(map(sum, sizes), default=0), dtype=torch.uint8, device=device)
        self._waiting: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
        self._here: int | None = None
        for number, (layer, each) in enumerate(zip(layers, weights, strict=True)):
            self._waiting.append(list(self._shared(each, sizes[number])))
            layer.register_forward_pre_hook(functools.partial(self._before, number))
            layer.register_forward_hook(functools.partial(self._after, number))

    def _shared(self, weights: Sequence[nn.Parameter], sizes: Sequence[int]) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield where each weight of a layer is on the device, and its values in RAM."""
        start = 0
        for weight, size in zip(weights, sizes, strict=True):
            values = weight.data.pin_memory() if self._place.is_cuda else weight.data
            weight.data = self._place[start : start + weight.nbytes].view(values.dtype).view(values.shape)
            start += size
            yield weight.data, values

    def _fetch(self, number: int) -> None:
        """Copy a layer to the device, after all that was asked of it so far: the copies wait in the same queue."""
        if self._here != number:
            for place, values in self._waiting[number]:
                place.copy_(values, non_blocking=True)
            self._here = number

    def _before(self, number: int, *_: Any) -> None:
        """Fetch a layer before its forward pass."""
        self._fetch(number)

    def _after(self, number: int, _layer: nn.Module, _inputs: Any, output: Any) -> None:
        """Let a layer be fetched again before its backward pass: when the gradient of its output is there."""
        hidden = output[0] if isinstance(output, tuple | list) else output
        if hidden.requires_grad:
            hidden.register_hook(functools.partial(self._goes_back, number))

    def _goes_back(self, number: int, _gradient: torch.Tensor) -> None:
        self._fetch(number)


def _packed_weights(layers: nn.ModuleList) -> list[list[nn.Parameter]]:
    """Return the 4-bit weights of each layer; those that several layers have in common stay on the device."""
    found = [[weight for weight in layer.parameters() if _state(weight) is not None] for layer in layers]
    owners = Counter(id(weight) for each in found for weight in each)
    return [[weight for weight in each if owners[id(weight)] == 1] for each in found]


def _state(weight: nn.Parameter) -> QuantState | None:
    state: QuantState | None = getattr(weight, "quant_state", None)
    return state


def _table_of_words(base: PreTrainedModel) -> nn.Embedding | None:
    """Return the input embedding if it is frozen and another tensor than an output head of the same shape."""
    words, head = base.get_input_embeddings(), base.get_output_embeddings()
    if not isinstance(words, nn.Embedding) or head is None or words.weight.requires_grad:
        return None
    is_other = head.weight is not words.weight and head.weight.shape == words.weight.shape
    return words if is_other else None


def _leave_in_ram(words: nn.Embedding, device: str) -> None:
    """Let words be looked up in RAM.

    The table is no parameter any more: transformers takes a model to be where its first parameter is.
    """
    table = words.weight.data
    del words.weight
    words.weight = table
    words.register_forward_pre_hook(_to_words)
    words.register_forward_hook(functools.partial(_from_words, device), prepend=True)


def _to_words(_words: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(one.cpu() for one in inputs)


def _from_words(device: str, _words: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output.to(device)


def _move(model: nn.Module, device: str) -> None:
    """Move every parameter and buffer to the device; what is there already stays."""
    for part in model.modules():
        for weight in part.parameters(recurse=False):
            weight.data = weight.data.to(device)
            state = _state(weight)
            if state is not None:
                state.to(device)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(device)
