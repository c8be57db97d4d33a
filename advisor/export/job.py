"""The input of an export: the plan, the data that it is for, and the name of the output."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from specs import METHODS, FinetunePlan, GpuSpec, PlanError, dataset
from specs.dataset import DataFile, TrainingData
from specs.launch import ACCELERATE, torchrun_arguments
from specs.sharing import UNSHARDED
from specs.targets import Layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A plan with the data it is for."""

    plan: FinetunePlan
    data: TrainingData = field(default_factory=TrainingData)
    gpu: GpuSpec | None = None
    """The device that the plan is for; None if nobody named one."""
    note: str = ""
    """Why the data is not the person's own file, in a sentence."""
    output_dir: str = "output"
    nodes: int = 1
    """Machines that share the plan's devices."""
    uses_conv1d: bool = False
    """Whether the model's linear layers are GPT-2's ``Conv1D``, whose weights are transposed."""
    layers: Layers | None = None
    """The model's layers, from which its targets follow; None leaves ``all-linear`` to PEFT."""
    stacks_experts: bool = False
    """Whether the model keeps all experts of a layer as one tensor, which transformers does not quantize."""
    auto_class: str = "AutoModelForCausalLM"
    """The class of transformers that a run loads to continue text."""

    @property
    def has_adapter(self) -> bool:
        """Whether PEFT wraps the model."""
        return METHODS[self.plan.method].trains_adapter

    @property
    def targets(self) -> tuple[str | tuple[str, ...], str]:
        """PEFT's ``target_modules`` and ``exclude_modules``, by name wherever its own ``all-linear`` is another."""
        if self.layers is None:
            return self.plan.target_modules, ""
        return self.layers.as_peft_takes_it(self.plan)

    @property
    def target_expression(self) -> str:
        """The modules that ``target_modules`` reaches without those that are excluded, as one expression."""
        return "" if self.layers is None else self.layers.resolved(self.plan).expression

    @property
    def config(self) -> str:
        """The class of TRL that holds the arguments."""
        return "DPOConfig" if self.data.is_pairs else "SFTConfig"

    @property
    def evaluates(self) -> bool:
        """Whether rows are held out: a share of them, or a split."""
        return bool(self.data.evaluation_split or self.plan.eval_split)

    @property
    def eval_share(self) -> float:
        """The share of rows that is held out; 0 where a split is."""
        return 0.0 if self.data.evaluation_split else self.plan.eval_split

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of TRL's ``SFTConfig``, or of ``DPOConfig``, that have the plan's own names."""
        plan = self.plan
        same = {name: getattr(plan, name) for name in _SAME_NAMES}
        values = {name: value for name, value in same.items() if value is not None} | {
            "activation_checkpointing": plan.gradient_checkpointing,
            "activation_checkpointing_kwargs": {"use_reentrant": plan.use_reentrant, **self.recomputing},
        }
        if not self.data.is_pairs:
            return values
        return {name: value for name, value in values.items() if name not in _OF_ANSWERS} | {"beta": DPO_BETA}

    @property
    def recomputing(self) -> dict[str, Any]:
        """What transformers is told beside PyTorch's own arguments: which layers, and where their inputs wait."""
        every = {"every_n_layers": self.plan.every_n_layers} if self.plan.every_n_layers > 1 else {}
        offload = {"offload": True} if self.plan.activation_offloading else {}
        return {**every, **offload} if self.plan.gradient_checkpointing else {}


DPO_BETA = 0.1
"""How strongly DPO holds the model to its reference: TRL 1.16, ``DPOConfig.beta``, which a run keeps."""

_OF_ANSWERS = ("packing", "train_sampling_strategy")
"""Arguments that DPO has no use for."""


def assumed(name: str, task: str) -> TrainingData:
    """Return what data is taken for that nobody looked at.

    Args:
        name: The file, or the id on the Hub.
        task: What the plan was advised for: one of ``advisor.situation.TASKS``; ``classification`` means texts with a
            class, and not their generation.
    """
    kind = name.rpartition(".")[2].lower()
    file = DataFile(kind=kind if kind in {"json", "jsonl", "csv", "tsv", "parquet", "txt"} else "")
    if task == "classification":
        return TrainingData(name=name, file=file, task=task, roles=("text", "label"), columns={})
    if task == "preference":
        roles: tuple[str, ...] = ("prompt", "chosen", "rejected")
        return TrainingData(name=name, file=file, task=task, roles=roles, columns={}, traits={dataset.LISTS: 1})
    return TrainingData(name=name, file=file)


