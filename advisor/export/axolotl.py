"""The plan for ``axolotl train``."""

from dataclasses import replace
from typing import Any

from advisor.export import headings
from advisor.export.adapters import require_lora
from advisor.export.conversion import Tool
from advisor.export.job import DPO_BETA, Job, about_data, about_job, require_reference, yaml_text
from specs import dataset

TOOL = Tool(
    name="Axolotl",
    shapes=("messages", "conversations", "text", "compared", "lists"),
    reads={dataset.SYSTEM, dataset.TOOLS, dataset.CALLS, dataset.UNEVEN, dataset.LISTS},
    reads_only_in_answers={dataset.SYSTEM},
    refuses={"preference": (dataset.TOOLS, dataset.CALLS, dataset.LONG)},
)
"""Source: Axolotl 0.19, ``prompt_strategies/chat_template.py`` and ``prompt_strategies/dpo/chat_template.py``."""

_COMMENT = """The plan for Axolotl 0.19: axolotl train axolotl.yaml
Axolotl renders rows with the tokenizer's own chat template, not with TRL's variant of it for training.
Axolotl keeps the adapter in 32-bit while it trains, whatever the plan says (peft_autocast_adapter_dtype)."""

_OPTIMIZERS = {"adamw_8bit": "adamw_bnb_8bit"}
"""Axolotl's own name where it differs from transformers'."""


def text(job: Job) -> str:
    """Return Axolotl's YAML; keys as in its ``AxolotlInputConfig``."""
    require_lora(job, "Axolotl", has=("layers_to_transform", "modules_to_save", "trainable_token_indices"))
    require_reference(job)
    plan = job.plan
    values: dict[str, Any] = {
        "base_model": plan.model_name_or_path,
        "load_in_4bit": plan.load_in_4bit,
        "load_in_8bit": plan.load_in_8bit,
        "bnb_config_kwargs": _quantization(job) if plan.load_in_4bit else None,
        **(_adapter(job) if job.has_adapter else {}),
        "quantize_moe_experts": True if _quantizes_experts(job) else None,
        **({"rl": "dpo", "rl_beta": DPO_BETA} if job.data.is_pairs else {}),
        **_template(job),
        "datasets": [_dataset(job, job.data.name, job.data.split)],
        **_evaluation(job),
        "train_on_inputs": None if job.data.is_pairs else not plan.completion_only_loss,
        "sequence_len": plan.max_length,
        "excess_length_strategy": None if job.data.is_pairs else "truncate",
        "sample_packing": None if job.data.is_pairs else plan.packing,
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
        "activation_offloading": "hidden_states" if job.recomputing.get("offload") else None,
        "layer_offloading": plan.layer_offloading or None,
        "torch_empty_cache_steps": plan.torch_empty_cache_steps,
        "attn_implementation": plan.attn_implementation,
        "logging_steps": plan.logging_steps,
        "save_steps": plan.save_steps,
        "seed": plan.seed,
        "output_dir": job.output_dir,
    }
    return yaml_text(values, _comment(job))


def _comment(job: Job) -> str:
    streamed_there = replace(job, plan=replace(job.plan, layer_offloading=False))
    lines = [_COMMENT, about_data(job) if _quantizes_experts(job) else about_job(streamed_there)]
    if "every_n_layers" in job.recomputing:
        lines.append(f"Axolotl recomputes every layer: every_n_layers {job.plan.every_n_layers} is left out.")
    if job.data.is_pairs:
        lines.append("Pairs longer than sequence_len are left out by Axolotl; a run of LoRAFit cuts them.")
    if job.data.traits.get(dataset.REASONING) and job.data.thinking == "keep":
        lines.append(
            "Axolotl does not learn the tag that opens a thought, where the chat template writes it, and sees no"
            " reasoning before the last answer where the tokenizer's own template drops it, as Qwen3's does."
        )
    return "\n".join(lines)


def _quantizes_experts(job: Job) -> bool:
    """Return whether experts are quantized to 4 bit; Axolotl refuses it together with ``lora_target_linear``."""
    return job.stacks_experts and job.plan.load_in_4bit and not isinstance(job.plan.target_modules, str)


