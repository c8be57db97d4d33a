"""Builds the model of a plan: base, quantization, adapter, checkpointing; for a run and for a trace."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from huggingface_hub.errors import StrictDataclassError
from peft import get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel
from transformers.core_model_loading import build_glob_alternation
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers.base import HfQuantizer
from transformers.utils import is_flash_attn_2_available

from specs import METHODS, FinetunePlan, PlanError, SpecError
from trainer.model.adapters import adapter_config

META = "meta"

# Block sizes of bitsandbytes 0.50.2, ``functional.quantize_4bit``: weights per constant, constants per nested constant.
BLOCKSIZE = 64
NESTED_BLOCKSIZE = 256

Source: TypeAlias = PretrainedConfig | Mapping[str, Any] | Path | str


def build(plan: FinetunePlan, source: Source, *, device: str) -> nn.Module:
    """Return the model that a plan trains, in training mode: frozen, quantized and with an adapter as the plan says.

    Args:
        plan: What to build.
        source: On a real device, the folder (or Hub id) with the weights; on ``meta``, also a configuration.
        device: A torch device such as ``cpu`` or ``cuda:0``, or ``meta`` for shapes without weights.

    Raises:
        SpecError: If the model is of an unknown kind or cannot be read.
        PlanError: If the plan names modules that the model lacks, or needs a package that is not installed.
    """
    base = base_model(plan, source, device=device)
    prepared = with_checkpointing(prepared_base(base, plan), plan)
    return with_adapter(prepared, plan).train()


def base_model(plan: FinetunePlan, source: Source, *, device: str) -> PreTrainedModel:
    """Return the base model of a plan, quantized as the plan says, without adapter."""
    config = model_config(source)
    attention = _attention(plan, config, device)
    if device == META:
        return _meta_base(plan, config, attention)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=getattr(torch, plan.dtype),
            attn_implementation=attention,
            quantization_config=bnb_config(plan),
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=Path(str(source)).is_dir(),
        )
    except (OSError, ValueError) as error:
        way_out = "Choose a folder with config.json and safetensors weights"
        raise SpecError(str(source), "cannot be loaded as a causal language model", str(error), way_out) from error
    model.config.use_cache = False
    _set_backbone_name(model)
    _keep_trainable_layout(model)
    return model


def model_config(source: Source) -> PretrainedConfig:
    """Return transformers' configuration object for a folder, a Hub id, a ``config.json`` as a mapping, or itself.

    Raises:
        SpecError: If transformers does not know this kind of model.
    """
    if isinstance(source, PretrainedConfig):
        return source
    try:
        if isinstance(source, Path | str):
            return AutoConfig.from_pretrained(
                source, trust_remote_code=False, local_files_only=Path(str(source)).is_dir()
            )
        kept = {name: value for name, value in source.items() if name not in {"model_type", "auto_map"}}
        return AutoConfig.for_model(str(source.get("model_type", "")), **kept)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        subject = source.get("model_type", "config.json") if isinstance(source, Mapping) else source
        way_out = "Use a model whose model_type transformers supports"
        raise SpecError(str(subject), "is not a model that transformers can build", str(error), way_out) from error


def bnb_config(plan: FinetunePlan) -> BitsAndBytesConfig | None:
    """Return the quantization of a plan as a bitsandbytes configuration, or None."""
    if plan.quantization == "none":
        return None
    if plan.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=plan.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=plan.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=getattr(torch, plan.dtype),
        bnb_4bit_quant_storage=getattr(torch, plan.bnb_4bit_quant_storage),
    )


def prepared_base(model: PreTrainedModel, plan: FinetunePlan) -> PreTrainedModel:
    """Return the base model: frozen if there is an adapter, with 32-bit norms and head under ``prepare_kbit``."""
    if plan.prepare_kbit:
        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if METHODS[plan.method].trains_adapter:
        model.requires_grad_(requires_grad=False)
    return model


def with_checkpointing(model: PreTrainedModel, plan: FinetunePlan) -> PreTrainedModel:
    """Return the model with gradient checkpointing as the plan says; transformers 5 calls it activation checkpointing.

    With an adapter, the embedding's output requires gradients, as in TRL's ``SFTTrainer``.
    """
    if plan.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": plan.use_reentrant})
        if METHODS[plan.method].trains_adapter:
            model.enable_input_require_grads()
    return model


def with_adapter(model: PreTrainedModel, plan: FinetunePlan) -> nn.Module:
    """Return the model wrapped by PEFT with an adapter in ``adapter_dtype``; unchanged under full fine-tuning."""
    if not METHODS[plan.method].trains_adapter:
        return model
    with warnings.catch_warnings():
        # PEFT 0.21 reads a property that transformers 5.23 has renamed.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        # PEFT 0.21 adds ranks for fused experts on its own, without effect on other modules.
        warnings.filterwarnings("ignore", message=".*_pattern keys did not match", category=RuntimeWarning)
        try:
            wrapped = get_peft_model(model, adapter_config(plan, model), autocast_adapter_dtype=False)
        except ValueError as error:
            experts = "lora_dropout" in str(error)
            way_out = "Set lora_dropout to 0" if experts else "Choose other target_modules, or method full"
            raise PlanError("method", "PEFT cannot put this adapter on the model", str(error), way_out) from error
    dtype = getattr(torch, plan.adapter_dtype)
    for name, parameter in wrapped.named_parameters():
        # AdaLoRA's rank counts are constants, but PEFT 0.21 makes them trainable when it builds them on meta.
        if ".ranknum." in name:
            parameter.requires_grad = False
        # Updates of DoRA's magnitudes are too small for bfloat16: the magnitudes stay in 32 bit, as in TRL.
        if parameter.requires_grad and "lora_magnitude_vector" not in name:
            parameter.data = parameter.data.to(dtype)
    return wrapped


@contextmanager
def kept_adapter_dtype(model: nn.Module) -> Iterator[None]:
    """Restore the values and dtype that trainable weights had before the block.

    TRL 1.16 ``SFTTrainer.__init__`` casts the adapter of a quantized model to bfloat16: this would override the plan's
    ``adapter_dtype``, and a CPU without bfloat16 units would train many times slower.
    """
    kept = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad]
    yield
    for parameter, data in kept:
        parameter.data = data


def _attention(plan: FinetunePlan, config: PretrainedConfig, device: str) -> str:
    """Return the attention to build with: the plan's, or eager if the architecture has no SDPA.

    On meta the flash-attn package is not needed: SDPA keeps the same tensors.
    """
    has_sdpa = getattr(AutoModelForCausalLM._model_mapping.get(type(config), None), "_supports_sdpa", False)
    if plan.attn_implementation == "flash_attention_2" and device != META:
        if not device.startswith("cuda") or not is_flash_attn_2_available():
            rule = "flash_attention_2 needs the flash-attn package and a CUDA device"
            raise PlanError("attn_implementation", rule, device, "Choose sdpa")
        return plan.attn_implementation
    return "eager" if plan.attn_implementation == "eager" or not has_sdpa else "sdpa"


def _meta_base(plan: FinetunePlan, config: PretrainedConfig, attention: str) -> PreTrainedModel:
    """Return the base model on the meta device, with the modules and dtypes that loading real weights would give."""
    dtype = getattr(torch, plan.dtype)
    try:
        with torch.device(META):
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
            )
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise SpecError(
            config.model_type, "is not a causal language model that transformers can build", str(error)
        ) from error
    model.config.use_cache = False
    _set_backbone_name(model)
    _keep_in_32_bit(model, dtype)
    quantization = bnb_config(plan)
    if quantization is not None:
        # The same rule as transformers' loader: the output head and tied weights stay in the model's dtype.
        kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
        model = replace_with_bnb_linear(model, modules_to_not_convert=kept, quantization_config=quantization)
        for module in model.modules():
            _quantize_on_meta(module, dtype)
        _keep_trainable_layout(model)
        # transformers' loader sets these attributes, and PEFT and TRL read them.
        model.is_loaded_in_4bit, model.is_loaded_in_8bit = plan.load_in_4bit, plan.load_in_8bit
        model.is_quantized = True
    return model


def _set_backbone_name(model: PreTrainedModel) -> None:
    """Let TRL's chunked loss find the layers: transformers 5.23 gives Llama 4 a prefix that its text model lacks."""
    if model.base_model is model and isinstance(getattr(model, "model", None), nn.Module):
        model.base_model_prefix = "model"


