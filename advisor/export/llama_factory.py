"""The plan for ``llamafactory-cli train``."""

from typing import Any

from advisor.export.adapters import require_lora
from advisor.export.job import Job, yaml_text

_COMMENT = """The plan for LLaMA-Factory 0.9.5: llamafactory-cli train llamafactory.yaml
First add your file to its data/dataset_info.json, as the entry "{name}":
  "{name}": {{"file_name": "{file}", "formatting": "sharegpt", "columns": {{"messages": "messages"}},
  "tags": {{"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}}}}
Set template to that of your model; "default" has no chat format."""

_ATTENTION = {"sdpa": "sdpa", "flash_attention_2": "fa2", "eager": "disabled"}


def text(job: Job) -> str:
    """Return LLaMA-Factory's YAML; keys as in its hparams and transformers' ``TrainingArguments``."""
    require_lora(job, "LLaMA-Factory")
    plan = job.plan
    name = _dataset_name(job)
    values: dict[str, Any] = {
        "model_name_or_path": plan.model_name_or_path,
        "flash_attn": _ATTENTION[plan.attn_implementation],
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora" if job.has_adapter else "full",
        **(_adapter(job) if job.has_adapter else {}),
        **(_quantization(job) if plan.quantization != "none" else {}),
        "dataset": name,
        "template": "default",
        "cutoff_len": plan.max_length,
        "packing": plan.packing,
        "train_on_prompt": not plan.completion_only_loss,
        "val_size": plan.eval_split,
        "per_device_train_batch_size": plan.per_device_train_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "disable_gradient_checkpointing": not plan.gradient_checkpointing,
        "use_reentrant_gc": plan.use_reentrant,
        "optim": plan.optim,
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": plan.lr_scheduler_type,
        "warmup_steps": plan.warmup_steps,
        "weight_decay": plan.weight_decay,
        "max_grad_norm": plan.max_grad_norm,
        "num_train_epochs": plan.num_train_epochs,
        "max_steps": plan.max_steps,
        "bf16": plan.compute_dtype == "bfloat16",
        "fp16": plan.compute_dtype == "float16",
        "deepspeed": f"examples/deepspeed/ds_z{plan.sharding[-1]}_config.json" if plan.sharding[:4] == "zero" else None,
        "logging_steps": plan.logging_steps,
        "save_steps": plan.save_steps,
        "seed": plan.seed,
        "report_to": "none",
        "output_dir": job.output_dir,
    }
    return yaml_text(values, _COMMENT.format(name=name, file=job.data))


def _adapter(job: Job) -> dict[str, Any]:
    plan = job.plan
    targets = plan.target_modules
    return {
        "lora_rank": plan.r,
        "lora_alpha": plan.lora_alpha,
        "lora_dropout": plan.lora_dropout,
        "lora_target": "all" if isinstance(targets, str) else ",".join(targets),
        "use_rslora": plan.use_rslora,
        "use_dora": plan.use_dora,
        # A quantized model must be prepared by its scripts/pissa_init.py instead.
        "pissa_init": plan.init_lora_weights == "pissa" and plan.quantization == "none",
        "loraplus_lr_ratio": plan.loraplus_lr_ratio,
    }


def _quantization(job: Job) -> dict[str, Any]:
    plan = job.plan
    return {
        "quantization_method": "bnb",
        "quantization_bit": 4 if plan.load_in_4bit else 8,
        "quantization_type": plan.bnb_4bit_quant_type,
        "double_quantization": plan.bnb_4bit_use_double_quant,
    }


def _dataset_name(job: Job) -> str:
    """Return a name for the data: that of the file, without folders and extension."""
    last = job.data.replace("\\", "/").rpartition("/")[2]
    return "".join(letter if letter.isalnum() else "_" for letter in last.partition(".")[0]) or "data"
