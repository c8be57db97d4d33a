"""The plan as the configuration objects that people paste into their own code."""

from advisor.export import adapters
from advisor.export.job import Job, call_text, literal


def text(job: Job) -> str:
    """Return PEFT's configuration, ``BitsAndBytesConfig`` and ``SFTConfig`` as Python."""
    parts = [*imports(job), ""]
    if job.plan.quantization != "none":
        parts += [f"quantization_config = {quantization(job)}", ""]
    if job.has_adapter:
        if job.plan.method == "ia3":
            parts += ['model_type = ""  # the model_type in the config.json of your model', ""]
        parts += [adapters.config_text(job, model_type="model_type"), ""]
    arguments = {"output_dir": job.output_dir, **job.arguments}
    parts += [f"training_args = {call_text('SFTConfig', arguments)}", ""]
    return "\n".join(parts)


def imports(job: Job) -> list[str]:
    """Return the import lines of the objects."""
    lines = []
    if job.plan.load_in_4bit:
        lines.append("import torch")
    lines += adapters.imported(job)
    if job.plan.quantization != "none":
        lines.append("from transformers import BitsAndBytesConfig")
    return [*lines, "from trl import SFTConfig"]


def quantization(job: Job) -> str:
    """Return the call that creates bitsandbytes' configuration."""
    plan = job.plan
    if plan.load_in_8bit:
        return "BitsAndBytesConfig(load_in_8bit=True)"
    return "\n".join(
        [
            "BitsAndBytesConfig(",
            "    load_in_4bit=True,",
            f"    bnb_4bit_quant_type={literal(plan.bnb_4bit_quant_type)},",
            f"    bnb_4bit_use_double_quant={plan.bnb_4bit_use_double_quant},",
            f"    bnb_4bit_compute_dtype=torch.{plan.dtype},",
            f"    bnb_4bit_quant_storage=torch.{plan.bnb_4bit_quant_storage},",
            ")",
        ]
    )
