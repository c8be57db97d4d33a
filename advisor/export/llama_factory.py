"""The plan for ``llamafactory-cli train``, with the description of its data."""

import json
from collections.abc import Mapping
from typing import Any

from advisor.export.adapters import require_lora
from advisor.export.conversion import Tool
from advisor.export.job import DPO_BETA, Job, about_job, require_reference, yaml_text
from specs import METHODS, PlanError, dataset

INFO = "dataset_info.json"


def _dialect(job: Job) -> tuple[str, str]:
    if job.data.task != "text" and _is_rendered(job):
        reason = "the model has no chat template" if not job.data.has_template else ""
        return "whole texts", reason
    return "sharegpt", ""


TOOL = Tool(
    name="LLaMA-Factory",
    shapes=("messages", "conversations", "pair", "text", "compared"),
    reads={dataset.SYSTEM, dataset.HISTORY},
    dialect=_dialect,
    refuses=dict.fromkeys(("answers", "preference"), (dataset.UNLEARNED, dataset.LONG)),
)
"""Source: LLaMA-Factory 0.9.5, data/README.md; ``data/parser.py``, ``data/converter.py``."""

_COMMENT = """The plan for LLaMA-Factory 0.9.5: llamafactory-cli train llamafactory.yaml
In the same folder: dataset_info.json, which describes the data, and the data itself."""

TEMPLATES: Mapping[str, str] = {
    "qwen2_5": "qwen",
    "qwen3": "qwen3",
    "qwen3_instruct_2507": "qwen3_nothink",
    "qwen3_5_think": "qwen3_5",
    "qwen3_5_nothink": "qwen3_5_nothink",
    "qwen3_6": "qwen3_6",
    "qwen2_5_vl": "qwen2_vl",
    "qwen3_vl": "qwen3_vl",
    "llama3": "llama3",
    "llama3_1": "llama3",
    "llama3_2": "llama3",
    "gemma": "gemma",
    "gemma3": "gemma3",
    "gemma4_v5": "gemma4",
    "phi3": "phi",
    "phi3_5": "phi",
    "glm4moe": "glm4_moe",
    "gptoss": "gpt_oss",
    "deepseekv3": "deepseek3",
    "deepseek_r1_distill": "deepseekr1",
    "cohere": "cohere",
    "lfm2_v2": "lfm2",
}
"""Its template for each family that TRL names; LLaMA-Factory 0.9.5, README.md and ``data/template.py``."""

_TAGS = {
    "messages": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "observation_tag": "tool",
        "function_tag": "function_call",
        "system_tag": "system",
    },
    "conversations": {
        "role_tag": "from",
        "content_tag": "value",
        "user_tag": "human",
        "assistant_tag": "gpt",
        "observation_tag": "observation",
        "function_tag": "function_call",
        "system_tag": "system",
    },
}

_ATTENTION = {"sdpa": "sdpa", "flash_attention_2": "fa2", "eager": "disabled"}


