"""Builds the model of a plan: base, quantization, adapter; for a run and for a trace."""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers
from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt
from peft import get_peft_model, prepare_model_for_kbit_training
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import AutoConfig, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel
from transformers.core_model_loading import build_glob_alternation
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils import is_flash_attn_2_available

from specs import METHODS, TASK_TYPES, FinetunePlan, PlanError, SpecError
from trainer.model.adapters import adapter_config, let_dtypes_meet
from trainer.model.checkpointing import with_checkpointing
from trainer.model.expert_adapters import reaching_experts
from trainer.model.experts import quantize_stacked_experts, quantized_while_loading
from trainer.model.layers import task_head, unread_pooler
from trainer.model.misfit import misfit
from trainer.model.packing import META, packed
from trainer.model.stored import bnb_config, expansion, format_of, in_16_bit, loading, quantize, settle
from trainer.model.streaming import offload_layers
from trainer.model.towers import auto_class

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
    base = adaptable(plan, source, device=device)
    return placed(with_adapter(base, plan), base, plan, device=device).train()


def adaptable(plan: FinetunePlan, source: Source, *, device: str) -> PreTrainedModel:
    """Return all of a plan's model but its adapter; where layers are to wait in RAM, it is not on its device yet."""
    base = base_model(plan, source, device=device)
    return with_checkpointing(prepared_base(base, plan), plan, device=device)


def placed(model: nn.Module, base: PreTrainedModel, plan: FinetunePlan, *, device: str) -> nn.Module:
    """Return a whole model on its device: it is there already, unless the plan's layers wait in RAM.

    An adapter may begin as its layers' weights say, and so must be on before these go.
    """
    if plan.layer_offloading and device != META:
        offload_layers(model, base, device=device)
    return model


def base_model(plan: FinetunePlan, source: Source, *, device: str) -> PreTrainedModel:
    """Return the base model of a plan, quantized as the plan says, without adapter.

    Where layers are to wait in RAM, all of it is in RAM: ``placed`` moves the rest once the model is whole.
    """
    config = _with_labels(model_config(source), plan)
    attention = _attention(plan, config, device)
    if device == META:
        return _meta_base(plan, config, attention)
    skipped = _unquantized(plan, config)
    place = "cpu" if plan.layer_offloading else device
    try:
        with quantized_while_loading():
            model, loaded = class_of(plan, config).from_pretrained(
                source,
                config=config,
                dtype=getattr(torch, plan.dtype),
                attn_implementation=attention,
                **loading(plan, config, place, skipped),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=Path(str(source)).is_dir(),
                output_loading_info=True,
            )
    except (OSError, ValueError, ImportError) as error:
        way_out = "Choose a folder with config.json and safetensors weights"
        rule = f"cannot be loaded for {TASK_TYPES[plan.task_type].label}"
        raise SpecError(str(source), rule, str(error), way_out) from error
    _require_all_weights(model, loaded["missing_keys"], str(source))
    quantization = bnb_config(plan, config, skipped)
    if expansion(config):
        settle(model, getattr(torch, plan.dtype))
    if quantization is not None and expansion(config):
        model = quantize(model, quantization, place)
    _use_no_cache(model)
    _set_backbone_name(model)
    _set_num_experts(model)
    _keep_trainable_layout(model)
    _freeze_unread(model)
    return model


def _freeze_unread(model: PreTrainedModel) -> None:
    """Train nothing that has no effect: the model keeps a pooler that embeddings pass by."""
    pooler = unread_pooler(model)
    if pooler is not None:
        pooler.requires_grad_(requires_grad=False)


def _require_all_weights(model: PreTrainedModel, missing: Iterable[str], source: str) -> None:
    """Refuse a checkpoint that lacks weights of anything but a new head: transformers fills them with random numbers.

    Raises:
        SpecError: If it lacks any.
    """
    pooler = ("pooler",) if unread_pooler(model) is not None else ()
    new = tuple(f"{name}." for name in (*task_head(model), *pooler))
    lacking = [name for name in missing if not name.startswith(new)]
    if lacking:
        rule = f"lacks {len(lacking)} weights of the model that config.json describes"
        raise SpecError(source, rule, min(lacking), "Choose a folder with all weights")


def expanded(source: str, config: PretrainedConfig, kind: Any) -> PreTrainedModel:
    """Return a model with all weights in 32 bit, also those that are stored quantized.

    Args:
        source: The folder or Hub id with the weights.
        config: What to build.
        kind: The class of transformers to load it with.
    """
    model = kind.from_pretrained(
        source,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        **({"quantization_config": expansion(config)} if expansion(config) else {}),
    )
    if format_of(config) in {"4bit", "8bit"}:
        model = model.dequantize(torch.float32)
    if format_of(config):
        settle(model, torch.float32)
    return model