def _adapter(job: Job) -> dict[str, Any]:
    plan = job.plan
    targets, _ = job.targets
    return {
        "adapter": "qlora" if plan.load_in_4bit else "lora",
        "lora_r": plan.r,
        "lora_alpha": plan.lora_alpha,
        "lora_dropout": plan.lora_dropout,
        "lora_target_linear": True if isinstance(targets, str) else None,
        "lora_target_modules": None if isinstance(targets, str) else [*targets],
        "lora_target_parameters": [*plan.target_parameters] or None,
        "lora_modules_to_save": [*plan.modules_to_save] or None,
        "peft_layers_to_transform": [*plan.layers_to_transform] or None,
        "peft_trainable_token_indices": [*plan.trainable_token_indices] or None,
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


def _template(job: Job) -> dict[str, Any]:
    """Return whose chat template is used, and the token that ends a turn in it, which is learned."""
    data = job.data
    if data.task == "text" or data.traits.get(dataset.NO_SIDES):
        return {}
    ends = {"eot_tokens": [data.end_of_turn]} if data.end_of_turn else {}
    if data.has_template:
        return {"chat_template": "tokenizer_default", **({} if data.is_pairs else ends)}
    return {"chat_template": "jinja", "chat_template_jinja": headings.template(job)}


def _dataset(job: Job, path: str, split: str) -> dict[str, Any]:
    data = job.data
    name, _, revision = path.partition("@") if not data.file.kind else (path, "", "")
    entry: dict[str, Any] = {"path": name, "split": split if not data.file.kind else "train"}
    if revision:
        entry["revision"] = revision
    if data.file.kind:
        entry["ds_type"] = {"jsonl": "json", "tsv": "csv", "txt": "text"}.get(data.file.kind, data.file.kind)
    return entry | (_pairs(job) if data.is_pairs else _answers(job))


def _answers(job: Job) -> dict[str, Any]:
    data, traits = job.data, job.data.traits
    if data.shape == "text":
        return {"type": "completion", "field": data.column("text")}
    entry: dict[str, Any] = {
        "type": "chat_template",
        "field_messages": data.column(data.roles[0]),
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    }
    if data.shape == "conversations":
        entry["message_property_mappings"] = {"role": "from", "content": "value"}
        entry["roles"] = {"system": ["system"], "user": ["human"], "assistant": ["gpt"]}
    if system := next((data.columns[name] for name in ("system", "system_prompt") if name in data.columns), ""):
        entry["field_system"] = system
    if traits.get(dataset.TOOLS):
        entry["field_tools"] = data.column("tools")
    if traits.get(dataset.UNLEARNED):
        entry["message_field_training"] = "train"
    return entry


def _pairs(job: Job) -> dict[str, Any]:
    data = job.data
    if data.traits.get(dataset.NO_SIDES):
        return {"type": "passthrough"}
    answers = {"field_chosen": data.column("chosen"), "field_rejected": data.column("rejected")}
    asked = next((role for role in data.roles if role not in {"chosen", "rejected"}), "")
    if not asked:
        return {"type": "chat_template.argilla_chat", **answers}
    return {"type": "chat_template.default", "field_messages": data.column(asked), **answers}


def _evaluation(job: Job) -> dict[str, Any]:
    data, plan = job.data, job.plan
    if not job.evaluates:
        return {"val_set_size": 0.0}
    values: dict[str, Any] = {"val_set_size": job.eval_share}
    if data.evaluation_split:
        name = data.evaluation_name or data.name
        values = {"test_datasets": [_dataset(job, name, data.evaluation_split)]}
    return values | {
        "eval_steps": plan.save_steps,
        "eval_batch_size": plan.per_device_train_batch_size,
        "early_stopping_patience": plan.early_stopping_patience,
        "load_best_model_at_end": plan.load_best_model_at_end or None,
    }


def _warmup(job: Job) -> dict[str, Any]:
    warmup = job.plan.warmup_steps
    return {"warmup_ratio": warmup} if warmup < 1 else {"warmup_steps": int(warmup)}
