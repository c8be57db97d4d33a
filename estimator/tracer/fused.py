"""What the kernels of recurrent layers (fla, causal_conv1d, mamba_ssm) keep and allocate.

Each function stands for one kernel: it creates the tensors that the kernel creates, in its order, without values.
Letters: b sequences, s tokens, h heads, k and v sizes of keys and values, c chunks, n size of the state.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as functional
from torch import Tensor

_CHUNK = 64
"""Tokens of a chunk in fla, ``ops/gated_delta_rule/chunk.py``."""


@contextlib.contextmanager
def recurrent_kernels(packages: str) -> Iterator[None]:
    """Let recurrent layers run in the kernels of some packages, and in transformers' PyTorch code for the others.

    Args:
        packages: Their names, joined by ``+``; ``torch`` for none of them. ``auto`` changes nothing.
    """
    with contextlib.ExitStack() as stack:
        for module in _modelling_code() if packages != "auto" else ():
            for name, (package, kernel) in _KERNELS.items():
                own = getattr(module, name, None)
                if own is not None:
                    # Whatever is installed here, PyTorch's code is what the decorator wraps.
                    torch_code = getattr(own, "__wrapped__", own)
                    chosen = kernel if package in packages.split("+") else torch_code
                    stack.enter_context(mock.patch.object(module, name, chosen))
        yield


def _modelling_code() -> list[Any]:
    return [module for name, module in sys.modules.items() if name.startswith("transformers.models.")]


class _GatedDeltaRule(torch.autograd.Function):
    """The chunked gated delta rule.

    Source: fla/ops/gated_delta_rule/chunk.py, ChunkGatedDeltaRuleFunction (flash-linear-attention 0.4).
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """Return the outputs, (b, s, h, v), of q, k, v, g, beta, and whether q and k are normalized first."""
        q, k, v, g, beta, with_norm = inputs
        norms: tuple[Tensor | None, Tensor | None] = (None, None)
        if with_norm:
            q, q_norm = torch.empty_like(q), _float32(q, *q.shape[:-1])
            k, k_norm = torch.empty_like(k), _float32(k, *k.shape[:-1])
            norms = (q_norm, k_norm)
        g = _float32(g, *g.shape)
        products = _float32(k, *v.shape[:-1], _CHUNK)
        inverse = k.new_empty((*v.shape[:-1], _CHUNK))
        del products
        w, u = k.new_empty((*v.shape[:-1], k.shape[-1])), torch.empty_like(v)
        states, new = _states(k, v), torch.empty_like(u)
        out = torch.empty_like(v)
        del w, u, states, new
        ctx.save_for_backward(q, norms[0], k, norms[1], v, g, beta, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all inputs."""
        q, q_norm, k, _, v, g, beta, _ = ctx.saved_tensors
        heads = (*v.shape[:-1], k.shape[-1])
        w, u = k.new_empty(heads), torch.empty_like(v)
        states, new = _states(k, v), torch.empty_like(u)
        local = torch.empty_like(d_out)
        d_states, d_new = _states(k, v), torch.empty_like(local)
        del local
        d_q, d_k, d_w, d_g = q.new_empty(heads), k.new_empty(heads), torch.empty_like(w), _float32(g, *g.shape)
        del states, new, d_states
        d_k2, d_v, d_beta, d_g2 = k.new_empty(heads), torch.empty_like(v), torch.empty_like(beta), torch.empty_like(g)
        del d_new, d_w, d_k2, d_g2, u
        d_g = torch.empty_like(d_g)
        d_q, d_k = _of_groups(d_q, q), _of_groups(d_k, k)
        if q_norm is not None:
            d_q, d_k = torch.empty_like(d_q), torch.empty_like(d_k)
        return d_q, d_k, d_v, d_g.to(g.dtype), d_beta, None


def _float32(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=torch.float32)


def _states(k: Tensor, v: Tensor) -> Tensor:
    """Return the state at the start of every chunk: (b, c, h, k, v)."""
    batch, length, heads, size = v.shape
    return k.new_empty((batch, -(-length // _CHUNK), heads, k.shape[-1], size))


def _of_groups(gradient: Tensor, like: Tensor) -> Tensor:
    """Return a gradient summed over the value heads that share a key head."""
    return gradient if gradient.shape == like.shape else torch.empty_like(like)


def _delta_rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, **options: Any) -> tuple[Tensor, None]:
    normed = bool(options.get("use_qk_l2norm_in_kernel"))
    return _apply(_GatedDeltaRule, q, k, v, g, beta, normed), None


class _CausalConvolution(torch.autograd.Function):
    """A convolution over the tokens before each one, with its activation.

    Source: causal_conv1d/causal_conv1d_interface.py, CausalConv1dFn (1.5).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the outputs: (b, channels, s)."""
        kept = x if 1 in {x.stride(1), x.stride(2)} else x.contiguous()
        ctx.save_for_backward(kept, weight, bias)
        return torch.empty_like(kept)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients; the kernel also computes those of frozen weights."""
        x, weight, bias = ctx.saved_tensors
        d_x, d_weight = torch.empty_like(x), _float32(weight, *weight.shape)
        d_bias = None if bias is None else _float32(bias, *bias.shape)
        del d_out
        return d_x, d_weight.to(weight.dtype), None if d_bias is None or bias is None else d_bias.to(bias.dtype)


def _convolution(hidden_states: Tensor, weight: Tensor, bias: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    return _apply(_CausalConvolution, hidden_states, weight, bias)


class _SplitScan(torch.autograd.Function):
    """Convolution, scan, gated norm and output projection of a Mamba-2 block in one.

    Source: mamba_ssm/ops/triton/ssd_combined.py, MambaSplitConv1dScanCombinedFn (mamba_ssm 2.2).
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """Return the block's output: (b, s, d).

        The inputs are what the projection made of all tokens (gate, values, keys, queries, steps), the convolution's
        weight, one value for each head, the gated norm's weight if any, the output projection's weight, and sizes:
        of a head, the number of groups, the tokens of a chunk.
        """
        projected, conv, heads, norm, out_weight, sizes = inputs
        head_dim, groups, _ = sizes
        batch, length, _ = projected.shape
        width = heads.numel() * head_dim
        convolved = projected.new_empty((batch, length, conv.shape[0]))
        scanned = _scan(projected, conv, heads, sizes)
        out_x = projected.new_empty((batch, length, width))
        del convolved, scanned
        rstd = None if norm is None else _float32(projected, groups * batch * length)
        normed = torch.empty_like(out_x)
        out = functional.linear(normed, out_weight.to(normed.dtype))
        ctx.sizes = sizes
        ctx.save_for_backward(projected, conv, out_x, heads, norm, rstd, out_weight)
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients; the kernel also computes that of the frozen output projection."""
        projected, conv, out_x, heads, norm, _, out_weight = ctx.saved_tensors
        batch, length, _ = projected.shape
        convolved = projected.new_empty((batch, length, conv.shape[0]))
        d_projected = torch.empty_like(projected)
        d_convolved = torch.empty_like(convolved)
        d_normed = functional.linear(d_out.to(out_weight.dtype), out_weight.t())
        again, d_x = torch.empty_like(out_x), torch.empty_like(out_x)
        d_weight = torch.empty_like(out_weight)
        del d_normed
        scanned = _scan(projected, conv, heads, ctx.sizes)
        d_scanned = _scan(projected, conv, heads, ctx.sizes)
        del scanned, d_scanned, again, d_x, d_convolved, convolved
        d_conv, d_heads = torch.empty_like(conv), torch.empty_like(heads)
        return d_projected, d_conv, d_heads, None if norm is None else torch.empty_like(norm), d_weight, None


def _scan(projected: Tensor, conv: Tensor, heads: Tensor, sizes: tuple[int, int, int]) -> tuple[Tensor, ...]:
    """Return what a scan makes: decays, steps, the states of all chunks in two dtypes, products within chunks."""
    head_dim, groups, chunk = sizes
    batch, length, _ = projected.shape
    chunks, num_heads = -(-length // chunk), heads.numel()
    state = (conv.shape[0] - num_heads * head_dim) // groups // 2
    steps = [_float32(projected, batch, num_heads, chunks, chunk) for _ in range(2)]
    states = _float32(projected, batch, chunks, num_heads, head_dim, state)
    passed = projected.new_empty(states.shape)
    products = _float32(projected, batch, chunks, groups, chunk, chunk)
    return (*steps, states, passed, products)


def _split_scan(projected: Tensor, conv: Tensor, _bias: Any, _steps: Any, heads: Tensor, **options: Any) -> Tensor:
    sizes = (options["headdim"], options["ngroups"], options["chunk_size"])
    return _apply(_SplitScan, projected, conv, heads, options["rmsnorm_weight"], options["outproj_weight"], sizes)


def _apply(function: Any, *inputs: Any) -> Tensor:
    result: Tensor = function.apply(*inputs)
    return result


_KERNELS: Mapping[str, tuple[str, Callable[..., Any]]] = {
    "torch_chunk_gated_delta_rule": ("fla", _delta_rule),
    "causal_conv1d_fn": ("causal_conv1d", _convolution),
    "mamba2_split_conv1d_scan_combined": ("mamba_ssm", _split_scan),
}
"""transformers' name of the code that a kernel replaces, the kernel's package, and what stands for it."""
