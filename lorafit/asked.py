"""What a person names, looked up: a card, a data set, and from them the situation that advice is for."""

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, TypeVar, cast

from advisor import Recommendation, Situation, advise
from advisor.situation import TASKS, TASKS_OF_DATA, suits
from catalog import gpus, machine, models, tokenizers
from estimator import pricing
from estimator.estimate import MemoryEstimate
from estimator.tape.layers import with_layers
from lorafit import own_runs
from specs import DataError, FinetunePlan, GpuSpec, ModelSpec, PlanError, paths
from specs.errors import ended
from specs.fields import LISTS
from specs.tasks import kind_for, task_type_of
from trainer.data import doctor, readers
from trainer.data.doctor import Report
from trainer.data.examples import require_trained
from trainer.data.files.reading import is_hub_id
from trainer.data.readers import Reader
from trainer.data.source import DataSource

Data = str | os.PathLike[str] | DataSource
"""Training data as a person names it: a file, a Hub id, or all that is said of it."""

_MOST_ROWS = 10**12
_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "gpu": ((str, NoneType), "the name of a card or a memory size as text"),
    "task": ((str, NoneType), "the name of a task as text"),
    "goal": ((str,), "the name of a goal as text"),
    "rules": ((str,), "the name of a rule set as text"),
    "method": ((str, NoneType), "the name of a method as text"),
    "device": ((str, NoneType), "torch's name of a device as text, such as cpu"),
    "wait": ((bool,), "True or False"),
    "rows": ((int,), "a whole number"),
    "answers": ((int,), "a whole number"),
    "seconds": ((int, float), "a number"),
}
"""What each argument of the five functions must be whose value is looked up or compared, by its name, in words."""
_Function = TypeVar("_Function", bound=Callable[..., Any])


def of_their_kinds(function: _Function) -> _Function:
    """Let a function refuse arguments of another kind in one sentence, before it uses any."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*given: Any, **named_too: Any) -> Any:
        bound = signature.bind(*given, **named_too).arguments
        # Those of a function that passes them on, too.
        for name, value in {**bound, **bound.get("question", {})}.items():
            kinds, words = _KINDS.get(name, ((object,), ""))
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds and object not in kinds):
                raise PlanError(name, f"must be {words}", type(value).__name__)
        return function(*given, **named_too)

    return cast(_Function, checked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What advice is asked for, in words."""

    model: str
    """A name of the catalog, a folder, a ``config.json``, a Hub id, or a size such as ``7B``."""
    gpu: str | None = None
    """A card or a memory size; None for this machine's own device."""
    data: Data | int | None = None
    """The data, or how many rows there will be."""
    task: str | None = None
    """None leaves it to the data; without any it is ``instruction``."""
    goal: str = "balanced"
    pins: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Fields of the plan that the person has set, and ``num_gpus``."""


def device(name: str | None) -> tuple[GpuSpec, int | None]:
    """Return the card of a name, or this machine's own device, as its runs taught it, and its free bytes.

    Raises:
        CatalogError: If no card is called so.
    """
    if name is not None:
        return gpus.find(name), None
    own = machine.devices()[0]
    return own_runs.taught(own, own_runs.kept()), own.free_bytes


def fetched(name: str) -> Path | None:
    """Return the newest file of a data set of the Hub that was fetched for a run or a check; None without."""
    if Path(name).is_file() or not is_hub_id(name):
        return None
    pattern = f"{name.partition('@')[0].replace('/', '--')}-*.parquet"
    found = (paths.cache() / "datasets").glob(pattern)
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def source(data: Data) -> DataSource:
    """Return data as a run takes it; a data set of the Hub as it was fetched before."""
    given = named(data)
    found = fetched(given.path)
    return given if found is None else replace(given, path=str(found))


def named(data: Data) -> DataSource:
    """Return data as a run takes it, by the name that it was given.

    Raises:
        DataError: If it is no name.
    """
    if isinstance(data, DataSource):
        return data
    if not isinstance(data, str | os.PathLike):
        raise DataError("data", "must be a file, a data set of the Hub or a DataSource", type(data).__name__)
    return DataSource(path=os.fspath(data))


def reader(model: ModelSpec) -> Reader:
    """Return whose tokenizer counts: the model's own if it is on this machine, else the demo model's.

    Raises:
        DataError: If neither exists.
    """
    own, demo = tokenizers.folder(model.name), paths.demo_model()
    if own is None and not (demo / "tokenizer.json").is_file():
        raise DataError("data", f"needs a tokenizer to count tokens, and {demo} has none", None, "Run make setup")
    return readers.reader(
        own, model_type=model.model_type, name=model.name, counted_by=demo, task_types=model.task_types
    )


def facts(report: Report, task_types: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of a situation that a data set decides: its rows, their lengths, and the task.

    Args:
        report: What it holds.
        task_types: The tasks that the model can be trained for.
    """
    task_type = task_type_of(report.kinds, task_types).name
    lengths = (report.quantile(0.5), report.quantile(0.95), report.longest) if report.lengths else None
    return {
        "dataset_rows": report.rows if report.whole else None,
        "dataset_tokens": lengths,
        "row_lengths": report.lengths,
        "task": TASKS_OF_DATA[kind_for(report.kinds, task_type)][0],
        "data_task_type": task_type,
        "num_labels": report.num_labels,
        "num_negatives": report.num_negatives,
        "has_scores": report.task == "similarity",
    }


