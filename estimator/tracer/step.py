"""Records one training step, as LoRAFit's trainer runs it, on fake tensors."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils.operations import convert_to_fp32
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import _engine_run_backward
from torch.nn.modules.module import register_module_forward_pre_hook

from estimator.tape.conditions import Conditions
from estimator.tracer.cuda_facts import cuda_behaviour, replaced, scratch
from estimator.tracer.model import TracedModel, quantization_constants
from estimator.tracer.recorder import Recorder, Recording
from specs import FinetunePlan

# retain_graph and create_graph.
_PLAIN = (False, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The shape of one forward pass."""

    size: int
    """Sequences."""
    length: int
    """Tokens per sequence."""
    masked: bool
    """Whether there is a padding mask."""


def recorded_step(
    traced: TracedModel, batch: Batch, *, plan: FinetunePlan, conditions: Conditions, mode: FakeTensorMode
) -> Recording:
    """Return what one forward and backward pass of a model on fake tensors allocates and frees.

    Args:
        traced: The model that the trainer builds, on fake tensors.
        batch: The shape of the input.
        plan: Decides autocast and loss.
        conditions: The conditions of the step; ``attention_kernel`` must be decided already.
        mode: The mode that the model's tensors belong to.
    """
    model = traced.module
    recorder = Recorder(_tensors(model), scratch=scratch(conditions.attention_kernel), replaced=replaced)
    behaviour = cuda_behaviour(conditions)
    with mode, behaviour, _marked_layers(traced.layers, recorder), recorder:
        loss, held = _forward(model, batch, plan)
        if not conditions.caller_holds_outputs:
            held = None
        recorder.enter_backward()
        _backward(loss)
        if not conditions.caller_holds_outputs:
            loss = loss.detach()
        for parameter in model.parameters():
            if parameter.grad is not None:
                recorder.mark(parameter.grad, "gradient")
        recording = recorder.close()
    del held
    return recording


def _forward(model: nn.Module, batch: Batch, plan: FinetunePlan) -> tuple[torch.Tensor, Any]:
    """Run the forward pass and the loss; return the loss and the outputs that a caller could keep."""
    input_ids = torch.zeros(batch.size, batch.length, dtype=torch.long)
    labels = torch.zeros(batch.size, batch.length, dtype=torch.long)
    attention_mask = torch.ones(batch.size, batch.length, dtype=torch.long)
    arguments = {"input_ids": input_ids, "labels": labels, "use_cache": False}
    if batch.masked:
        arguments["attention_mask"] = attention_mask
    if plan.loss == "chunked":
        arguments["fused_lm_head"] = True
    with _autocast(plan):
        outputs = model(**arguments)
    if plan.autocast_dtype is not None:
        outputs = convert_to_fp32(outputs)
    if plan.loss != "chunked":
        return outputs.loss, outputs
    num_items = torch.zeros((), dtype=torch.long)
    loss = -outputs.log_probs
    return loss.sum() / torch.as_tensor(num_items).clamp(min=1), outputs


def _backward(loss: torch.Tensor) -> None:
    """Run the backward pass; ``Tensor.backward`` would suspend the modes that checkpointing needs to recompute."""
    _engine_run_backward((loss,), (torch.ones_like(loss),), *_PLAIN, (), allow_unreachable=True, accumulate_grad=True)


def _autocast(plan: FinetunePlan) -> contextlib.AbstractContextManager[Any]:
    if plan.autocast_dtype is None:
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=getattr(torch, plan.autocast_dtype))


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """Yield every tensor that is in memory before the step."""
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        yield from quantization_constants(module)


@contextlib.contextmanager
def _marked_layers(layers: nn.ModuleList, recorder: Recorder) -> Iterator[None]:
    """Within the context, tell the recorder which layer runs, forward and backward."""
    marks = _LayerMarks(recorder, last=len(layers) - 1)
    handles = [register_module_forward_pre_hook(marks.follows)]
    for number, layer in enumerate(layers):
        handles.append(layer.register_forward_pre_hook(functools.partial(marks.starts, number)))
        handles.append(layer.register_forward_hook(functools.partial(marks.ends, number)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _LayerMarks:
    """Hooks that tell the recorder where the step is."""

    def __init__(self, recorder: Recorder, *, last: int) -> None:
        self._recorder = recorder
        self._last = last
        self._done = False

    def starts(self, number: int, *_: Any) -> None:
        """Note that a layer's forward pass starts, or its recomputation in the backward pass."""
        self._recorder.enter(("B" if self._recorder.backward else "F", number))

    def ends(self, number: int, _module: nn.Module, _inputs: Any, output: Any) -> None:
        """Note that a layer's forward pass ends; its backward pass starts when its output has a gradient."""
        if self._recorder.backward:
            return
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(lambda _: self._recorder.enter(("B", number)))
        self._done = number == self._last

    def follows(self, *_: Any) -> None:
        """Note that the head starts: after the last layer returns, since its caller still drops the layer's input."""
        if self._done:
            self._recorder.enter(("head", None))
            self._done = False
