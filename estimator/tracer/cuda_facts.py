"""How CUDA differs from the CPU kernels under fake tensors: other paths, other tensors kept, scratch memory."""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import bitsandbytes
import peft.tuners.hira.bnb as hira_bnb
import torch
import torch.nn.functional as functional
import transformers.cache_utils as cache_utils
import transformers.integrations.sdpa_attention as sdpa_attention
import transformers.loss.loss_utils as loss_utils
import transformers.masking_utils as masking
import trl.kernels.chunked_logprob as chunked_logprob
import trl.trainer.utils as trl_utils
from bitsandbytes.autograd._functions import MatMul8bitLt, MatmulLtState
from bitsandbytes.functional import dequantize_4bit
from peft.utils.integrations import dequantize_bnb_weight
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from estimator.tape.conditions import Conditions

Sizes = tuple[Sequence[int], Sequence[int]]

_ATEN = torch.ops.aten
_FLASH_BACKWARD = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward.default

# Operators that autocast runs in float32 on CUDA but not on the CPU; aten/src/ATen/autocast_mode.h,
# AT_FORALL_FP32 (torch 2.13). Only those that language models call.
_FLOAT32_UNDER_AUTOCAST = frozenset(
    {
        torch.layer_norm,
        functional.layer_norm,
        functional.group_norm,
        functional.softmax,
        torch.softmax,
        torch.Tensor.softmax,
        functional.log_softmax,
        functional.softplus,
        torch.exp,
        torch.Tensor.exp,
        torch.pow,
        torch.Tensor.pow,
        torch.rsqrt,
        torch.Tensor.rsqrt,
        torch.cumsum,
        torch.Tensor.cumsum,
        functional.cross_entropy,
    }
)


@contextlib.contextmanager
def cuda_behaviour(conditions: Conditions) -> Iterator[None]:
    """Make a trace on fake CPU tensors take the same paths and keep the same tensors as the step on CUDA.

    Args:
        conditions: The attention kernel of the card, and what older libraries did differently.
    """
    with contextlib.ExitStack() as stack:
        on_cpu = conditions.attention_kernel == "cpu"
        for target, name, value in _PATCHES_FOR_ANY if on_cpu else (*_PATCHES_FOR_ANY, *_PATCHES_FOR_CUDA):
            stack.enter_context(mock.patch.object(target, name, value))
        if conditions.kv_repeated or conditions.attention_kernel == "mem_efficient":
            stack.enter_context(mock.patch.object(sdpa_attention, "use_gqa_in_sdpa", _return_false))
        if conditions.kv_cache == "referenced":
            stack.enter_context(mock.patch.object(cache_utils.DynamicLayer, "update", _referenced))
        if conditions.shifted_logits:
            stack.enter_context(mock.patch.dict(loss_utils.LOSS_MAPPING, {"ForCausalLM": _shifted_loss}))
        if conditions.attention_kernel == "math":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if conditions.attention_kernel in {"flash", "mem_efficient"}:
            stack.enter_context(mock.patch.object(functional, "scaled_dot_product_attention", _fused_attention))
        if not on_cpu:
            stack.enter_context(_CudaAutocast())
        yield


