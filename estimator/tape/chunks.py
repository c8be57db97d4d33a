"""How many tokens recurrent layers compute at once, which decides how memory grows with the length."""

from collections.abc import Mapping
from typing import Any

from specs import GpuSpec

PER_TOKEN = 1
"""A scan that takes one token after the other."""

_GATED_DELTA_NET = 64
"""``chunk_size`` of ``torch_chunk_gated_delta_rule`` and ``torch_chunk_kda`` (transformers 5.23), and of fla."""

# The field that holds the length of a chunk, and its default; transformers 5.23, the configuration classes.
_FIELDS: Mapping[str, tuple[str, int]] = {
    "bamba": ("mamba_chunk_size", 256),
    "falcon_h1": ("mamba_chunk_size", 256),
    "granitemoehybrid": ("mamba_chunk_size", 256),
    "mamba2": ("chunk_size", 256),
    "minimax": ("block_size", 256),
    "nemotron_h": ("chunk_size", 128),
    "zamba2": ("chunk_size", 256),
}
_FIXED: Mapping[str, int] = {
    "bailing_hybrid": _GATED_DELTA_NET,
    "glm5_next_text": _GATED_DELTA_NET,
    "jamba": PER_TOKEN,
    "kimi_linear": _GATED_DELTA_NET,
    "olmo_hybrid": _GATED_DELTA_NET,
    "qwen3_5": _GATED_DELTA_NET,
    "qwen3_5_moe": _GATED_DELTA_NET,
    "qwen3_5_moe_text": _GATED_DELTA_NET,
    "qwen3_5_text": _GATED_DELTA_NET,
    "qwen3_next": _GATED_DELTA_NET,
    "qwen4_exp_text": _GATED_DELTA_NET,
    "recurrent_gemma": PER_TOKEN,
    "zamba": PER_TOKEN,
}


def chunk_tokens(config: Mapping[str, Any]) -> int | None:
    """Return the tokens of one chunk of a model's recurrent layers; None for a model without such layers."""
    model_type = str(config.get("model_type"))
    if model_type not in _FIELDS:
        return _FIXED.get(model_type)
    field, default = _FIELDS[model_type]
    value = config.get(field)
    return value if isinstance(value, int) and value > 0 else default


PYTORCH = "torch"
"""Recurrent layers run in transformers' own PyTorch code."""

_DELTA_NET_PACKAGES, _MAMBA_PACKAGES = "fla+causal_conv1d", "causal_conv1d+mamba_ssm"
# Architectures whose kernels' tensors are known; the others are priced in PyTorch, which keeps more.
_PACKAGES: Mapping[str, str] = {
    **dict.fromkeys(("olmo_hybrid", "qwen3_5", "qwen3_5_moe"), _DELTA_NET_PACKAGES),
    **dict.fromkeys(("qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"), _DELTA_NET_PACKAGES),
    **dict.fromkeys(("bamba", "falcon_h1", "granitemoehybrid", "mamba2", "nemotron_h", "zamba2"), _MAMBA_PACKAGES),
}


def recurrent_kernels(config: Mapping[str, Any], gpu: GpuSpec | None) -> str:
    """Return the packages whose kernels run a model's recurrent layers: those of the machine, or all of them.

    transformers takes a package where it is installed, and its own PyTorch code elsewhere; the packages need Triton.

    Args:
        config: The model's configuration.
        gpu: The device; None for an NVIDIA card of another machine, which is taken to have the packages.

    Source:
        transformers integrations/hub_kernels.py, use_kernel_func_from_hub_with_fallback (5.23).
    """
    if chunk_tokens(config) is None:
        return "auto"
    wanted = _PACKAGES.get(str(config.get("model_type")), "")
    if gpu is not None and gpu.backend != "cuda":
        return PYTORCH
    installed = None if gpu is None else gpu.recurrent_packages
    return "+".join(name for name in wanted.split("+") if name and (installed is None or name in installed)) or PYTORCH


def is_aligned(config: Mapping[str, Any], length: int) -> bool:
    """Return whether a sequence fills its last chunk, so that nothing is padded or cut off again."""
    chunk = chunk_tokens(config)
    return chunk is not None and chunk != PER_TOKEN and length % chunk == 0
