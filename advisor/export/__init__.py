"""Export of the plan to other tools: every format is one entry here.

Command lines and pages call it; it imports no rule and no search.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from advisor.export import accelerate, axolotl, llama_factory, script, snippet, trl_cli
from advisor.export.job import Job
from specs import FinetunePlan

__all__ = ["FORMATS", "Format", "Job"]


@dataclass(frozen=True, slots=True)
class Format:
    """One export format."""

    name: str
    label: str
    filename: str
    text: Callable[[Job], str]
    run: str
    """The command that uses the file."""


def _plan_json(job: Job) -> str:
    return job.plan.to_json() + "\n"


_ENTRIES = (
    Format("script", "Python script", "train.py", script.text, "python train.py --data FILE"),
    Format("plan", "Plan", "plan.json", _plan_json, "python -m trainer run --plan plan.json --data FILE"),
    Format("trl", "TRL command line", "trl_sft.yaml", trl_cli.text, "trl sft --config trl_sft.yaml"),
    Format("axolotl", "Axolotl", "axolotl.yaml", axolotl.text, "axolotl train axolotl.yaml"),
    Format(
        "llamafactory",
        "LLaMA-Factory",
        "llamafactory.yaml",
        llama_factory.text,
        "llamafactory-cli train llamafactory.yaml",
    ),
    Format(
        "accelerate",
        "accelerate",
        "accelerate.yaml",
        accelerate.text,
        "accelerate launch --config_file accelerate.yaml train.py --data FILE",
    ),
    Format("snippet", "Configuration objects", "snippet.py", snippet.text, "paste into your own code"),
)

FORMATS: Mapping[str, Format] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Every format by name."""


def exported(plan: FinetunePlan, name: str, *, data: str = "data.jsonl", uses_conv1d: bool = False) -> str:
    """Return a plan written in one format.

    Args:
        plan: What to write.
        name: A name from ``FORMATS``.
        data: Path or Hub id of the data set, as the file should name it.
        uses_conv1d: Whether the model's linear layers are GPT-2's ``Conv1D``.
    """
    return FORMATS[name].text(Job(plan=plan, data=data, uses_conv1d=uses_conv1d))
