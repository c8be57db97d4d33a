"""A weight in 4 bit: its packed values and its constants, from real values or on meta, and its values again."""

import copy

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, dequantize_blockwise, quantize_4bit, quantize_blockwise
from bitsandbytes.nn import Linear4bit, Params4bit
from transformers import BitsAndBytesConfig

META = "meta"

# Block sizes of bitsandbytes 0.50.2, ``functional.quantize_4bit``: weights per constant, constants per nested constant.
BLOCKSIZE = 64
NESTED_BLOCKSIZE = 256

_PIECE_ON_CPU, _PIECE = 2**18, 2**30
"""Weights that are quantized at once, in whole blocks: on a CPU, bitsandbytes 0.50 takes 24 bytes for each meanwhile;
on CUDA it counts them in 32 bits."""

_EXPANDABLE = 2**31
"""bitsandbytes 0.50, backends/cuda/ops.py: the number of weights to expand is a 32-bit integer."""

_EXPANDED_PIECE = 2**28
"""Weights that are expanded at once where there are more than bitsandbytes counts; each takes 2 bytes meanwhile."""


def packed(value: torch.Tensor, quantization: BitsAndBytesConfig, module: Linear4bit | None = None) -> Params4bit:
    """Return a weight of any shape in 4 bit; one on meta gets the tensors that real values would give."""
    data, state = _on_meta(value, quantization) if value.is_meta else _quantized(value, quantization)
    return Params4bit(
        data,
        requires_grad=False,
        quant_state=state,
        blocksize=BLOCKSIZE,
        compress_statistics=quantization.bnb_4bit_use_double_quant,
        quant_type=quantization.bnb_4bit_quant_type,
        quant_storage=quantization.bnb_4bit_quant_storage,
        module=module,
        bnb_quantized=True,
    )


def expanded(weight: torch.Tensor, state: QuantState) -> torch.Tensor:
    """Return a packed weight in its own shape: at once, or in pieces if there are more values than a GPU counts."""
    if state.shape.numel() < _EXPANDABLE:
        return _values(weight, state, state.shape.numel()).view(state.shape)
    absmax = dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    whole = torch.empty(state.shape, dtype=state.dtype, device=weight.device)
    pieces = (
        whole.view(-1).split(_EXPANDED_PIECE),
        weight.split(_EXPANDED_PIECE // (2 * weight.element_size())),
        absmax.split(_EXPANDED_PIECE // BLOCKSIZE),
    )
    for part, values, constants in zip(*pieces, strict=True):
        of_part = QuantState(
            constants, code=state.code, blocksize=BLOCKSIZE, quant_type=state.quant_type, dtype=state.dtype
        )
        part.copy_(_values(values, of_part, part.numel()).view(-1))
    return whole


def _values(weight: torch.Tensor, state: QuantState, count: int) -> torch.Tensor:
    """Return packed values as rows of one block each.

    On a CPU, bitsandbytes 0.50 takes wrong constants for longer rows that are no multiple of the block.
    """
    rows = copy.copy(state)
    rows.shape = torch.Size((count,) if count % BLOCKSIZE else (count // BLOCKSIZE, BLOCKSIZE))
    return dequantize_4bit(weight, rows)


def _quantized(value: torch.Tensor, quantization: BitsAndBytesConfig) -> tuple[torch.Tensor, QuantState]:
    """Return what ``bitsandbytes.functional.quantize_4bit`` returns, without its need for memory."""
    pieces = value.reshape(-1).split(_PIECE_ON_CPU if value.device.type == "cpu" else _PIECE)
    values, states = zip(*(_piece(piece, quantization) for piece in pieces), strict=True)
    absmax = torch.cat([state.absmax for state in states])
    common = {"shape": value.shape, "dtype": value.dtype, "blocksize": BLOCKSIZE, "code": states[0].code}
    common["quant_type"] = quantization.bnb_4bit_quant_type
    if quantization.bnb_4bit_use_double_quant:
        offset = absmax.mean()
        nested, state2 = quantize_blockwise(absmax - offset, blocksize=NESTED_BLOCKSIZE)
        return torch.cat(values), QuantState(absmax=nested, offset=offset, state2=state2, **common)
    return torch.cat(values), QuantState(absmax=absmax, **common)


def _piece(piece: torch.Tensor, quantization: BitsAndBytesConfig) -> tuple[torch.Tensor, QuantState]:
    values, state = quantize_4bit(
        piece.contiguous(),
        blocksize=BLOCKSIZE,
        quant_type=quantization.bnb_4bit_quant_type,
        quant_storage=quantization.bnb_4bit_quant_storage,
    )
    return values, state


def _on_meta(value: torch.Tensor, quantization: BitsAndBytesConfig) -> tuple[torch.Tensor, QuantState]:
    storage = quantization.bnb_4bit_quant_storage
    values = torch.empty((value.numel() + 1) // (2 * storage.itemsize), 1, dtype=storage, device=META)
    return values, _meta_quant_state(value, quantization)


def _meta_quant_state(value: torch.Tensor, quantization: BitsAndBytesConfig) -> QuantState:
    """Return the constants of a 4-bit weight on meta, laid out as ``bitsandbytes.functional.quantize_4bit`` does."""
    blocks = -(-value.numel() // BLOCKSIZE)
    common = {
        "shape": value.shape,
        "code": torch.empty(16, dtype=torch.float32, device=META),
        "blocksize": BLOCKSIZE,
        "quant_type": quantization.bnb_4bit_quant_type,
        "dtype": value.dtype,
    }
    if not quantization.bnb_4bit_use_double_quant:
        return QuantState(absmax=torch.empty(blocks, dtype=torch.float32, device=META), **common)
    state2 = QuantState(
        absmax=torch.empty(-(-blocks // NESTED_BLOCKSIZE), dtype=torch.float32, device=META),
        code=torch.empty(256, dtype=torch.float32, device=META),
        blocksize=NESTED_BLOCKSIZE,
        dtype=torch.float32,
    )
    absmax = torch.empty(blocks, dtype=torch.uint8, device=META)
    return QuantState(absmax=absmax, offset=torch.empty((), device=META), state2=state2, **common)
