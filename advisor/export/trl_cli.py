"""The plan for ``trl sft --config``."""

from typing import Any

from advisor.export.adapters import require_lora
from advisor.export.job import Job, targets, yaml_text

_COMMENT = """The plan for TRL 1.16: trl sft --config trl_sft.yaml
TRL keeps the adapter of a quantized model in bfloat16, whatever adapter_dtype says."""


def text(job: Job) -> str:
    """Return the YAML of TRL's command line: SFTConfig, ModelConfig and ScriptArguments in one."""
    require_lora(job, "TRL's command line")
    plan = job.plan
    values: dict[str, Any] = {
        "model_name_or_path": plan.model_name_or_path,
        "dataset_name": "json" if job.is_local_file else job.data,
        "datasets": None,
        "output_dir": job.output_dir,
        **job.arguments,
        "dtype": plan.dtype,
        "attn_implementation": plan.attn_implementation,
        "completion_only_loss": None,
        "assistant_only_loss": plan.completion_only_loss,
    }
    if job.is_local_file:
        values["datasets"] = [{"path": "json", "data_files": job.data}]
        values["dataset_name"] = None
    if job.has_adapter:
        values |= {
            "use_peft": True,
            "lora_r": plan.r,
            "lora_alpha": plan.lora_alpha,
            "lora_dropout": plan.lora_dropout,
            "lora_target_modules": targets(plan),
            "use_rslora": plan.use_rslora,
            "use_dora": plan.use_dora,
            "lora_task_type": "CAUSAL_LM",
        }
    if plan.quantization != "none":
        values |= {
            "load_in_4bit": plan.load_in_4bit,
            "load_in_8bit": plan.load_in_8bit,
            "bnb_4bit_quant_type": plan.bnb_4bit_quant_type,
            "use_bnb_nested_quant": plan.bnb_4bit_use_double_quant,
            "bnb_4bit_quant_storage": plan.bnb_4bit_quant_storage,
        }
    return yaml_text(values, _COMMENT)