def require_reference(job: Job) -> None:
    """Refuse a plan of pairs whose model cannot be its own reference, as a run does.

    Raises:
        PlanError: If the plan changes the base model.
    """
    if job.data.is_pairs and (not job.plan.keeps_base or job.plan.method == "adalora"):
        rule = "must keep the base model unchanged as the reference for preference pairs"
        way_out = "Choose lora or qlora, bias none, and init_lora_weights default, gaussian or eva"
        raise PlanError("method", rule, job.plan.method, way_out)


def about_job(job: Job) -> str:
    """Return what the data was recognised as, and what the tool does otherwise than a run, in lines for a comment."""
    lines = [about_data(job)]
    if job.stacks_experts and job.plan.load_in_4bit:
        lines.append("Experts stay in 16 bit here; a run of LoRAFit has them in 4 bit and takes less memory.")
    if job.plan.layer_offloading:
        lines.append("Layers stay on the card here; a run of LoRAFit streams them from RAM and takes less memory.")
    return "\n".join(lines)


def about_data(job: Job) -> str:
    """Return what the data was recognised as, in lines for a comment."""
    data = job.data
    if not data.is_examined:
        taken = " + ".join(data.roles)
        return f"Data: {data.name}. Nobody looked at it: its rows are taken for {taken}."
    renamed = ", ".join(f"{role} = {column}" for role, column in data.columns.items() if role != column)
    lines = [f"Data: {data.name}, {data.rows:,} rows, recognised as {data.layout} ({data.task})."]
    lines += [job.note] if job.note else []
    lines += [f"Columns: {renamed}."] if renamed else []
    if data.traits.get(dataset.REASONING):
        lines.append(f"Reasoning before answers is {'learned' if data.thinking == 'keep' else 'left out'}.")
    if data.split != "train":
        lines.append(f"Split: {data.split}.")
    if data.evaluation_split:
        lines.append(f"Evaluated on the split {data.evaluation_split}.")
    return "\n".join(lines)


def one_line(words: str) -> str:
    """Return words without line breaks and control characters, for a comment."""
    return "".join(sign if sign.isprintable() else "_" for sign in words)


def words(text: str) -> str:
    """Return words that cannot end a docstring: a name from an untrusted file must not become code."""
    return re.sub(r"[^\w .,;:=+@/()%'-]", "_", text)


def launch_commands(plan: FinetunePlan, script: str, nodes: int = 1) -> tuple[str, ...]:
    """Return the commands that start a script on a plan's devices.

    On one machine also the command for two, if the devices divide by 2. What divides the model is accelerate's to
    start, with the configuration that is exported for it: torchrun alone would train copies.
    """
    if plan.sharding not in UNSHARDED:
        return (accelerate_command(nodes),)
    if plan.num_gpus == 1:
        return (f"python {script}",)
    several = [
        _on_nodes(plan, script, number) for number in ([nodes] if nodes > 1 else [] if plan.num_gpus % 2 else [2])
    ]
    alone = [shlex.join(["python", "-m", *torchrun_arguments(plan.num_gpus), script])] if nodes == 1 else []
    return (*alone, *several)


def accelerate_command(nodes: int) -> str:
    """Return the command that starts what the export for accelerate writes.

    The rendezvous is named here: accelerate 1.15 reads it from no configuration.
    """
    said = f"  # on each of {nodes:,} nodes, K is its number from 0, HOST is node 0" if nodes > 1 else ""
    return accelerate_on(nodes, rank="K", host="HOST") + said


def accelerate_on(nodes: int, *, rank: str, host: str) -> str:
    """Return the same for a machine of a given rank, as a shell reads it, and the first machine's address."""
    shared = f" --rdzv_backend c10d --machine_rank {rank} --main_process_ip {host}" if nodes > 1 else ""
    return ACCELERATE.replace(" train.py", f"{shared} train.py")


def _on_nodes(plan: FinetunePlan, script: str, nodes: int) -> str:
    command = shlex.join(["python", "-m", *torchrun_arguments(plan.num_gpus, nodes=nodes), script])
    return f"{command}  # on each of {nodes:,} nodes, HOST is one of them"


def targets(job: Job) -> str | list[str]:
    """Return PEFT's ``target_modules``."""
    found, _ = job.targets
    return found if isinstance(found, str) else [*found]


def yaml_text(values: Mapping[str, Any], comment: str) -> str:
    """Return a mapping as YAML under a comment; every value is JSON, which YAML contains."""
    lines = [f"# {one_line(line)}".rstrip() for line in comment.split("\n")]
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
    "torch_empty_cache_steps",
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