def task_without_data(model: ModelSpec, task: str | None) -> str:
    """Return the task type where there is no data: an encoder gives out nothing but classes."""
    return "SEQ_CLS" if model.is_encoder and task == "classification" else "CAUSAL_LM"


def plain_name(model: str) -> str:
    """Return the model as its plan must name it where that is no name of the catalog: a path; empty otherwise."""
    return model if model.count("/") > 1 or model.startswith((".", "/")) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A question, looked up."""

    situation: Situation
    """Everything that the advice depends on."""
    report: Report | None = None
    """What the data holds; None without any."""
    remarks: tuple[str, ...] = ()
    """What the person should know about the data, in sentences."""


def looked_up(asked: Question) -> Known:
    """Return what a question is about; its data is read to the end.

    Raises:
        LorafitError: If model, card, data or a setting cannot be used.
    """
    if not isinstance(asked.model, str):
        raise PlanError("model", "must be a name, or the path of a folder as text", type(asked.model).__name__)
    model = with_layers(models.find(asked.model))
    gpu, free_bytes = device(asked.gpu)
    pins = {name: listed(name, value) for name, value in asked.pins.items()}
    held, report, told = _held(asked, model)
    situation = Situation(
        model=model,
        gpu=gpu,
        num_gpus=_number_of_gpus(pins.pop("num_gpus", 1)),
        free_bytes=free_bytes,
        goal=asked.goal,
        pins=pins,
        model_name_or_path=plain_name(asked.model),
        **{**held, **({} if asked.task is None else {"task": asked.task})},
    )
    return Known(situation=situation, report=report, remarks=told)


def _held(asked: Question, model: ModelSpec) -> tuple[dict[str, Any], Report | None, tuple[str, ...]]:
    """Return the fields of a situation that its data decides, what the data holds, and what to know about it."""
    if asked.data is None or isinstance(asked.data, int):
        if asked.data is not None and (isinstance(asked.data, bool) or abs(asked.data) > _MOST_ROWS):
            raise DataError("data", f"must be a file, or a number of rows up to {_MOST_ROWS:,}")
        return {"dataset_rows": asked.data, "data_task_type": task_without_data(model, asked.task)}, None, ()
    data, whose = source(asked.data), reader(model)
    report = doctor.examined(data, whose.tokenizer, task_types=whose.task_types)
    told = (*stand_ins(whose), *remarks(report, data.path, asked.task, model.task_types))
    asks = {"asks_data": asks_data(data, report), "questions": len(data.prompts)}
    return {**facts(report, model.task_types), **asks}, report, told


def asks_data(data: DataSource, report: Report) -> bool:
    """Return whether a run asks questions of its own data, for which a few rows are not learned."""
    return not data.prompts and not data.evaluation_split and report.task != "text"


def stand_ins(reader: Reader) -> Iterator[str]:
    """Yield whose tokenizer and template stand in for the model's own, where these are not on this machine."""
    if not reader.is_own:
        yield f"Counted with {reader.counter}, and {reader.template}."


def remarks(
    report: Report, path: str, task: str | None, task_types: tuple[str, ...], *, option: str = "task"
) -> Iterator[str]:
    """Yield what a person should know about data: its task, and what of it is not read.

    Args:
        report: What it holds.
        path: Its file.
        task: The task that the person chose, if any.
        task_types: The tasks that the model can be trained for.
        option: What the person calls the choice of a task.
    """
    kind = kind_for(report.kinds, task_type_of(report.kinds, task_types).name)
    decided, holds = TASKS_OF_DATA[kind]
    if task not in {None, decided}:
        if not suits(task, kind):
            yield f"The data holds {holds}, but the task you chose is {task}, {TASKS[task]}."
    elif kind != "answers":
        yield f"The data holds {holds}: the task is {decided}, {TASKS[decided]}. Choose another with {option}."
    try:
        require_trained(report.task, path)
    except DataError as error:
        yield str(error)
    if report.imbalance:
        yield report.imbalance
    if report.unused:
        yield f"Not read: {', '.join(f'{name} ({count:,} rows)' for name, count in report.unused.items())}."
    if report.skipped:
        most = "row is skipped" if report.skipped == 1 else "rows are skipped, most of them"
        yield f"{report.skipped:,} {most} since: {ended(next(iter(report.reasons)))}"


def recognised(report: Report | None) -> dict[str, Any]:
    """Return what was recognised in data, and what of it is not read, as plain JSON values; empty without data."""
    if report is None:
        return {}
    return {
        "task": report.task,
        "layout": report.layout,
        "skipped": report.skipped,
        "reasons": dict(report.reasons),
        "unused": dict(report.unused),
    }


def _number_of_gpus(value: Any) -> int:
    """Refuse what is no number here: the situation compares it."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise PlanError("num_gpus", "must be a whole number", value)
    return value


def listed(name: str, value: Any) -> Any:
    """Return the value of a field of a plan as it is kept; JSON has lists where a plan has tuples."""
    return tuple(value) if name in LISTS and isinstance(value, list) else value


def recommended(situation: Situation, *, rules: str = "evidence") -> Recommendation:
    """Return the advice for a situation, its plans priced on what is free of its card.

    Raises:
        TraceError: If the memory of the model is unknown.
        PlanError: If the rule set is unknown or pinned fields contradict each other.
    """

    def price(plan: FinetunePlan) -> MemoryEstimate:
        return pricing.price(situation.model, plan, situation.device)

    def at_least(plan: FinetunePlan) -> int:
        return pricing.least_used_bytes(situation.model, plan, situation.device)

    return advise(situation, rules=rules, price=price, at_least=at_least)