def _keep_trainable_layout(model: nn.Module) -> None:
    """Stop 4-bit layers from repacking their weights for inference.

    On a CPU with AVX512-BF16, bitsandbytes 0.50 ``Linear4bit.forward`` repacks them on the first call in evaluation
    mode, and the kernel for that layout has no gradient: training after an evaluation would silently learn nothing.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _keep_in_32_bit(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast what some architectures keep in 32 bit, as ``from_pretrained`` does and ``from_config`` does not."""
    kept = list(model._get_dtype_plan(dtype))
    if not kept:
        return
    pattern, *_ = build_glob_alternation(kept)
    for name, parameter in model.named_parameters():
        if pattern.search(name):
            parameter.data = parameter.data.to(torch.float32)


def _quantize_on_meta(module: nn.Module, dtype: torch.dtype) -> None:
    """Give a quantized layer on meta the tensors that quantizing real weights would produce."""
    if isinstance(module, Linear4bit):
        shape = (module.out_features, module.in_features)
        packing = 2 * module.quant_storage.itemsize
        packed = torch.empty((shape[0] * shape[1] + 1) // packing, 1, dtype=module.quant_storage, device=META)
        old = module.weight
        module.weight = Params4bit(
            packed,
            requires_grad=False,
            quant_state=_meta_quant_state(shape, dtype, quant_type=old.quant_type, nested=old.compress_statistics),
            compress_statistics=old.compress_statistics,
            quant_type=old.quant_type,
            quant_storage=module.quant_storage,
            module=module,
            bnb_quantized=True,
        )
        module.quant_state = module.weight.quant_state
        # DoRA copies the layer that it wraps, and bitsandbytes cannot copy a parameter on meta.
        module.weight.__deepcopy__ = lambda _memo, weight=module.weight: weight
    elif isinstance(module, Linear8bitLt):
        weight = torch.empty(module.out_features, module.in_features, dtype=torch.int8, device=META)
        scales = torch.empty(module.out_features, dtype=torch.float32, device=META)
        module.weight = Int8Params(weight, requires_grad=False, has_fp16_weights=False, CB=weight, SCB=scales)
    else:
        return
    if module.bias is not None:
        module.bias.data = module.bias.data.to(dtype)


def _meta_quant_state(shape: tuple[int, int], dtype: torch.dtype, *, quant_type: str, nested: bool) -> QuantState:
    """Return the constants of a 4-bit weight on meta, laid out as ``bitsandbytes.functional.quantize_4bit`` does."""
    blocks = -(-shape[0] * shape[1] // BLOCKSIZE)
    code = torch.empty(16, dtype=torch.float32, device=META)
    common = {
        "shape": torch.Size(shape),
        "code": code,
        "blocksize": BLOCKSIZE,
        "quant_type": quant_type,
        "dtype": dtype,
    }
    if not nested:
        return QuantState(absmax=torch.empty(blocks, dtype=torch.float32, device=META), **common)
    state2 = QuantState(
        absmax=torch.empty(-(-blocks // NESTED_BLOCKSIZE), dtype=torch.float32, device=META),
        code=torch.empty(256, dtype=torch.float32, device=META),
        blocksize=NESTED_BLOCKSIZE,
        dtype=torch.float32,
    )
    absmax = torch.empty(blocks, dtype=torch.uint8, device=META)
    return QuantState(absmax=absmax, offset=torch.empty((), device=META), state2=state2, **common)
