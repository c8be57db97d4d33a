"""The five functions: advise, estimate, compare, train, evaluate; and watch, for a run that goes on by itself.

Each returns what the page and the command lines show, since it calls what they call, and raises ``LorafitError`` with
one sentence where it refuses. docs/api.md shows them with examples.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advisor import Recommendation
from catalog import here, machine, models
from estimator import pricing
from estimator.estimate import MemoryEstimate
from estimator.tape.layers import with_layers
from lorafit import asked, comparing, watching
from lorafit.asked import Data, Known, Question
from lorafit.comparing import Variant
from lorafit.predicting import predicted
from lorafit.watching import Watched
from specs import FinetunePlan, PlanError, RunError, paths
from trainer.data.source import DataSource
from trainer.results import evaluation, tasks
from trainer.results.evaluation import MOST_ANSWERS, MOST_ROWS, Evaluation, Wanted
from trainer.runs import launcher
from trainer.runs.contract import Place, Run
from trainer.runs.starting import Starter
from trainer.runs.store import Store


@asked.of_their_kinds
def advise(
    model: str,
    *,
    gpu: str | None = None,
    data: Data | int | None = None,
    task: str | None = None,
    goal: str = "balanced",
    rules: str = "evidence",
    **settings: Any,
) -> Recommendation:
    """Return the recommended plan with its reasons, its memory, its time, and the alternatives.

    What of the data is not read is told as a Python warning.

    Args:
        model: A name of the catalog, a folder, a ``config.json``, a Hub id, or a size such as ``7B``.
        gpu: A card such as ``RTX 4090`` or a memory such as ``24 GiB``; None for this machine's own device.
        data: A file, a data set of the Hub that was fetched, a ``DataSource``, or how many rows there will be.
        task: One of ``advisor.TASKS``; None leaves it to the data.
        goal: One of ``advisor.GOALS``.
        rules: ``evidence``, or ``classic`` for the textbook.
        settings: Fields of the plan that are given, such as ``r=32``; and ``num_gpus``.

    Raises:
        LorafitError: If something that is named cannot be used, or the memory of the model is unknown.
    """
    known = asked.looked_up(Question(model=model, gpu=gpu, data=data, task=task, goal=goal, pins=settings))
    _tell(known)
    return asked.recommended(known.situation, rules=rules)


@asked.of_their_kinds
def estimate(
    model: str | FinetunePlan, *, gpu: str | None = None, method: str | None = None, **settings: Any
) -> MemoryEstimate:
    """Return the memory of a plan on a card, by part, and whether it fits.

    Args:
        model: A model as ``advise`` takes it, or a plan, such as ``advise(...).plan``.
        gpu: A card; None for this machine's own device.
        method: The method, ``lora`` by default; of a plan, another one than its own.
        settings: Fields of the plan; those of a plan are replaced.

    Raises:
        LorafitError: If something that is named cannot be used, or the model cannot be traced.
    """
    name = _name(model)
    spec, (card, _) = with_layers(models.find(name)), asked.device(gpu)
    if isinstance(model, str):
        plan = pricing.plan_for(spec, name, method or "lora", settings)
    else:
        plan = _changed(model if method is None else comparing.under(model, method), settings)
    return pricing.price(spec, plan, card)


@asked.of_their_kinds
def compare(
    model: str | FinetunePlan,
    vary: Mapping[str, Sequence[Any]],
    *,
    gpu: str | None = None,
    data: Data | int | None = None,
    **question: Any,
) -> tuple[Variant, ...]:
    """Return what a plan needs under every combination of some settings, as the Compare page does.

    Args:
        model: A model, whose recommended plan is varied, or a plan.
        vary: The values of each setting: ``model``, ``gpu``, ``method``, or any field of the plan.
        gpu: The card where none is varied; None for this machine's own device.
        data: The data that the plan is for: no sequence is longer than its longest row.
        question: ``task``, ``goal`` and fields of the plan, as ``advise`` takes them.

    Raises:
        LorafitError: If something that is named cannot be used. One combination that is refused says so itself.
    """
    if not isinstance(vary, Mapping):
        raise PlanError("vary", "must map each setting to its values", type(vary).__name__, "Such as {'r': [8, 16]}")
    known, plan = _to_vary(model, gpu, data, question)
    _tell(known)
    situation = known.situation
    point = comparing.begun(situation, plan, situation.device, vary)
    return comparing.variants(point, vary, pricing.price)


@asked.of_their_kinds
def train(
    plan: FinetunePlan,
    data: Data,
    *,
    device: str | None = None,
    prompts: Sequence[str] = (),
    wait: bool = False,
    **settings: Any,
) -> Run:
    """Start a run on this machine and return it; it goes on by itself, also after this process has ended.

    Where the device is taken, the run waits for it. ``watch`` tells how a run goes.

    Args:
        plan: Such as ``advise(...).plan``.
        data: A file, a data set of the Hub, which is fetched, or a ``DataSource``.
        device: Torch's name of the device, such as ``cuda:0`` or ``cpu``; None for the first one.
        prompts: Questions that the model is asked before and after.
        wait: Whether to return only when the run is over; its ``state`` and ``error`` then say how it went.
        settings: Fields of the plan to change, such as ``max_steps=30``.

    Raises:
        LorafitError: If the plan cannot be trained here; no run exists then.
    """
    plan = _changed(plan, settings)
    if isinstance(prompts, str):
        raise RunError("prompts", "must be a list of questions, not one text", prompts, "Write it in brackets")
    source = asked.named(data)
    source = dataclasses.replace(source, path=tasks.data_file(Path(source.path)), prompts=(*source.prompts, *prompts))
    place = Place(
        device=device or machine.devices()[0].torch_name, model_path=here.model_folder(plan.model_name_or_path)
    )
    store = Store(paths.runs())
    launcher.start_waiting(store)
    run = Starter(store, here).start(plan, source, place, predicted(plan, source, place))
    return watching.waited_for(store, run.id, seconds=math.inf) if wait else run


@asked.of_their_kinds
def evaluate(
    run: Run | str, *, rows: int = MOST_ROWS, answers: int = MOST_ANSWERS, data: Data | None = None
) -> Evaluation:
    """Return whether a run's model is better than its base, with the numbers: ``found["verdict"]["sentence"]``.

    Takes minutes. docs/evaluation.md says what is measured.

    Args:
        run: A run or its id.
        rows: Rows at most.
        answers: Rows to which both models also write answers, at most.
        data: Other rows than those that the run held out: a file, a data set of the Hub, or a ``DataSource``, which
            also says which column has which role, and which split is read.

    Raises:
        LorafitError: If the run has no result, no rows are left to judge by, or the evaluation failed.
    """
    store = watching.known_runs()
    found = store.run(_id(run))
    evaluation.start(store, found, Wanted(rows=rows, answers=answers, data=_other_rows(found, data)))
    try:
        return evaluation.waited_for(store, found)
    except KeyboardInterrupt:
        evaluation.stop(store, found)
        raise


@asked.of_their_kinds
def watch(run: Run | str, *, seconds: float = 0) -> Watched:
    """Return a run as it stands: its state, its newest figures, what they show, its answers.

    Args:
        run: A run or its id.
        seconds: How long to wait for its end.

    Raises:
        RunError: If there is no such run.
    """
    return watching.watched(watching.known_runs(), _id(run), seconds=seconds)


def _tell(known: Known) -> None:
    """Warn whoever called a function of this module of what the data holds that is not read."""
    for sentence in known.remarks:
        warnings.warn(sentence, stacklevel=4)


def _to_vary(
    model: str | FinetunePlan, gpu: str | None, data: Data | int | None, question: Mapping[str, Any]
) -> tuple[Known, FinetunePlan]:
    """Return the plan to vary, and what it is for: with a model the plan is the recommended one."""
    named = {name: value for name, value in question.items() if name in {"task", "goal"}}
    fields = {name: value for name, value in question.items() if name not in named}
    name = _name(model)
    if isinstance(model, str):
        known = asked.looked_up(Question(model=name, gpu=gpu, data=data, pins=fields, **named))
        plan = asked.recommended(known.situation).plan
    else:
        plan = _changed(model, fields)
        pins = {"num_gpus": plan.num_gpus, "task_type": plan.task_type}
        known = asked.looked_up(Question(model=name, gpu=gpu, data=data, pins=pins, **named))
    return known, plan


def _other_rows(run: Run, data: Data | None) -> DataSource | None:
    """Return other rows to evaluate a run on, read as its own where nothing else is said."""
    if data is None:
        return None
    named = asked.named(data)
    if not isinstance(data, DataSource):
        named = dataclasses.replace(named, columns=run.data.columns)
    path = tasks.data_file(Path(named.path))
    return evaluation.other_rows(run.data, path=path, columns=named.columns, split=named.split)


def _changed(plan: FinetunePlan, settings: Mapping[str, Any]) -> FinetunePlan:
    """Return a plan with other values of some fields.

    Raises:
        PlanError: If there is no such field, or the plan refuses the value.
    """
    if not isinstance(plan, FinetunePlan):
        raise PlanError("plan", "must be a plan, such as advise(...).plan", type(plan).__name__)
    return FinetunePlan.from_dict({**plan.to_dict(), **settings}) if settings else plan


def _id(run: Run | str) -> str:
    if not isinstance(run, Run | str):
        raise RunError("run", "must be a run or its id", type(run).__name__)
    return run if isinstance(run, str) else run.id


def _name(model: str | FinetunePlan) -> str:
    """Return what a model is called that is named itself, or by a plan.

    Raises:
        PlanError: If it is neither.
    """
    if not isinstance(model, FinetunePlan | str):
        raise PlanError("model", "must be a name, the path of a folder as text, or a plan", type(model).__name__)
    return model if isinstance(model, str) else model.model_name_or_path
