"""The memory of Liger's fused linear cross entropy: its gradients exist before the backward pass starts."""

import types
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


def add_fused_loss(model: PreTrainedModel) -> None:
    """Make a causal language model compute its loss like Liger's kernel, without the logits of all positions.

    Source:
        github linkedin/Liger-Kernel, transformers/model/llama.py and loss_utils.py: the labels are shifted, so that
        every position is scored.
    """

    def forward(self: Any, *args: Any, labels: torch.Tensor, **kwargs: Any) -> CausalLMOutputWithPast:
        hidden = self.base_model(*args, **kwargs).last_hidden_state
        shifted = functional.pad(labels, (0, 1))[..., 1:].contiguous().view(-1)
        head = self.get_output_embeddings()
        loss = _FusedLinearCrossEntropy.apply(hidden.view(-1, hidden.size(-1)), head.weight, shifted)
        return CausalLMOutputWithPast(loss=loss)

    model.forward = types.MethodType(forward, model)


class _FusedLinearCrossEntropy(torch.autograd.Function):
    """Allocates what the kernel does, in the same order; values do not matter here.

    Source:
        github linkedin/Liger-Kernel, ops/fused_linear_cross_entropy.py (main, read 2026-11-22): a buffer of logits for
        one chunk of tokens, tokens / ceil(vocabulary / width) rounded up to a power of two; both gradients are
        computed in place.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss and save the gradients."""
        tokens, width = hidden.shape
        grad_input = torch.empty_like(hidden)
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        losses = hidden.new_empty(tokens, dtype=torch.float32)
        scored = labels != -100
        computed = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden.dtype
        cast = weight.to(computed)
        # Rounding up to a power of two at most doubles: the chunk's logits are at most as large as two hidden states.
        logits = hidden.new_empty((tokens, min(2 * width, weight.shape[0])), dtype=computed)
        del scored, cast, logits
        ctx.save_for_backward(grad_input, grad_weight)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients, scaled in place."""
        grad_input, grad_weight = ctx.saved_tensors
        return grad_input, grad_weight, None