def model_config(source: Source) -> PretrainedConfig:
    """Return transformers' configuration object for a folder, a Hub id, a ``config.json`` as a mapping, or itself.

    Raises:
        SpecError: If transformers does not know this kind of model.
    """
    if isinstance(source, PretrainedConfig):
        return source
    named = source if isinstance(source, Mapping) else _file_of(source)
    if (named or isinstance(source, Mapping)) and named.get("model_type") not in CONFIG_MAPPING:
        rule, way_out = "must be a model_type that transformers has", "Choose another model"
        raise SpecError("model_type", rule, named.get("model_type"), way_out)
    try:
        if isinstance(source, Path | str):
            return AutoConfig.from_pretrained(
                source, trust_remote_code=False, local_files_only=Path(str(source)).is_dir()
            )
        plain = PretrainedConfig._decode_special_floats(dict(source))
        kept = {name: value for name, value in plain.items() if name not in {"model_type", "auto_map"}}
        return AutoConfig.for_model(str(source.get("model_type", "")), **kept)
    except OSError as error:
        way_out = "Choose a folder with config.json and safetensors weights"
        raise SpecError(str(source), "has no configuration that can be read", None, way_out) from error
    except Exception as error:
        raise misfit(error, named) from error


def _file_of(source: Path | str) -> Mapping[str, Any]:
    """Return what the ``config.json`` of a folder holds; nothing for one of the Hub, or one that cannot be read."""
    try:
        found = json.loads((Path(source) / "config.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}


def class_of(plan: FinetunePlan, config: PretrainedConfig) -> Any:
    """Return the class of transformers that loads the model of a plan's task."""
    task = TASK_TYPES[plan.task_type]
    return auto_class(config) if task.name == "CAUSAL_LM" else getattr(transformers, task.auto_class)


def with_classes(model: PreTrainedModel, result: Path) -> PreTrainedModel:
    """Return a model whose outputs have the names, and its padding the token, that a run's result says."""
    known = model_config(result)
    model.config.id2label, model.config.label2id = known.id2label, known.label2id
    model.config.get_text_config().pad_token_id = known.get_text_config().pad_token_id
    return model


def _with_labels(config: PretrainedConfig, plan: FinetunePlan) -> PretrainedConfig:
    """Return a configuration with as many labels as the plan has, where the task has a head for them."""
    task = TASK_TYPES[plan.task_type]
    if task.has_head:
        config.problem_type = task.problem_type
        if config.num_labels != plan.num_labels:
            config.num_labels = plan.num_labels
    return config


# Linear layers whose weight the model's code uses itself, which a packed weight does not allow: Mamba-2 hands it to its
# fused kernel, LongCat casts its router's, Gemma 3n clamps those of AltUp, DeepSeek V4 has one for each group of heads.
# transformers 5.23, the modelling code.
_USED_WHOLE: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("bamba", "falcon_h1", "granitemoehybrid", "mamba2", "nemotron_h", "zamba2"), ("out_proj",)),
    "deepseek_v4": ("o_a_proj",),
    "gemma3n_text": ("correction_coefs", "prediction_coefs"),
    "longcat_flash": ("classifier",),
}


def _unquantized(plan: FinetunePlan, config: PretrainedConfig) -> tuple[str, ...]:
    """Return the modules that are never quantized, if they are not just the output head.

    A task's head is trained whole, and some weights are used by the model's own code.
    """
    if plan.quantization == "none":
        return ()
    whole = _USED_WHOLE.get(config.get_text_config().model_type, ())
    if TASK_TYPES[plan.task_type].has_head:
        with torch.device(META):
            head = task_head(class_of(plan, config).from_config(config, trust_remote_code=False))
        return (*head, *whole)
    # A list replaces transformers' own, which leaves out the output head.
    return ("lm_head", *whole) if whole else ()


def prepared_base(model: PreTrainedModel, plan: FinetunePlan) -> PreTrainedModel:
    """Return the base model: frozen if there is an adapter, with 32-bit norms and head under ``prepare_kbit``."""
    if plan.prepare_kbit:
        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if METHODS[plan.method].trains_adapter:
        model.requires_grad_(requires_grad=False)
    return model


def with_adapter(model: PreTrainedModel, plan: FinetunePlan) -> nn.Module:
    """Return the model wrapped by PEFT with an adapter in ``adapter_dtype``; unchanged under full fine-tuning."""
    if not METHODS[plan.method].trains_adapter:
        return model
    with warnings.catch_warnings():
        # PEFT 0.21 reads a property that transformers 5.23 has renamed.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        # PEFT 0.21 says of each norm that it is no linear layer, and of each new bias that it cannot be merged.
        warnings.filterwarnings("ignore", message="Unsupported layer type", category=UserWarning)
        warnings.filterwarnings("ignore", message="Detected that the base layer has no bias", category=UserWarning)
        # Matrices without numbers would be no start for a run that is resumed and so reads no rows.
        warnings.filterwarnings("ignore", message="lora with eva initialization", category=UserWarning)
        # OFT's blocks divide a layer's inputs: the plan says so, and specs/adapters.py counts them.
        warnings.filterwarnings("ignore", message="Invalid `oft_block_size`", category=UserWarning)
        # PEFT 0.21 adds ranks for fused experts on its own, without effect on other modules.
        warnings.filterwarnings("ignore", message=".*_pattern keys did not match", category=RuntimeWarning)
        try:
            with reaching_experts():
                wrapped = get_peft_model(model, adapter_config(plan, model), autocast_adapter_dtype=False)
        except (ValueError, TypeError, NotImplementedError) as error:
            experts = "lora_dropout" in str(error)
            way_out = "Set lora_dropout to 0" if experts else "Choose other target_modules, or method full"
            raise PlanError("method", "PEFT cannot put this adapter on the model", str(error), way_out) from error
    dtype, copies = getattr(torch, plan.adapter_dtype), (*plan.modules_to_save, "token_adapter")
    for name, parameter in wrapped.named_parameters():
        # AdaLoRA's rank counts are constants, but PEFT 0.21 makes them trainable when it builds them on meta.
        if ".ranknum." in name:
            parameter.requires_grad = False
        # Updates of DoRA's magnitudes are too small for bfloat16: the magnitudes stay in 32 bit, as in TRL.
        # Copies of what the base model has keep its dtype, as in PEFT: what is around them computes in it.
        if parameter.requires_grad and "lora_magnitude_vector" not in name and not _is_copy(name, copies):
            parameter.data = parameter.data.to(dtype)
    if plan.autocast_dtype is None:
        _cast_inputs_of_heads(wrapped)
    return let_dtypes_meet(wrapped)


