"""Records one training step, as LoRAFit's trainer runs it, on fake tensors."""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from accelerate.utils.operations import convert_to_fp32
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import _engine_run_backward
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import modeling_utils

from estimator.tape.conditions import Conditions
from estimator.tracer.cuda_facts import cuda_behaviour, replaced, scratch
from estimator.tracer.fused import recurrent_kernels
from estimator.tracer.model import TracedModel, quantization_constants
from estimator.tracer.recorder import HEAD, TURN, Recorder, Recording
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


_LABELS: Mapping[str, Mapping[str, Callable[[Batch], tuple[int, ...]]]] = {
    "CAUSAL_LM": {"labels": lambda batch: (batch.size, batch.length)},
    "SEQ_CLS": {"labels": lambda batch: (batch.size,)},
    "TOKEN_CLS": {"labels": lambda batch: (batch.size, batch.length)},
    "SEQ_2_SEQ_LM": {"labels": lambda batch: (batch.size, batch.length)},
    "QUESTION_ANS": dict.fromkeys(("start_positions", "end_positions"), lambda batch: (batch.size,)),
}
"""The labels of a batch by task, with their shapes: one for each token, or one for each text."""


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
    behaviour, recurrent = cuda_behaviour(conditions), recurrent_kernels(conditions.recurrent_kernels)
    offloading = mock.patch.object(modeling_utils, "save_on_cpu", recorder.waiting_in_ram)
    with mode, behaviour, recurrent, offloading, _marked_layers(traced, recorder), recorder:
        loss, held = _compared(model, batch, plan) if traced.passes > 1 else _forward(model, batch, plan, conditions)
        if not conditions.caller_holds_outputs:
            held = None
        if recorder.place != HEAD:  # no module runs between the last layer and TRL's loss
            recorder.enter(HEAD)
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


def _forward(model: nn.Module, batch: Batch, plan: FinetunePlan, conditions: Conditions) -> tuple[torch.Tensor, Any]:
    """Run the forward pass and the loss; return the loss and the outputs that a caller could keep."""
    input_ids = torch.zeros(batch.size, batch.length, dtype=torch.long)
    labels = {name: torch.zeros(shape(batch), dtype=torch.long) for name, shape in _LABELS[plan.task_type].items()}
    attention_mask = torch.ones(batch.size, batch.length, dtype=torch.long)
    arguments: dict[str, Any] = {"input_ids": input_ids, **labels}
    if hasattr(model.config, "use_cache"):
        arguments["use_cache"] = conditions.kv_cache != "none"
    if batch.masked:
        arguments["attention_mask"] = attention_mask
    if plan.loss == "chunked":
        arguments["fused_lm_head"] = True
    with _autocast(plan):
        outputs = model(**arguments)
    if plan.autocast_dtype is not None and not conditions.outputs_unconverted:
        outputs = convert_to_fp32(outputs)
    if plan.loss != "chunked":
        return outputs.loss, outputs
    num_items = torch.zeros((), dtype=torch.long)
    loss = -outputs.log_probs
    return loss.sum() / torch.as_tensor(num_items).clamp(min=1), outputs


def _compared(model: nn.Module, batch: Batch, plan: FinetunePlan) -> tuple[torch.Tensor, Any]:
    """Run the forward passes of a batch of texts that are compared, and the loss over their vectors.

    As in sentence-transformers, the features of a text are held until the loss is there. Under autocast, accelerate
    casts what a pass returns to 32 bit.
    """
    embedding = importlib.import_module("trainer.model.embedding")

    def embedded(features: dict[str, torch.Tensor]) -> Any:
        with _autocast(plan):
            found = model(features)
        return convert_to_fp32(found) if plan.autocast_dtype is not None else found

    texts = [_features(batch) for _ in range(plan.texts_per_row)]
    scores = torch.zeros(batch.size) if plan.embedding_loss == "CoSENTLoss" else None
    return embedding.loss_of(plan, Embedded(embedded))(texts, scores), texts


class Embedded(nn.Module):
    """A function in the place of the model that a loss calls."""

    def __init__(self, function: Callable[[dict[str, torch.Tensor]], Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, features: dict[str, torch.Tensor]) -> Any:
        """Return the features of a batch with the vectors of its texts."""
        return self._function(features)


def _features(batch: Batch) -> dict[str, torch.Tensor]:
    return {
        name: fill(batch.size, batch.length, dtype=torch.long)
        for name, fill in (("input_ids", torch.zeros), ("attention_mask", torch.ones))
    }


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
def _marked_layers(traced: TracedModel, recorder: Recorder) -> Iterator[None]:
    """Within the context, tell the recorder which layer runs, forward and backward."""
    marks = _LayerMarks(recorder, layers=len(traced.layers), passes=traced.passes)
    handles = [register_module_forward_pre_hook(marks.follows)]
    for number, layer in enumerate(traced.layers):
        handles.append(layer.register_forward_pre_hook(functools.partial(marks.starts, number)))
        handles.append(layer.register_forward_hook(functools.partial(marks.ends, number)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _LayerMarks:
    """Hooks that tell the recorder where the step is.

    The layers of a second pass have the numbers after those of the first.
    """

    def __init__(self, recorder: Recorder, *, layers: int, passes: int) -> None:
        self._recorder = recorder
        self._layers, self._last = layers, layers * passes - 1
        self._before = 0
        """Layers of the passes that are over; in the backward pass, of those that are still to come."""
        self._done = False

    def starts(self, number: int, *_: Any) -> None:
        """Note that a layer's forward pass starts, or its recomputation in the backward pass."""
        self._recorder.enter(("B" if self._recorder.backward else "F", self._before + number))

    def ends(self, number: int, _module: nn.Module, _inputs: Any, output: Any) -> None:
        """Note that a layer's forward pass ends; its backward pass starts when its output has a gradient."""
        if self._recorder.backward:
            return
        hidden = output[0] if isinstance(output, tuple | list) else output
        if hidden.requires_grad:
            hidden.register_hook(functools.partial(self._goes_back, self._before, number))
        self._done = number == self._layers - 1

    def follows(self, *_: Any) -> None:
        """Note that the head starts: after the last layer returns, since its caller still drops the layer's input.

        With another pass to come, this is the turn.
        """
        if not self._done:
            return
        self._done = False
        is_last = self._before + self._layers > self._last
        self._recorder.enter(HEAD if is_last else TURN)
        self._before += 0 if is_last else self._layers

    def _goes_back(self, before: int, number: int, _gradient: torch.Tensor) -> None:
        self._before = before
        self._recorder.enter(("B", before + number))
