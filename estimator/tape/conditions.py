"""What affects the memory of a step besides the plan: the loop around it, older libraries, the attention kernel."""

from dataclasses import dataclass
from typing import Literal

AttentionKernel = Literal["auto", "flash", "mem_efficient", "math", "eager", "cpu"]
BnbForward = Literal["auto", "dequantize"]
Padding = Literal["auto", "none", "mask"]
KvCache = Literal["none", "referenced", "copied"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Conditions of a measured run that LoRAFit's own trainer never varies."""

    caller_holds_outputs: bool = False
    """The loop keeps ``outputs`` alive through the backward pass; transformers' Trainer drops it."""
    outputs_unconverted: bool = False
    """Under autocast, outputs stay as the model returns them; accelerate makes 32-bit copies."""
    kv_cache: KvCache = "none"
    """Whether the outputs of a training step hold a KV cache, as a model's default ``use_cache`` has it: the keys and
    values themselves, as before transformers 4.56, or copies that attention reads."""
    kv_repeated: bool = False
    """Keys and values are repeated for all heads before attention, as before transformers used ``enable_gqa``."""
    bnb_forward: BnbForward = "auto"
    """``dequantize``: bitsandbytes before 0.50 expands the whole 4-bit weight in every forward pass."""
    attention_kernel: AttentionKernel = "auto"
    """The kernel that ran; ``auto`` lets card, dtype and shapes decide. ``cpu``: everything runs on the CPU."""
    recurrent_kernels: str = "auto"
    """The packages whose kernels run the recurrent layers, joined by ``+``, such as ``fla+causal_conv1d``; ``torch``
    for none; ``auto`` lets the card and its machine decide, and stands for a model without such layers."""
    shifted_logits: bool = False
    """The loss copies the logits, shifted by one position, as transformers did before it shifted the labels."""
    embeddings_cast_back: bool = False
    """Embedding and head are cast back to bfloat16 after ``prepare_model_for_kbit_training``, as in TRL before it
    dropped that call; trl/models/utils.py, peft_module_casting_to_bf16 (trl 0.13)."""
    liger_loss: bool = False
    """Liger's fused linear cross entropy instead of the plan's loss; TRL 1.16 no longer runs it."""
    padding: Padding = "auto"
    """Whether the batch has a padding mask; ``auto``: if several sequences are padded to the same length."""
