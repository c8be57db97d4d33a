"""How several devices share the work of a plan, and what each way needs of other fields."""

from typing import Any

from specs.fields import PlanFields, Sharding

UNSHARDED = frozenset({"none", "ddp"})
"""Values of ``sharding`` that leave the weights whole on each device."""
DIVIDES_WEIGHTS = frozenset({"zero3", "fsdp"})
"""Values of ``sharding`` that divide the weights themselves."""
BITSANDBYTES_OPTIMIZERS = frozenset({"adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "lion_8bit"})
"""bitsandbytes optimizers, which cannot update weights that are divided: https://huggingface.co/docs/bitsandbytes,
"FSDP-QLoRA"."""
# deepspeed/runtime/zero/config.py: offload_param needs stage 3; torch's CPUOffloadPolicy moves everything at once.
OFFLOADS: dict[str, tuple[str, ...]] = {
    "zero1": ("none", "optimizer"),
    "zero2": ("none", "optimizer"),
    "zero3": ("none", "optimizer", "all"),
    "fsdp": ("none", "all"),
}
"""What each way to divide a model can keep in RAM; the others keep nothing there."""


def needed(plan: PlanFields, sharding: Sharding | str) -> dict[str, Any]:
    """Return the fields that must follow when a plan's devices share the work in another way, with their values.

    4-bit weights are packed into the dtype of the others where weights are divided, and into bytes where not; the
    optimizers of bitsandbytes give way to PyTorch's.
    """
    wished: dict[str, Any] = {}
    if plan.load_in_4bit:
        wished["bnb_4bit_quant_storage"] = plan.dtype if sharding in DIVIDES_WEIGHTS else "uint8"
    if sharding not in UNSHARDED and plan.optim in BITSANDBYTES_OPTIMIZERS:
        wished["optim"] = "adamw_torch_fused"
    if plan.offload not in OFFLOADS.get(sharding, ("none",)):
        wished["offload"] = "none"
    return {name: value for name, value in wished.items() if getattr(plan, name) != value}
