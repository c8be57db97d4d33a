"""Which kernel computes attention, which decides whether memory grows with the length or with its square."""

from dataclasses import dataclass
from typing import Literal

from specs import FinetunePlan, GpuSpec, ModelSpec, gib

Kernel = Literal["flash", "cudnn", "mem_efficient", "math", "eager"]
TapeKernel = Literal["flash", "mem_efficient", "math", "eager"]

# fmt: off
WITHOUT_SDPA = frozenset({
    "big_bird", "bigbird_pegasus", "bloom", "codegen", "cpmant", "deepseek_v4", "falcon_mamba", "flint", "gemma2",
    "git", "got_ocr2", "gpt_neo", "gpt_neox_japanese", "gpt_oss", "gptj", "granite_swa", "granitemoe_swa", "hy_v4",
    "inkling2_text", "mamba", "mamba2", "megatron-bert", "mimo_v2_flash", "mpt", "mvp", "openai-gpt", "prophetnet",
    "reformer", "rembert", "roformer", "rwkv", "trocr", "vaultgemma", "xglm", "xlm", "xlnet", "xlstm",
})
# fmt: on
"""Architectures that compute attention eagerly: transformers 5.23, models with ``_supports_sdpa = False``."""

# fmt: off
ENCODERS_WITHOUT_SDPA = frozenset({
    "big_bird", "bigbird_pegasus", "canine", "convbert", "deberta", "deberta-v2", "flaubert", "fnet", "fsmt",
    "funnel", "layoutlmv3", "led", "lilt", "longformer", "longt5", "luke", "markuplm", "megatron-bert", "mpnet",
    "mra", "mvp", "nllb-moe", "nystromformer", "pegasus_x", "perceiver", "prophetnet", "reformer", "rembert",
    "roformer", "switch_transformers", "tapas", "yoso",
})
# fmt: on
"""The same for encoders, alone or with a decoder: ``has_sdpa`` in assets/encoders.json."""

# AMD cards that AOTriton is compiled for; on RDNA 3 and 4 it needs TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL=1.
_AOTRITON = frozenset({"CDNA 2.0", "CDNA 3.0", "CDNA 4.0"})

