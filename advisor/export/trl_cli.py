"""The plan for ``trl sft --config``, or ``trl dpo --config`` for preference pairs."""

from collections.abc import Mapping
from typing import Any

from advisor.export import headings
from advisor.export.adapters import require_lora
from advisor.export.conversion import Tool
from advisor.export.job import Job, about_job, require_reference, targets, yaml_text
from specs import dataset


def _dialect(job: Job) -> tuple[str, str]:
    data = job.data
    if data.is_pairs:
        return ("messages", "") if data.has_template else ("texts", "the model has no chat template")
    if data.task == "text" or data.traits.get(dataset.UNLEARNED):
        return "answers" if data.task == "answers" else "messages", ""
    if job.plan.completion_only_loss and not data.marks_answers:
        return "answers", "TRL does not know what of this chat template is learned: each answer becomes a row"
    return "messages", ""


TOOL = Tool(
    name="TRL",
    shapes=("messages", "text", "lists"),
    reads={dataset.TOOLS, dataset.CALLS, dataset.UNEVEN, dataset.LONG, dataset.LISTS},
    renames=False,
    dialect=_dialect,
    splits_in_folder=True,
)
"""Source: TRL 1.16, dataset formats and types; ``scripts/sft.py``, ``scripts/dpo.py``, ``scripts/utils.py``."""

_COMMENT = """The plan for TRL 1.16: {command}
TRL keeps the adapter of a quantized model in bfloat16, whatever adapter_dtype says."""


def filename(job: Job) -> str:
    """Return the name of the file."""
    return "trl_dpo.yaml" if job.data.is_pairs else "trl_sft.yaml"


def command(job: Job) -> str:
    """Return the command that uses it."""
    return f"trl {'dpo' if job.data.is_pairs else 'sft'} --config {filename(job)}"


def text(job: Job) -> str:
    """Return the YAML of TRL's command line: SFTConfig or DPOConfig, ModelConfig and ScriptArguments in one."""
    require_lora(job, "TRL's command line", has=("modules_to_save",))
    require_reference(job)
    plan = job.plan
    values: dict[str, Any] = {
        "model_name_or_path": plan.model_name_or_path,
        **_data(job),
        "output_dir": job.output_dir,
        **job.arguments,
        **_evaluation(job),
        **loss(job),
        "dtype": plan.dtype,
        "attn_implementation": plan.attn_implementation,
        **(_adapter(job) if job.has_adapter else {}),
        **(_quantization(job) if plan.quantization != "none" else {}),
    }
    return yaml_text(values, _comment(job))


def beside(job: Job) -> Mapping[str, str]:
    """Return the files that the YAML names."""
    return {headings.FILE: headings.template(job)} if _needs_template(job) else {}


def source(job: Job, *, evaluation: bool = False) -> dict[str, Any]:
    """Return the arguments of ``load_dataset`` for the data, without ``@revision``, which stands apart."""
    data = job.data
    split = data.evaluation_split if evaluation else data.split
    if not data.file.kind:
        return {"path": data.name.partition("@")[0], "split": split}
    kind = {"jsonl": "json", "tsv": "csv", "txt": "text"}.get(data.file.kind, data.file.kind)
    return {"path": kind, "data_files": data.evaluation_name if evaluation else data.name, "split": "train"}


def _data(job: Job) -> dict[str, Any]:
    data = job.data
    if data.evaluation_name:  # TRL finds two splits only in one folder
        return {"dataset_name": data.name.rpartition("/")[0], "dataset_test_split": "test"}
    if data.evaluation_split and not data.file.kind:
        found = {"dataset_name": data.name.partition("@")[0], "dataset_test_split": data.evaluation_split}
        return found | {"dataset_train_split": data.split}
    return {"datasets": [source(job)]}


def _evaluation(job: Job) -> dict[str, Any]:
    if not job.evaluates:
        return {}
    return {
        "test_split_size": job.eval_share or None,
        "eval_strategy": "steps",
        "eval_steps": job.plan.save_steps,
        "per_device_eval_batch_size": job.plan.per_device_train_batch_size,
        "load_best_model_at_end": job.plan.load_best_model_at_end,
        "metric_for_best_model": "loss",
    }


def loss(job: Job) -> dict[str, Any]:
    """Return the arguments that say what of the rows is learned."""
    data = job.data
    if data.is_pairs:
        return {}
    if data.shape == "text":
        return {"dataset_text_field": data.column("text")}
    template = {"chat_template_path": headings.FILE} if _needs_template(job) else {}
    if data.shape == "messages":
        return {"assistant_only_loss": job.plan.completion_only_loss, **template}
    return {"completion_only_loss": job.plan.completion_only_loss, **template}


def _needs_template(job: Job) -> bool:
    return not (job.data.has_template or job.data.is_pairs or job.data.shape == "text")


def _comment(job: Job) -> str:
    lines = [_COMMENT.format(command=command(job)), about_job(job)]
    lines += [
        f"TRL's command line has no {name}: {getattr(job.plan, name):g} is left out."
        for name in ("early_stopping_patience", "loraplus_lr_ratio")
        if getattr(job.plan, name) is not None
    ]
    if not job.data.file.kind and "@" in job.data.name:
        lines.append(f"TRL's command line takes the newest revision, not {job.data.name.partition('@')[2]}.")
    return "\n".join(lines)


def _adapter(job: Job) -> dict[str, Any]:
    plan = job.plan
    return {
        "use_peft": True,
        "lora_r": plan.r,
        "lora_alpha": plan.lora_alpha,
        "lora_dropout": plan.lora_dropout,
        "lora_target_modules": targets(job),
        "lora_target_parameters": [*plan.target_parameters] or None,
        "lora_modules_to_save": [*plan.modules_to_save] or None,
        "use_rslora": plan.use_rslora,
        "use_dora": plan.use_dora,
        "lora_task_type": "CAUSAL_LM",
    }


def _quantization(job: Job) -> dict[str, Any]:
    plan = job.plan
    return {
        "load_in_4bit": plan.load_in_4bit,
        "load_in_8bit": plan.load_in_8bit,
        "bnb_4bit_quant_type": plan.bnb_4bit_quant_type,
        "use_bnb_nested_quant": plan.bnb_4bit_use_double_quant,
        "bnb_4bit_quant_storage": plan.bnb_4bit_quant_storage,
    }
