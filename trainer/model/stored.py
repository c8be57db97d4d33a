"""Checkpoints whose weights are quantized already: taken as they are, or expanded while loading and quantized anew."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from torch import nn
from transformers import BitsAndBytesConfig, FineGrainedFP8Config, Mxfp4Config, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name

from specs import FinetunePlan
from specs.stored import EXPANDED, PACKAGES, require_stored, stored_in
from trainer.model.experts import quantize_stacked_experts, stacked_experts
from trainer.model.packing import packed

_EXPANSIONS = {"mxfp4": Mxfp4Config, "fp8": FineGrainedFP8Config}


def format_of(config: PretrainedConfig) -> str:
    """Return how the weights of a model are stored: ``4bit``, ``8bit``, a ``quant_method``, or nothing for 16 bit."""
    return stored_in({"quantization_config": getattr(config, "quantization_config", None)})


def bnb_config(plan: FinetunePlan, config: PretrainedConfig, skipped: Sequence[str] = ()) -> BitsAndBytesConfig | None:
    """Return how bitsandbytes quantizes a model: as its file says if that is quantized, or else as the plan says.

    Args:
        plan: The plan.
        config: The model's configuration.
        skipped: Modules to leave as they are; without any, transformers leaves out the output head.

    Raises:
        PlanError: If the plan asks for other weights than the file has.
    """
    require_stored(plan, {"quantization_config": getattr(config, "quantization_config", None)})
    if plan.quantization == "none":
        return None
    if format_of(config) in {"4bit", "8bit"}:
        stored: BitsAndBytesConfig = BitsAndBytesConfig.from_dict(dict(config.quantization_config))
        stored.bnb_4bit_compute_dtype = getattr(torch, plan.dtype)
        stored.llm_int8_skip_modules = [*(stored.llm_int8_skip_modules or ()), *skipped] or None
        return stored
    if plan.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(skipped) or None)
    return BitsAndBytesConfig(
        llm_int8_skip_modules=list(skipped) or None,
        load_in_4bit=True,
        bnb_4bit_quant_type=plan.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=plan.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=getattr(torch, plan.dtype),
        bnb_4bit_quant_storage=getattr(torch, plan.bnb_4bit_quant_storage),
    )


def loading(plan: FinetunePlan, config: PretrainedConfig, device: str, skipped: Sequence[str]) -> dict[str, Any]:
    """Return how transformers loads the weights: what is expanded goes to RAM first if it is to be quantized anew."""
    quantization, kind = bnb_config(plan, config, skipped), format_of(config)
    if kind in EXPANDED:
        place = device if quantization is None else "cpu"
        return {"quantization_config": expansion(config), "device_map": {"": place}}
    if kind in {"4bit", "8bit"} and quantization is not None:
        # The file's own settings count, but for the dtype to compute in.
        config.quantization_config = quantization.to_dict()
        quantization = None
    return {"quantization_config": quantization, "device_map": {"": device}}


def expansion(config: PretrainedConfig) -> Any:
    """Return what tells transformers to expand the weights of a file while loading them; None if it has none to."""
    kind = format_of(config)
    return _EXPANSIONS[kind](dequantize=True) if kind in EXPANDED else None


def settle(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Make an expanded model like one loaded in this dtype from a file in 16 bit, also in how it is saved.

    transformers 5.23 expands FP8 to bfloat16 whatever dtype is asked for, and would save a model under the names that
    the format of its file has.
    """
    for parameter in model.parameters():
        if parameter.dtype in {torch.bfloat16, torch.float16}:
            parameter.data = parameter.data.to(dtype)
    model._weight_conversions = get_model_conversion_mapping(model, add_legacy=False)


def in_16_bit(config: PretrainedConfig) -> PretrainedConfig:
    """Return the configuration of the same model with 16-bit weights, which a model on meta is built from.

    Weights that need a package of their own cannot be laid out from 16-bit ones.
    """
    if format_of(config) in {"", *PACKAGES}:
        return config
    plain = copy.deepcopy(config)
    del plain.quantization_config
    return plain


def quantize(model: PreTrainedModel, quantization: BitsAndBytesConfig, device: str) -> PreTrainedModel:
    """Return a loaded 16-bit model in 4 bit on a device, of which one weight at a time is there in 16 bit."""
    skipped = quantization.llm_int8_skip_modules
    kept = HfQuantizer.get_modules_to_not_convert(model, skipped, model._keep_in_fp32_modules)
    weights = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    model = replace_with_bnb_linear(model, modules_to_not_convert=kept, quantization_config=quantization)
    for name, module in list(model.named_modules()):
        if isinstance(module, Linear4bit):
            module.weight = packed(weights[name].weight.data.to(device), quantization, module)
            module.quant_state = module.weight.quant_state
            module.bias = weights.pop(name).bias
    for path in stacked_experts(model):
        owner, name = get_module_from_name(model, path)
        setattr(owner, name, nn.Parameter(getattr(owner, name).data.to(device), requires_grad=False))
    quantize_stacked_experts(model, quantization, kept)
    # transformers' loader sets these attributes, and its trainer, PEFT and TRL read them.
    model.is_loaded_in_4bit, model.is_quantized, model.config._is_quantized = True, True, True
    model.hf_quantizer = Bnb4BitHfQuantizer(quantization)
    return model.to(device)