def _referenced(layer: Any, keys: torch.Tensor, values: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the first keys and values of a cache as they are; transformers cache_utils.py, DynamicLayer (4.55)."""
    layer.keys, layer.values, layer.is_initialized = keys, values, True
    return keys, values


class _CudaAutocast(TorchFunctionMode):
    """Upcasts the inputs of the operators that autocast runs in float32 on CUDA."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the operator, in float32 and without autocast if CUDA would do so."""
        del types
        named = kwargs or {}
        if func not in _FLOAT32_UNDER_AUTOCAST or not torch.is_autocast_enabled("cpu"):
            return func(*args, **named)
        upcast = [_upcast(value) for value in args]
        upcast_named = {key: _upcast(value) for key, value in named.items()}
        with torch.autocast("cpu", enabled=False):
            return func(*upcast, **upcast_named)


def _upcast(value: Any) -> Any:
    is_half = isinstance(value, torch.Tensor) and value.dtype in {torch.bfloat16, torch.float16}
    return value.float() if is_half else value


def _shifted_loss(logits: torch.Tensor, labels: torch.Tensor, vocab_size: int, **_: Any) -> torch.Tensor:
    """Return the causal language model's loss as transformers 4.48 computed it, loss/loss_utils.py, ForCausalLMLoss."""
    logits = logits.float()
    shifted = logits[..., :-1, :].contiguous().view(-1, vocab_size)
    return functional.cross_entropy(shifted, labels[..., 1:].contiguous().view(-1), ignore_index=-100)


def _return_false(*_: Any, **__: Any) -> bool:
    return False


def _return_true(*_: Any, **__: Any) -> bool:
    return True


def _return_none(*_: Any, **__: Any) -> None:
    return None


def _cuda_dropout(
    input: torch.Tensor,  # noqa: A002 - the name that callers use
    p: float = 0.5,
    training: bool = True,  # noqa: FBT001, FBT002 - PyTorch's signature
    inplace: bool = False,  # noqa: FBT001, FBT002 - PyTorch's signature
) -> torch.Tensor:
    """Return dropout as CUDA computes it: it keeps a mask of one byte per element, the CPU kernel a full tensor."""
    del inplace
    return torch.native_dropout(input, p, train=True)[0] if training and 0 < p < 1 else input


def _fused_attention(*args: Any, dropout_p: float = 0.0, **kwargs: Any) -> torch.Tensor:
    """Return attention as CUDA's fused kernels compute it: they draw dropout anew in the backward pass.

    They keep the random state alone, where the CPU falls back to the math kernel and keeps scores and masks.

    Source: pytorch aten/src/ATen/native/transformers/cuda/attention.cu, philox_seed and philox_offset (torch 2.13).
    """
    del dropout_p
    result: torch.Tensor = _ATTENTION(*args, **kwargs)
    return result


_ATTENTION = functional.scaled_dot_product_attention


def _matmul_8bit(
    activations: torch.Tensor, weight: torch.Tensor, *, bias: torch.Tensor | None, state: MatmulLtState
) -> torch.Tensor:
    """Return the product as CUDA computes it; on a CPU bitsandbytes expands the weight instead."""
    product: torch.Tensor = MatMul8bitLt.apply(activations, weight, None, bias, state)
    return product


def _expanded(weight: torch.Tensor, state: Any = None) -> torch.Tensor:
    """Return a quantized weight whole; PEFT knows 4-bit ones by their class, which fake tensors do not have."""
    packed = getattr(weight, "quant_state", None)
    whole: torch.Tensor = (
        dequantize_4bit(weight, packed) if packed is not None else dequantize_bnb_weight(weight, state)
    )
    return whole


_PATCHES_FOR_ANY: tuple[tuple[Any, str, Any], ...] = (
    # It reads values to decide whether a batch is packed; a batch without position_ids is not.
    (masking, "find_packed_sequence_indices", _return_none),
    (hira_bnb, "dequantize_bnb_weight", _expanded),
    # One tile for all positions; the tape limits its size afterwards.
    (chunked_logprob, "TOKEN_CHUNK_SIZE", sys.maxsize),
)

_PATCHES_FOR_CUDA: tuple[tuple[Any, str, Any], ...] = (
    (functional, "dropout", _cuda_dropout),
    (bitsandbytes, "matmul", _matmul_8bit),
    # On CUDA, TRL's loss runs in Triton kernels, which work in place on one tile and select the scored positions.
    (trl_utils, "_use_triton", _return_true),
    (chunked_logprob, "_use_triton", _return_false),
    (chunked_logprob, "_forward_tile", _return_none),
    (chunked_logprob, "_backward_tile", _return_none),
    (chunked_logprob, "_addmm_fp32", _return_none),
)


def replaced(func: Any, args: Sequence[Any]) -> Any:
    """Return the result of an operator that depends on values, for all labels scored and no outliers; else None."""
    replacement = _REPLACEMENTS.get(func)
    return None if replacement is None else replacement(*args)


def _index(values: torch.Tensor, indices: Sequence[Any]) -> torch.Tensor | None:
    mask = indices[0]
    if mask is None or mask.dtype != torch.bool:
        return None
    return values.new_empty((mask.numel(), *values.shape[mask.dim() :]))


def _index_put(target: torch.Tensor, indices: Sequence[Any], *_: Any) -> torch.Tensor | None:
    mask = indices[0]
    return target if mask is not None and mask.dtype == torch.bool else None


def _masked_select(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return values.new_empty((mask.numel(),))


def _vectorwise_quantized(activations: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = activations.numel() // activations.shape[-1]
    quantized = activations.new_empty(activations.shape, dtype=torch.int8)
    outliers = activations.new_empty((0,), dtype=torch.long)
    return quantized, activations.new_empty((rows,), dtype=torch.float32), outliers


def _mixed_product(
    activations: torch.Tensor, _: Any, weight: torch.Tensor, *__: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    product = activations.new_empty((*activations.shape[:-1], weight.shape[0]))
    return product, activations.new_empty((activations.shape[0], 0))


def _grouped_product(left: torch.Tensor, right: torch.Tensor, ends: torch.Tensor, *_: Any) -> torch.Tensor | None:
    """Return the products of all groups; the fake kernel supports only bfloat16, the real one any dtype, in place.

    Source: pytorch aten/src/ATen/native/GroupedMMUtils.h, _grouped_mm_fallback and create_grouped_gemm_output_tensor
    (torch 2.13): rows of the result are aligned to 16 bytes.
    """
    if left.dtype == torch.bfloat16:
        return None
    shape = (*left.shape[:-1], right.shape[-1]) if right.dim() == 3 else (len(ends), left.shape[0], right.shape[-1])
    elements = 16 // left.element_size()
    row = math.ceil(shape[-1] / elements) * elements
    return left.new_empty((*shape[:-1], row))[..., : shape[-1]]


_REPLACEMENTS: Mapping[Any, Callable[..., Any]] = {
    torch.ops.bitsandbytes.int8_vectorwise_quant.default: _vectorwise_quantized,
    torch.ops.bitsandbytes.int8_mixed_scaled_mm.default: _mixed_product,
    _ATEN.index.Tensor: _index,
    _ATEN.index_put_.default: _index_put,
    _ATEN._index_put_impl_.default: _index_put,
    _ATEN.index_put.default: _index_put,
    _ATEN.masked_select.default: _masked_select,
    _ATEN._grouped_mm.default: _grouped_product,
}


def scratch(kernel: str) -> Callable[[Any, Sequence[Any]], Sizes]:
    """Return a function for the bytes an operator's CUDA kernel allocates internally, before and after its result."""
    attention_backward = _mem_efficient_backward if kernel == "mem_efficient" else _flash_backward
    rules: dict[Any, Callable[[Sequence[Any]], Sizes]] = {
        torch.ops.bitsandbytes.gemm_4bit.default: _gemm_4bit,
        torch.ops.bitsandbytes.int8_vectorwise_quant.default: _outlier_search,
        torch.ops.bitsandbytes.int8_mixed_scaled_mm.default: _int8_product,
        _FLASH_BACKWARD: attention_backward,
        _ATEN.embedding_dense_backward.default: _embedding_backward,
    }
    if kernel == "cpu":
        rules = {torch.ops.bitsandbytes.gemm_4bit.default: _gemm_4bit}

    def sizes(func: Any, args: Sequence[Any]) -> Sizes:
        rule = rules.get(func)
        return ((), ()) if rule is None else rule(args)

    return sizes


def _gemm_4bit(args: Sequence[Any]) -> Sizes:
    """Return the whole weight in the compute dtype, and its nested constants twice.

    Source: bitsandbytes/backends/cuda/ops.py, _dequant_linear_fallback (0.50.2). For few tokens, a kernel without
    scratch runs instead, but then the backward pass, which always dequantizes, needs as much.
    """
    activations, shape, absmax_8bit = args[0], args[2], args[7] if len(args) > 7 else None
    weight = shape[0] * shape[1] * activations.element_size()
    constants = [] if absmax_8bit is None else [absmax_8bit.numel() * 4] * 2
    return [*constants, weight], ()


def _outlier_search(args: Sequence[Any]) -> Sizes:
    """Return the magnitudes, and a mask of those that reach the threshold.

    Source: bitsandbytes/backends/cuda/ops.py, int8_vectorwise_quant (0.50.2).
    """
    activations = args[0]
    return [activations.numel() * activations.element_size(), activations.numel()], ()


def _int8_product(args: Sequence[Any]) -> Sizes:
    """Return the product in 32-bit integers.

    Source: bitsandbytes/backends/cuda/ops.py, int8_linear_matmul (0.50.2).
    """
    activations, weight = args[0], args[2]
    return [activations.numel() // activations.shape[-1] * weight.shape[0] * 4], ()


def _flash_backward(args: Sequence[Any]) -> Sizes:
    """Return dQ in float32, the row sums, and dK and dV of all query heads under grouped-query attention.

    Source: pytorch aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, mha_bwd: dq_accum, softmax_d,
    dk_expanded.
    """
    query, key = args[1], args[2]
    batch, heads, length, head_dim = query.shape
    multiple = 32 if head_dim <= 128 else 64
    accumulated = batch * heads * length * math.ceil(head_dim / multiple) * multiple * 4
    row_sums = batch * heads * length * 4
    expanded = [batch * heads * length * head_dim * query.element_size()] * 2 if key.shape[1] < heads else []
    return (), [accumulated, row_sums, *expanded]


def _mem_efficient_backward(args: Sequence[Any]) -> Sizes:
    """Return dQ in float32 and the row sums.

    Source: pytorch aten/src/ATen/native/transformers/cuda/attention_backward.cu, delta and workspace_size.
    """
    query = args[1]
    batch, heads, length, head_dim = query.shape
    accumulated = 0 if query.dtype == torch.float32 else batch * heads * length * head_dim * 4
    return (), [size for size in (accumulated, batch * heads * length * 4) if size]


def _embedding_backward(args: Sequence[Any]) -> Sizes:
    """Return sorted indices, and a partial sum in float32 for each row that occurs: at most one per token.

    Source: pytorch aten/src/ATen/native/cuda/EmbeddingBackwardKernel.cu, embedding_backward_cuda_kernel.
    """
    gradient, indices = args[0], args[1]
    tokens, width = indices.numel(), gradient.shape[-1]
    return [tokens * 8, tokens * 8], [tokens * 8, tokens * width * 4]