def _is_copy(name: str, copies: Iterable[str]) -> bool:
    """Return whether a trained weight is one of the base model's own, trained whole, or a token's embedding."""
    return any(f".{copy}." in f".{name}" for copy in copies)


def _cast_inputs_of_heads(model: nn.Module) -> None:
    """Let a head that is trained in another dtype than the base model's take its inputs: an adapter does so itself."""

    def cast(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        dtype = next(module.parameters()).dtype
        return tuple(
            one.to(dtype) if isinstance(one, torch.Tensor) and one.is_floating_point() else one for one in inputs
        )

    for wrapper in model.modules():
        if isinstance(wrapper, ModulesToSaveWrapper):
            for module in wrapper.modules_to_save.values():
                module.register_forward_pre_hook(cast)


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
    has_sdpa = getattr(class_of(plan, config)._model_mapping.get(type(config), None), "_supports_sdpa", False)
    if plan.attn_implementation == "flash_attention_2" and device != META:
        if not device.startswith("cuda") or not is_flash_attn_2_available():
            rule = "flash_attention_2 needs the flash-attn package and a CUDA device"
            raise PlanError("attn_implementation", rule, device, "Choose sdpa")
        return plan.attn_implementation
    return "eager" if plan.attn_implementation == "eager" or not has_sdpa else "sdpa"


def _meta_base(plan: FinetunePlan, config: PretrainedConfig, attention: str) -> PreTrainedModel:
    """Return the base model on the meta device, with the modules and dtypes that loading real weights would give."""
    dtype = getattr(torch, plan.dtype)
    quantization = bnb_config(plan, config, _unquantized(plan, config))
    config = in_16_bit(config)
    try:
        with torch.device(META):
            model = class_of(plan, config).from_config(
                config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
            )
    except Exception as error:
        raise misfit(error, config.to_dict()) from error
    _freeze_unread(model)
    _use_no_cache(model)
    _set_backbone_name(model)
    _set_num_experts(model)
    _keep_in_32_bit(model, dtype)
    if quantization is not None:
        # The same rule as transformers' loader: the output head and tied weights stay in the model's dtype.
        skipped = [*(quantization.llm_int8_skip_modules or ()), *task_head(model)] or None
        kept = HfQuantizer.get_modules_to_not_convert(model, skipped, model._keep_in_fp32_modules)
        model = replace_with_bnb_linear(model, modules_to_not_convert=kept, quantization_config=quantization)
        for module in model.modules():
            _quantize_on_meta(module, dtype, quantization)
        if plan.load_in_4bit:
            quantize_stacked_experts(model, quantization, kept)
        _keep_trainable_layout(model)
        # transformers' loader sets these attributes, and PEFT and TRL read them.
        model.is_loaded_in_4bit, model.is_loaded_in_8bit = plan.load_in_4bit, plan.load_in_8bit
        model.is_quantized = True
        model.config._is_quantized = True
    return model


def _use_no_cache(model: PreTrainedModel) -> None:
    """Keep no keys and values: a training step has no use for them. An encoder and a decoder have a copy each."""
    for part in (model, *(part for part in model.modules() if isinstance(part, PreTrainedModel))):
        part.config.use_cache = part.config.get_text_config().use_cache = False


def _set_num_experts(model: PreTrainedModel) -> None:
    """Let TRL's chunked loss find the number of experts: it knows only one of the names that configurations have."""
    text = model.config.get_text_config()
    found = getattr(text, "num_local_experts", None)
    if found is not None and not hasattr(text, "num_experts"):
        text.num_experts = found


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


def _quantize_on_meta(module: nn.Module, dtype: torch.dtype, quantization: BitsAndBytesConfig) -> None:
    """Give a quantized layer on meta the tensors that quantizing real weights would produce."""
    if isinstance(module, Linear4bit):
        whole = torch.empty(module.out_features, module.in_features, dtype=dtype, device=META)
        module.weight = packed(whole, quantization, module)
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
