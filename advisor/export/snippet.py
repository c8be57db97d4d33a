"""The plan as the configuration objects that people paste into their own code."""

import dataclasses
from collections.abc import Mapping

from advisor.export import adapters, trl_cli
from advisor.export.conversion import Tool
from advisor.export.job import Job, about_job, call_text, literal, one_line, require_reference

TOOL: Tool = dataclasses.replace(trl_cli.TOOL, name="The trainer of TRL")


def text(job: Job) -> str:
    """Return PEFT's configuration, ``BitsAndBytesConfig``, and ``SFTConfig`` or ``DPOConfig``, as Python."""
    require_reference(job)
    about = [f"# {one_line(line)}" for line in about_job(job).split("\n")]
    parts = [*about, *sorted([*imports(job), "from datasets import load_dataset"], key=_place), ""]
    if job.plan.quantization != "none":
        parts += [f"quantization_config = {quantization(job)}", ""]
    if job.has_adapter:
        if job.plan.method == "ia3":
            parts += ['model_type = ""  # the model_type in the config.json of your model', ""]
        parts += [adapters.config_text(job, model_type="model_type"), ""]
    arguments = {"output_dir": job.output_dir, **job.arguments}
    arguments |= trl_cli.loss(job)
    parts += [f"training_args = {call_text(job.config, arguments)}", ""]
    parts += ["", *_loading(job), ""]
    return "\n".join(parts)


def _place(line: str) -> tuple[bool, str]:
    """Return what orders import lines as isort does: plain ones first."""
    return not line.startswith("import"), line.split()[1]


def _loading(job: Job) -> list[str]:
    """Return the function that loads the data as the trainer takes it."""
    names = [("train_dataset", False)] + ([("eval_dataset", True)] if job.data.evaluation_split else [])
    lines = []
    for name, evaluation in names:
        source = trl_cli.source(job, evaluation=evaluation)
        revision = job.data.name.partition("@")[2] if not job.data.file.kind else ""
        given = [literal(source.pop("path")), *(f"{key}={literal(value)}" for key, value in source.items())]
        given += [f"revision={literal(revision)}"] if revision else []
        lines += ["", f"def {name}():", f"    return load_dataset({', '.join(given)})", ""]
    return lines[1:]


def beside(job: Job) -> Mapping[str, str]:
    """Return the files that the objects name."""
    return trl_cli.beside(job)


def imports(job: Job) -> list[str]:
    """Return the import lines of the objects."""
    lines = []
    if job.plan.load_in_4bit:
        lines.append("import torch")
    lines += adapters.imported(job)
    if job.plan.quantization != "none":
        lines.append("from transformers import BitsAndBytesConfig")
    return [*lines, f"from trl import {job.config}"]


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
