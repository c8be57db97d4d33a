"""The input of an export: the plan, and the names of data and output."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specs import METHODS, FinetunePlan
from specs.launch import torchrun_arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A plan with the data it is for."""

    plan: FinetunePlan
    data: str = "data.jsonl"
    """Path or Hub id of the data set."""
    output_dir: str = "output"
    uses_conv1d: bool = False
    """Whether the model's linear layers are GPT-2's ``Conv1D``, whose weights are transposed."""

    @property
    def has_adapter(self) -> bool:
        """Whether PEFT wraps the model."""
        return METHODS[self.plan.method].trains_adapter

    @property
    def is_local_file(self) -> bool:
        """Whether ``data`` names a file rather than a data set on the Hub."""
        return self.data.rpartition(".")[2].lower() in {"json", "jsonl", "csv", "parquet", "txt"}

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of TRL's ``SFTConfig`` that have the plan's own names."""
        plan = self.plan
        return {name: getattr(plan, name) for name in _SAME_NAMES} | {
            "activation_checkpointing": plan.gradient_checkpointing,
            "activation_checkpointing_kwargs": {"use_reentrant": plan.use_reentrant},
        }


def launch_commands(plan: FinetunePlan, script: str) -> tuple[str, ...]:
    """Return the commands that start a script on a plan's devices: on one machine and, if they divide by 2, on two."""
    if plan.num_gpus == 1:
        return (f"python {script}",)
    alone = shlex.join(["python", "-m", *torchrun_arguments(plan.num_gpus), script])
    if plan.num_gpus % 2:
        return (alone,)
    shared = shlex.join(["python", "-m", *torchrun_arguments(plan.num_gpus, nodes=2), script])
    return (alone, f"{shared}  # on each of 2 nodes, HOST is one of them")


def targets(plan: FinetunePlan) -> str | list[str]:
    """Return PEFT's ``target_modules``."""
    return plan.target_modules if isinstance(plan.target_modules, str) else [*plan.target_modules]


def yaml_text(values: Mapping[str, Any], comment: str) -> str:
    """Return a mapping as YAML under a comment; every value is JSON, which YAML contains."""
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines += [f"{name}: {_yaml_value(value)}" for name, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"


def call_text(name: str, values: Mapping[str, Any]) -> str:
    """Return a Python call with one keyword argument a line."""
    return "\n".join([f"{name}(", *(f"    {key}={literal(value)}," for key, value in values.items()), ")"])


def literal(value: Any) -> str:
    """Return a Python literal, text in double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _yaml_value(value: Any) -> str:
    if isinstance(value, float) and not isinstance(value, bool) and value and abs(value) < 1e-3:
        # YAML reads 1e-05 as text; the mantissa needs a decimal point.
        mantissa, _, exponent = f"{value:.6e}".partition("e")
        return f"{float(mantissa):.7g}{'' if '.' in f'{float(mantissa):.7g}' else '.0'}e{int(exponent):+03d}"
    return json.dumps(value)


_SAME_NAMES = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "packing",
    "optim",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "num_train_epochs",
    "max_steps",
    "logging_steps",
    "save_steps",
    "seed",
    "train_sampling_strategy",
    "bf16",
    "fp16",
)
