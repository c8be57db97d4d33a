"""The plan for ``axolotl train``."""

from typing import Any

from advisor.export.adapters import require_lora
from advisor.export.job import Job, yaml_text

_COMMENT = """The plan for Axolotl 0.19: axolotl train axolotl.yaml
Axolotl keeps the adapter in 32-bit while it trains, whatever the plan says (peft_autocast_adapter_dtype)."""

_OPTIMIZERS = {"adamw_8bit": "adamw_bnb_8bit"}
"""Axolotl's own name where it differs from transformers'."""


def text(job: Job) -> str:
    """Return Axolotl's YAML; keys as in its ``AxolotlInputConfig``."""
    require_lora(job, "Axolotl")
    plan = job.plan
    values: dict[str, Any] = {
        "base_model": plan.model_name_or_path,
        "load_in_4bit": plan.load_in_4bit,
        "load_in_8bit": plan.load_in_8bit,
        "bnb_config_kwargs": _quantization(job) if plan.load_in_4bit else None,
        **(_adapter(job) if job.has_adapter else {}),
        "datasets": [_dataset(job)],
        "train_on_inputs": not plan.completion_only_loss,
        "val_set_size": plan.eval_split,
        "sequence_len": plan.max_length,
        "sample_packing": plan.packing,
        "micro_batch_size": plan.per_device_train_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "num_epochs": plan.num_train_epochs,
        "max_steps": plan.max_steps if plan.max_steps > 0 else None,
        "optimizer": _OPTIMIZERS.get(plan.optim, plan.optim),
        "learning_rate": plan.learning_rate,
        "lr_scheduler": plan.lr_scheduler_type,
        **_warmup(job),
        **_sharding(job),
        "weight_decay": plan.weight_decay,
        "max_grad_norm": plan.max_grad_norm,
        "bf16": plan.compute_dtype == "bfloat16",
        "fp16": plan.compute_dtype == "float16",
        "gradient_checkpointing": plan.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": plan.use_reentrant} if plan.gradient_checkpointing else None,
        "attn_implementation": plan.attn_implementation,
        "logging_steps": plan.logging_steps,
        "save_steps": plan.save_steps,
        "seed": plan.seed,
        "output_dir": job.output_dir,
    }
    return yaml_text(values, _COMMENT)


def _adapter(job: Job) -> dict[str, Any]:
    plan = job.plan
    targets = plan.target_modules
    return {
        "adapter": "qlora" if plan.load_in_4bit else "lora",
        "lora_r": plan.r,
        "lora_alpha": plan.lora_alpha,
        "lora_dropout": plan.lora_dropout,
        "lora_target_linear": True if isinstance(targets, str) else None,
        "lora_target_modules": None if isinstance(targets, str) else [*targets],
        "peft_use_rslora": plan.use_rslora,
        "peft_use_dora": plan.use_dora,
        "peft_init_lora_weights": None if plan.init_lora_weights == "default" else plan.init_lora_weights,
        "loraplus_lr_ratio": plan.loraplus_lr_ratio,
        "lora_fan_in_fan_out": True if job.uses_conv1d else None,
    }


def _sharding(job: Job) -> dict[str, Any]:
    """Return how several devices share the work; DeepSpeed's files come with ``axolotl fetch deepspeed_configs``."""
    plan = job.plan
    if plan.sharding.startswith("zero"):
        return {"deepspeed": f"deepspeed_configs/{plan.sharding}.json"}
    if plan.sharding != "fsdp":
        return {}
    return {
        "fsdp_version": 2,
        "fsdp_config": {
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "reshard_after_forward": True,
            # Axolotl's schema refuses it with quantization: one rank would quantize while the others wait forever.
            "cpu_ram_efficient_loading": plan.quantization == "none",
            "state_dict_type": "SHARDED_STATE_DICT",
            "offload_params": False,
        },
    }


def _quantization(job: Job) -> dict[str, Any]:
    plan = job.plan
    return {
        "bnb_4bit_quant_type": plan.bnb_4bit_quant_type,
        "bnb_4bit_use_double_quant": plan.bnb_4bit_use_double_quant,
        "bnb_4bit_quant_storage": plan.bnb_4bit_quant_storage,
    }


def _dataset(job: Job) -> dict[str, Any]:
    entry: dict[str, Any] = {"path": job.data, "type": "chat_template", "field_messages": "messages"}
    if job.is_local_file:
        entry["ds_type"] = {"jsonl": "json"}.get(extension := job.data.rpartition(".")[2].lower(), extension)
    return entry


def _warmup(job: Job) -> dict[str, Any]:
    warmup = job.plan.warmup_steps
    return {"warmup_ratio": warmup} if warmup < 1 else {"warmup_steps": int(warmup)}
