"""How the weights of a checkpoint are stored, and which plans can train them."""

from collections.abc import Mapping
from typing import Any

from specs.errors import PlanError
from specs.plan import FinetunePlan

EXPANDED: Mapping[str, str] = {"mxfp4": "MXFP4", "fp8": "FP8"}
"""Formats that transformers expands to 16 bit while loading, by their ``quant_method``, and what they are called."""

PACKAGES: Mapping[str, tuple[str, ...]] = {"gptq": ("gptqmodel", "optimum"), "awq": ("gptqmodel",)}
"""Formats that transformers loads with further packages: quantizer_gptq.py and quantizer_awq.py of 5.23."""

_FIELDS = ("bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_quant_storage")


def stored_in(config: Mapping[str, Any]) -> str:
    """Return how weights are stored: ``4bit`` or ``8bit`` of bitsandbytes, another ``quant_method``, or nothing."""
    quantization = config.get("quantization_config")
    if not isinstance(quantization, Mapping):
        return "unknown" if quantization else ""
    if quantization.get("load_in_4bit"):
        return "4bit"
    if quantization.get("load_in_8bit"):
        return "8bit"
    return str(quantization.get("quant_method") or "unknown")


def fixed_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plan fields that the weights decide because bitsandbytes has quantized them already."""
    kind, quantization = stored_in(config), config.get("quantization_config", {})
    if kind not in {"4bit", "8bit"}:
        return {}
    said = {name: quantization[name] for name in _FIELDS if kind == "4bit" and name in quantization}
    return {f"load_in_{kind}": True, **said}


def require_stored(plan: FinetunePlan, config: Mapping[str, Any]) -> None:
    """Refuse a plan that asks for other weights than a checkpoint can give.

    Raises:
        PlanError: Names the method that fits.
    """
    kind = stored_in(config)
    if kind in {"4bit", "8bit"} and plan.quantization != kind:
        fitting = "qlora" if kind == "4bit" else "lora-8bit"
        rule = f"must be {fitting} for a checkpoint that bitsandbytes has stored in {kind.replace('bit', ' bit')}"
        raise PlanError("method", rule, plan.method, f"Choose {fitting}, or the 16-bit model that it was made from")
    if kind in EXPANDED and plan.quantization == "8bit":
        rule = f"must not quantize a checkpoint in {EXPANDED[kind]} to 8 bit"
        raise PlanError("method", rule, plan.method, "Choose qlora or lora")
    if kind in PACKAGES and (plan.quantization != "none" or plan.method == "full"):
        raise PlanError("method", f"must be lora for a checkpoint stored in {kind.upper()}", plan.method, "Choose lora")
