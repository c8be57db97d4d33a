"""Whether a tool reads the person's own file, and what LoRAFit writes for it where it does not."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from advisor.export.job import Job
from advisor.situation import TASKS_OF_DATA
from specs import TASK_TYPES, PlanError, dataset
from specs.dataset import DataFile, TrainingData

_JSON = frozenset({"jsonl", "json", "parquet", ""})
_TASKS = frozenset({"answers", "text", "preference"})


def _as_messages(_: Job) -> tuple[str, str]:
    return "messages", ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """What a tool reads by itself, and what it can be told at all."""

    name: str
    files: Collection[str] = _JSON
    """The kinds of file; the empty one is a data set of the Hub."""
    tasks: Collection[str] = _TASKS
    """The kinds of data that it trains on."""
    shapes: Collection[str]
    reads: Collection[str]
    """The traits of rows that it understands as they stand."""
    reads_only_in_answers: Collection[str] = ()
    """Of these traits those that it does not understand in pairs."""
    renames: bool = True
    """Whether it can be told the names of columns."""
    dialect: Callable[[Job], tuple[str, str]] = _as_messages
    """Gives the form in which it is given data, and why it must be, where it must."""
    refuses: Mapping[str, Collection[str]] = field(default_factory=dict)
    """By task the traits that it has no words for."""
    splits_in_folder: bool = False
    """Whether it finds a second file only beside the first, in a folder of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A file that LoRAFit writes for a tool."""

    name: str
    """Where it stands, beside the export."""
    dialect: str
    """A name from ``trainer.data.conversion.DIALECTS``."""
    why: str
    """What the tool cannot read, as a sentence."""
    evaluation_name: str = ""
    """The second file, with the rows to evaluate on; empty where there is none."""


def conversion(job: Job, tool: Tool) -> Conversion | None:
    """Return what is written for a tool, or None where it reads the data as it is.

    Raises:
        PlanError: If the tool cannot be told something that the rows have, or nothing trains on them.
    """
    data = job.data
    if not data.is_examined:
        return None
    _require_carried(data, tool)
    dialect, forced = tool.dialect(job)
    plain = not TASK_TYPES[job.plan.task_type].writes  # such data is read as it is, or not at all
    reason = _obstacle(dataclasses.replace(data, traits={}) if plain else data, tool) or forced
    if not reason:
        return None
    if plain:
        raise PlanError("data", f"{tool.name} cannot read {data.name}: {reason}", None, "Save it so as jsonl")
    stem = data.name.replace("\\", "/").rpartition("/")[2].rpartition(".")[0] or data.name.replace("/", "-")
    kind = "pairs" if data.is_pairs else "text" if data.task == "text" else "messages"
    name, second = f"{stem}.{kind}.jsonl", f"{stem}.{kind}.evaluation.jsonl"
    if tool.splits_in_folder and data.evaluation_split:
        name, second = f"{stem}-{kind}/train.jsonl", f"{stem}-{kind}/test.jsonl"
    return Conversion(
        name=name,
        dialect=dialect,
        why=f"{tool.name} is given {name}, which LoRAFit writes from {data.name}: {reason}.",
        evaluation_name=second if data.evaluation_split else "",
    )


def converted(data: TrainingData, made: Conversion) -> TrainingData:
    """Return what a tool must know of the data that was written for it."""
    kept = {dataset.UNLEARNED, dataset.TOOLS, dataset.CALLS, dataset.NO_SIDES, dataset.REASONING}
    traits = {name: count for name, count in data.traits.items() if name in kept}
    if data.is_pairs and made.dialect == "messages" and dataset.NO_SIDES not in traits:
        traits[dataset.LISTS] = data.rows
    roles = _roles(data, made.dialect)
    more = ("system",) if roles[0] == "conversations" else ()
    names = (*roles, *more, *(["tools"] if dataset.TOOLS in traits else []))
    return dataclasses.replace(
        data,
        name=made.name,
        file=DataFile(),
        roles=roles,
        columns={role: role for role in names},
        traits=traits,
        skipped=0,
        split="train",
        evaluation_name=made.evaluation_name,
    )


def _roles(data: TrainingData, dialect: str) -> tuple[str, ...]:
    """Return the columns of data in a dialect, as ``trainer.data.conversion`` writes them."""
    if data.task == "text":
        return ("text",)
    asked = {"sharegpt": "conversations", "messages": "prompt" if data.is_pairs else "messages"}.get(dialect, "prompt")
    if data.is_pairs:
        return (asked, "chosen", "rejected")
    return (asked, "completion") if asked == "prompt" else (asked,)


def _require_carried(data: TrainingData, tool: Tool) -> None:
    if data.task == "unpaired":
        rule = f"{data.name} holds answers marked good or bad, which no export trains on yet"
        raise PlanError("data", rule, None, _OTHER_ROLES)
    if data.task not in tool.tasks:
        rule = f"{data.name} holds {TASKS_OF_DATA[data.task][1]}, on which LoRAFit tells {tool.name} nothing"
        raise PlanError("data", rule, None, "Export the Python script")
    refused = next((name for name in tool.refuses.get(data.task, ()) if data.traits.get(name)), None)
    if refused is not None:
        count = f"{data.traits[refused]:,} rows of {data.name} have {refused}"
        raise PlanError("data", f"{count}, which {tool.name} cannot be told", None, "Export the Python script")


_OTHER_ROLES = "Give pairs, or name prompt and completion"


def _obstacle(data: TrainingData, tool: Tool) -> str:
    """Return why a tool does not read the data as it is, or nothing."""
    file, traits = data.file, data.traits
    if file.kind not in tool.files or not (file.is_plain or file.kind in {"csv", "tsv"}):
        return (
            f"it does not read {file.kind} as this file keeps it" if file.kind in _JSON else f"it reads no {file.kind}"
        )
    if data.skipped:
        return f"{data.skipped:,} rows must be left out"
    if data.split != "train" or (data.evaluation_split and file.kind):
        return "the file holds several splits"
    if data.shape not in tool.shapes:
        return f"it does not know the layout {data.layout}"
    if not tool.renames and data.shape != "text" and any(role != name for role, name in data.columns.items()):
        return "it cannot be told the names of columns"
    if file.kind == "parquet" and traits.keys() & {dataset.TOOLS, dataset.CALLS}:
        return "a table gives every call the arguments of all"
    reads = {*tool.reads} - ({*tool.reads_only_in_answers} if data.is_pairs else set())
    unread = next((name for name in dataset.TRAITS if traits.get(name) and name not in reads), "")
    return unread and f"it does not understand {unread}"