_MODERN = (8, 0)
_LARGEST_FUSED_HEAD = 256
_LARGEST_CUDNN_HEAD = 128
_SHORTER = "Turn gradient_checkpointing on, so that only one layer's scores exist at a time, or shorten max_length"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelChoice:
    """The kernel that computes attention in a training step, and why."""

    kernel: Kernel
    reason: str
    """One clause: what rules out the better kernels, or what lets the best one run."""
    masked: bool = False
    """Whether there is a padding mask."""
    way_out: str = ""
    """What would let a better kernel run if PyTorch falls back silently; otherwise empty."""

    @property
    def tape_kernel(self) -> TapeKernel:
        """The kernel whose tape has the same tensors: cuDNN keeps what flash does, or mem-efficient with a mask."""
        if self.kernel == "cudnn":
            return "mem_efficient" if self.masked else "flash"
        return self.kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One call of scaled_dot_product_attention."""

    half: bool
    bfloat16: bool
    query_dim: int
    value_dim: int
    grouped: bool
    masked: bool

    @property
    def largest_dim(self) -> int:
        return max(self.query_dim, self.value_dim)


def kernel_choice(model: ModelSpec, plan: FinetunePlan, gpu: GpuSpec | None, *, masked: bool) -> KernelChoice:
    """Return the attention kernel of a plan's training step.

    Args:
        model: Decides head sizes, grouped-query attention, and whether SDPA is implemented at all.
        plan: Decides the implementation and the dtype of queries and keys.
        gpu: The device; None for an NVIDIA card with every kernel.
        masked: Whether the sequences of a batch are padded to the same length.

    Source:
        pytorch aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, select_sdp_backend (torch 2.13); transformers
        integrations/sdpa_attention.py, use_gqa_in_sdpa (5.23).
    """
    if plan.attn_implementation == "flash_attention_2":
        return KernelChoice(kernel="flash", reason="the flash-attn package computes it", masked=masked)
    if plan.attn_implementation == "eager":
        return KernelChoice(kernel="eager", reason="attn_implementation is eager", masked=masked)
    if model.model_type in WITHOUT_SDPA | ENCODERS_WITHOUT_SDPA:
        return KernelChoice(kernel="eager", reason=f"transformers has no SDPA for {model.model_type}", masked=masked)
    call = _call(model, plan, masked=masked)
    if gpu is None or gpu.backend == "cuda":
        return _on_cuda(call, (gpu and gpu.compute_capability) or _MODERN)
    return _on_other_backends(call, gpu)


def fallback_warning(choice: KernelChoice, model: ModelSpec, plan: FinetunePlan) -> str | None:
    """Return a warning about a silent fallback to the math kernel, with its bytes; None if there is no fallback."""
    if choice.kernel != "math":
        return None
    layers = model.num_hidden_layers - max(plan.recomputed_layers(model.num_hidden_layers), 1) + 1
    way_out = "Shorten max_length" if choice.way_out == _SHORTER and layers == 1 else choice.way_out
    kept = layers * score_bytes(plan.per_device_train_batch_size, plan.max_length, model.num_attention_heads)
    return (
        f"PyTorch falls back to its math kernel for attention, which keeps every head's scores in 32-bit "
        f"({gib(kept)} over {layers} layer{'' if layers == 1 else 's'}): {choice.reason}. {way_out}."
    )


def score_bytes(batch: int, length: int, heads: int) -> int:
    """Return the bytes of the scores that the math kernel keeps for the backward pass of one layer.

    Source:
        pytorch aten/src/ATen/native/transformers/attention.cpp, _scaled_dot_product_attention_math: half inputs are
        upcast to float32, and softmax keeps its output.
    """
    return 4 * batch * heads * length * length


def _call(model: ModelSpec, plan: FinetunePlan, *, masked: bool) -> _Call:
    """Return the call that reaches the dispatcher; keys are grouped only if transformers has not repeated them."""
    config = model.text_config
    value_dim = config.get("v_head_dim") or model.head_dim
    rope, nope = config.get("qk_rope_head_dim"), config.get("qk_nope_head_dim")
    query_dim = rope + nope if isinstance(rope, int) and isinstance(nope, int) else model.head_dim
    grouped = model.num_key_value_heads < model.num_attention_heads and "kv_lora_rank" not in config
    repeated = masked or query_dim != value_dim or query_dim > _LARGEST_FUSED_HEAD
    # Without autocast, prepare_model_for_kbit_training leaves the residual stream, and so the queries, in float32.
    dtype = plan.autocast_dtype or ("float32" if plan.prepare_kbit else plan.dtype)
    return _Call(
        half=dtype != "float32",
        bfloat16=dtype == "bfloat16",
        query_dim=query_dim,
        value_dim=value_dim,
        grouped=grouped and not repeated,
        masked=masked,
    )


def _on_cuda(call: _Call, capability: tuple[int, int]) -> KernelChoice:
    if _cudnn_runs(call, capability):
        return KernelChoice(kernel="cudnn", reason="PyTorch prefers cuDNN on this generation", masked=call.masked)
    obstacle = _flash_obstacle(call, capability)
    if obstacle is None:
        return KernelChoice(kernel="flash", reason="16-bit inputs, no mask, a head of at most 256", masked=call.masked)
    if _mem_efficient_runs(call, capability):
        return KernelChoice(kernel="mem_efficient", reason=obstacle, masked=call.masked)
    return KernelChoice(
        kernel="math", reason=_math_reason(call, capability), masked=call.masked, way_out=_way_out(call, capability)
    )


def _cudnn_runs(call: _Call, capability: tuple[int, int]) -> bool:
    """Return whether cuDNN is preferred: check_prefer_cudnn_attention, with the cuDNN that comes with torch 2.13."""
    fits = call.largest_dim <= _LARGEST_CUDNN_HEAD or (call.query_dim, call.value_dim) == (192, 128)
    aligned = call.query_dim % 8 == 0 and call.value_dim % 8 == 0
    return capability[0] in {9, 10} and call.half and fits and aligned


def _flash_obstacle(call: _Call, capability: tuple[int, int]) -> str | None:
    """Return why flash attention cannot run, or None if it can."""
    small_shared_memory = (8, 6) <= capability <= (8, 9) or capability[0] == 12
    obstacles = (
        (not call.half, "flash attention takes 16-bit inputs only"),
        (capability < _MODERN, "flash attention needs compute capability 8.0"),
        (call.masked, "flash attention takes no padding mask"),
        (call.query_dim != call.value_dim, "flash attention needs keys and values of the same size"),
        (call.largest_dim > _LARGEST_FUSED_HEAD, "flash attention takes heads of up to 256"),
        (
            small_shared_memory and 192 < call.query_dim <= 224,
            "flash attention cannot train heads of 193 to 224 on this card",
        ),
    )
    return next((text for found, text in obstacles if found), None)


def _mem_efficient_runs(call: _Call, capability: tuple[int, int]) -> bool:
    """Return whether the memory-efficient kernel runs: no grouped keys, and bfloat16 only from Ampere on."""
    alignment = 8 if call.half else 4
    aligned = call.query_dim % alignment == 0 and call.value_dim % alignment == 0
    return aligned and not call.grouped and (capability >= _MODERN or not call.bfloat16)


def _math_reason(call: _Call, capability: tuple[int, int]) -> str:
    if call.bfloat16 and capability < _MODERN:
        return "before compute capability 8.0 no fused kernel takes bfloat16"
    if call.grouped:
        obstacle = _flash_obstacle(call, capability)
        return f"{obstacle}, and the memory-efficient kernel takes no grouped-query attention"
    return "the head size is not a multiple of 8"


def _way_out(call: _Call, capability: tuple[int, int]) -> str:
    if call.bfloat16 and capability < _MODERN:
        return "Use float16 on this card"
    if not call.half and capability >= _MODERN:
        return "Turn bf16 on, so that flash attention can compute it"
    return _SHORTER


def _on_other_backends(call: _Call, gpu: GpuSpec) -> KernelChoice:
    """Return the kernel on a device that is not NVIDIA's; less is known about these."""
    if gpu.backend == "cpu":
        return KernelChoice(kernel="flash", reason="PyTorch has a flash kernel for CPUs", masked=call.masked)
    if gpu.backend == "xpu":
        return KernelChoice(kernel="flash", reason="oneDNN computes it in one fused kernel", masked=call.masked)
    if gpu.backend == "mps":
        reason = "Metal has a fused kernel for inference only"
        return KernelChoice(kernel="math", reason=reason, masked=call.masked, way_out=_SHORTER)
    if gpu.architecture not in _AOTRITON:
        way_out = "Set TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL=1 on RDNA 3 and 4"
        reason = f"AOTriton is not enabled on {gpu.architecture or 'this card'}"
        return KernelChoice(kernel="math", reason=reason, masked=call.masked, way_out=way_out)
    if call.half and not call.masked and call.query_dim == call.value_dim <= _LARGEST_FUSED_HEAD:
        return KernelChoice(kernel="flash", reason="AOTriton computes it", masked=call.masked)
    if call.grouped:
        reason = "on ROCm the memory-efficient kernel takes no grouped-query attention"
        return KernelChoice(kernel="math", reason=reason, masked=call.masked, way_out="Turn bf16 on")
    return KernelChoice(kernel="mem_efficient", reason="AOTriton computes it", masked=call.masked)