def text(job: Job) -> str:
    """Return LLaMA-Factory's YAML; keys as in its hparams and transformers' ``TrainingArguments``."""
    require_lora(job, "LLaMA-Factory", also=("OFT",))
    require_reference(job)
    plan = job.plan
    data, name = job.data, _dataset_name(job)
    values: dict[str, Any] = {
        "model_name_or_path": plan.model_name_or_path,
        "flash_attn": _ATTENTION[plan.attn_implementation],
        "stage": _stage(job),
        **({"pref_beta": DPO_BETA, "pref_loss": "sigmoid"} if data.is_pairs else {}),
        "do_train": True,
        "finetuning_type": _FINETUNING_TYPES.get(METHODS[job.plan.method].peft_type, "full"),
        **(_adapter(job) if job.has_adapter else {}),
        **(_quantization(job) if plan.quantization != "none" else {}),
        "dataset": name,
        "dataset_dir": ".",
        **_evaluation(job),
        "template": _template(job),
        "cutoff_len": plan.max_length,
        "packing": None if data.is_pairs else plan.packing,
        "train_on_prompt": not plan.completion_only_loss if _stage(job) == "sft" else None,
        "per_device_train_batch_size": plan.per_device_train_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "disable_gradient_checkpointing": not plan.gradient_checkpointing,
        "use_reentrant_gc": plan.use_reentrant,
        "torch_empty_cache_steps": plan.torch_empty_cache_steps,
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
    return yaml_text(values, _comment(job))


def beside(job: Job) -> Mapping[str, str]:
    """Return ``dataset_info.json``, which says which column of the data is what."""
    entries = {_dataset_name(job): _entry(job, job.data.name, job.data.split)}
    if job.data.evaluation_split:
        name = job.data.evaluation_name or job.data.name
        entries[f"{_dataset_name(job)}_evaluation"] = _entry(job, name, job.data.evaluation_split)
    return {INFO: json.dumps(entries, indent=2, ensure_ascii=False) + "\n"}


def _entry(job: Job, path: str, split: str) -> dict[str, Any]:
    data = job.data
    where = {"file_name": path} if data.file.kind else {"hf_hub_url": path.partition("@")[0], "split": split}
    how: dict[str, Any] = {"formatting": "alpaca"}
    if data.shape in _TAGS or data.roles[0] in _TAGS:
        shape = data.roles[0]
        how = {"formatting": "sharegpt", "tags": _TAGS[shape]}
    return {**where, **how, "ranking": data.is_pairs, "columns": _columns(job)}


def _columns(job: Job) -> dict[str, str]:
    """Return LLaMA-Factory's names of what is said, each with its column."""
    data = job.data
    system = next((data.columns[name] for name in ("system", "system_prompt") if name in data.columns), "")
    found = {"system": system} if system else {}
    found |= {name: data.columns[name] for name in ("history", "tools") if name in data.columns}
    if data.is_pairs:
        found |= {name: data.column(name) for name in ("chosen", "rejected")}
    asked = data.roles[0]
    if data.shape == "text":
        return {"prompt": data.column("text")}
    if asked in _TAGS:
        return {"messages": data.column(asked), **found}
    answer = {} if data.is_pairs else {"response": data.column(data.roles[1])}
    return {"prompt": data.column(asked), **answer, **found}


def _stage(job: Job) -> str:
    return "dpo" if job.data.is_pairs else "pt" if job.data.shape == "text" else "sft"


def _is_rendered(job: Job) -> bool:
    """Return whether rows are given as texts that hold their headings already."""
    return not job.data.has_template or bool(job.data.traits.get(dataset.NO_SIDES))


def _template(job: Job) -> str | None:
    """Return the name of the chat template; None lets it read that of the tokenizer."""
    return "empty" if _is_rendered(job) else TEMPLATES.get(job.data.family)


def _comment(job: Job) -> str:
    lines = [_COMMENT, about_job(job)]
    if _template(job) is None:
        lines.append("template is left out: LLaMA-Factory has none by this name and reads that of the tokenizer.")
    if job.plan.early_stopping_patience is not None:
        patience = job.plan.early_stopping_patience
        lines.append(f"LLaMA-Factory stops early only where it is asked to: patience {patience} is left out.")
    if job.recomputing:
        named = " and ".join(f"{name} {value}" for name, value in job.recomputing.items())
        lines.append(f"LLaMA-Factory recomputes every layer and keeps their inputs on the card: {named} is left out.")
    if not job.data.file.kind and "@" in job.data.name:
        lines.append(f"LLaMA-Factory takes the newest revision, not {job.data.name.partition('@')[2]}.")
    return "\n".join(lines)


def _evaluation(job: Job) -> dict[str, Any]:
    if not job.evaluates:
        return {}
    return {
        "val_size": job.eval_share or None,
        "eval_dataset": f"{_dataset_name(job)}_evaluation" if job.data.evaluation_split else None,
        "eval_strategy": "steps",
        "eval_steps": job.plan.save_steps,
        "per_device_eval_batch_size": job.plan.per_device_train_batch_size,
        "load_best_model_at_end": job.plan.load_best_model_at_end or None,
    }


_FINETUNING_TYPES: Mapping[str | None, str] = {"LORA": "lora", "OFT": "oft"}
"""LLaMA-Factory's ``finetuning_type`` of PEFT's types; its own parser keeps OFT's block size as it is."""


def _adapter(job: Job) -> dict[str, Any]:
    plan = job.plan
    if METHODS[plan.method].peft_type == "OFT":
        targets, _ = job.targets
        named = "all" if isinstance(targets, str) else ",".join(targets)
        return {"oft_rank": 0, "oft_block_size": plan.oft_block_size, "oft_target": named}
    if plan.target_parameters:
        rule = "LLaMA-Factory is told of linear layers only"
        raise PlanError("target_parameters", rule, [*plan.target_parameters], "Export the Python script")
    targets, _ = job.targets
    if job.plan.init_lora_weights not in {"default", "pissa"}:
        rule = "must be default or pissa, since LLaMA-Factory knows no other"
        raise PlanError("init_lora_weights", rule, job.plan.init_lora_weights, "Export the Python script")
    return {
        "lora_rank": plan.r,
        "lora_alpha": plan.lora_alpha,
        "lora_dropout": plan.lora_dropout,
        "lora_target": "all" if isinstance(targets, str) else ",".join(targets),
        "use_rslora": plan.use_rslora,
        "use_dora": plan.use_dora,
        "pissa_init": plan.init_lora_weights == "pissa",
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
    last = job.data.name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter if letter.isalnum() else "_" for letter in last.partition(".")[0]) or "data"
