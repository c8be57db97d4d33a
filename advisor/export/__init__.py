"""Export of the plan and its data to other tools: every format is one entry here.

Command lines and pages call it; it imports no rule and no search.
"""

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from advisor.export import accelerate, axolotl, llama_factory, script, sky, snippet, trl_cli
from advisor.export.conversion import Conversion, Tool, conversion, converted
from advisor.export.job import Job, accelerate_command, assumed, launch_commands
from specs import FinetunePlan, GpuSpec, ModelSpec, PlanError
from specs.dataset import TrainingData
from specs.sharing import UNSHARDED

__all__ = ["FORMATS", "Conversion", "Export", "Format", "Job", "assumed", "exported"]


def _nothing(_: Job) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One export format."""

    name: str
    label: str
    filename: Callable[[Job], str]
    text: Callable[[Job], str]
    command: Callable[[Job], str]
    """The command that uses the file."""
    tool: Tool | None = None
    """What reads the data; None where the data is given to LoRAFit itself, or with the script."""
    on_nodes: bool = False
    """Whether it says how several machines start it."""
    any_task: bool = False
    """Whether it can say any task; the others train text generation."""
    beside: Callable[[Job], Mapping[str, str]] = _nothing
    """Further files that this one names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A plan and its data in one format."""

    files: Mapping[str, str]
    """Content by name, the file that a person starts first."""
    command: str
    conversion: Conversion | None = None
    """The data that LoRAFit must write beside them, where the tool does not read the person's own file."""

    @property
    def main(self) -> tuple[str, str]:
        """Name and content of the file that a person starts."""
        return next(iter(self.files.items()))


def _plan_json(job: Job) -> str:
    return job.plan.to_json() + "\n"


def _run_command(job: Job) -> str:
    """Return the command that trains the plan with LoRAFit, and all that was said about the data."""
    data = job.data
    renamed = [f"{role}={column}" for role, column in data.columns.items() if role != column]
    # Columns that are named at all are named one and all.
    columns = [f"{role}={column}" for role, column in data.columns.items()] if renamed else []
    words = ["python", "-m", "trainer", "run", "--plan", "plan.json", "--data", data.name]
    words += ["--columns", *columns] if columns else []
    words += ["--thinking", data.thinking] if data.thinking != "keep" else []
    words += ["--split", data.split] if data.split != "train" else []
    words += ["--evaluate-on", data.evaluation_split] if data.evaluation_split else []
    return shlex.join(words)


def _script_command(job: Job) -> str:
    return launch_commands(job.plan, "train.py", job.nodes)[0]


def _script(job: Job) -> Mapping[str, str]:
    """Return the script that accelerate or SkyPilot launches."""
    return {"train.py": script.text(job)}


def _beside_sky(job: Job) -> Mapping[str, str]:
    """Return the script, and what accelerate is told where the model is divided."""
    if job.plan.sharding in UNSHARDED:
        return _script(job)
    divided = dataclasses.replace(job, nodes=sky.nodes_of(job))
    return {**_script(job), "accelerate.yaml": accelerate.text(divided)}


def _always(words: str) -> Callable[[Job], str]:
    return lambda _: words


_ENTRIES = (
    Format(
        name="script",
        label="Python script",
        filename=_always("train.py"),
        text=script.text,
        command=_script_command,
        tool=script.TOOL,
        on_nodes=True,
        any_task=True,
    ),
    Format(
        name="plan", label="Plan", filename=_always("plan.json"), text=_plan_json, command=_run_command, any_task=True
    ),
    Format(
        name="trl",
        label="TRL command line",
        filename=trl_cli.filename,
        text=trl_cli.text,
        command=trl_cli.command,
        tool=trl_cli.TOOL,
        beside=trl_cli.beside,
    ),
    Format(
        name="axolotl",
        label="Axolotl",
        filename=_always("axolotl.yaml"),
        text=axolotl.text,
        command=_always("axolotl train axolotl.yaml"),
        tool=axolotl.TOOL,
    ),
    Format(
        name="llamafactory",
        label="LLaMA-Factory",
        filename=_always("llamafactory.yaml"),
        text=llama_factory.text,
        command=_always("llamafactory-cli train llamafactory.yaml"),
        tool=llama_factory.TOOL,
        beside=llama_factory.beside,
    ),
    Format(
        name="accelerate",
        label="accelerate",
        filename=_always("accelerate.yaml"),
        text=accelerate.text,
        command=lambda job: accelerate_command(job.nodes),
        tool=script.TOOL,
        on_nodes=True,
        any_task=True,
        beside=_script,
    ),
    Format(
        name="sky",
        label="SkyPilot",
        filename=_always("sky.yaml"),
        text=sky.text,
        command=_always("sky launch -c lorafit sky.yaml"),
        tool=script.TOOL,
        any_task=True,
        beside=_beside_sky,
    ),
    Format(
        name="snippet",
        label="Configuration objects",
        filename=_always("snippet.py"),
        text=snippet.text,
        command=_always("paste into your own code"),
        tool=snippet.TOOL,
        beside=snippet.beside,
    ),
)

FORMATS: Mapping[str, Format] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Every format by name."""


def exported(
    plan: FinetunePlan,
    name: str,
    *,
    data: TrainingData | None = None,
    model: ModelSpec | None = None,
    gpu: GpuSpec | None = None,
    nodes: int = 1,
) -> Export:
    """Return a plan and its data written in one format.

    Args:
        plan: What to write.
        name: A name from ``FORMATS``.
        data: What is known of the data set; None takes rows of messages in ``data.jsonl``.
        model: The model: from it follow the targets, and how it is loaded; None takes a model of text alone whose
            layers are not known.
        gpu: The device that the plan is for, where a format names it.
        nodes: Machines that share the plan's devices evenly.

    Raises:
        PlanError: If the tool cannot be told something of the plan or of the data.
    """
    form = FORMATS[name]
    if plan.task_type != "CAUSAL_LM" and not form.any_task:
        rule = f"must be CAUSAL_LM (text generation) in an export to {form.label}"
        raise PlanError("task_type", rule, plan.task_type, "Export the Python script")
    _require_nodes(plan, form, nodes)
    known = {} if model is None else _known_of(model)
    job = Job(plan=plan, data=data or TrainingData(), gpu=gpu, nodes=nodes, **known)
    made = conversion(job, form.tool) if form.tool else None
    if made is not None:
        job = dataclasses.replace(job, data=converted(job.data, made), note=made.why)
    files = {form.filename(job): form.text(job), **form.beside(job)}
    return Export(files=files, command=form.command(job), conversion=made)


def _require_nodes(plan: FinetunePlan, form: Format, nodes: int) -> None:
    if nodes > 1 and not form.on_nodes:
        way_out = "Export the Python script, or for accelerate"
        raise PlanError("nodes", f"must be 1 in an export to {form.label}", nodes, way_out)
    if nodes < 1 or plan.num_gpus % nodes:
        devices = f"{plan.num_gpus:,} devices" if plan.num_gpus > 1 else "1 device"
        raise PlanError("nodes", f"must divide the plan's {devices}", nodes, "Choose another number")


def _known_of(model: ModelSpec) -> dict[str, Any]:
    """Return what an export depends on of a model."""
    return {
        "uses_conv1d": model.model_type == "gpt2",
        "layers": model.layers,
        "stacks_experts": bool(model.expert_parameters),
        "auto_class": model.auto_class,
    }
