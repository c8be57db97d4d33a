"""Fixes for a run that went wrong: what to change, and the same run with the change. Draws nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from advisor import Situation
from advisor.levers import levers, unpriced
from advisor.rules import RULE_SETS
from advisor.search import Search
from catalog import machine, models
from estimator.estimate import MemoryEstimate
from estimator.tape.layers import with_layers
from lorafit.asked import facts
from specs import FinetunePlan, LorafitError, TraceError, gib
from trainer.runs.contract import UNKNOWN, Metric, Run
from trainer.runs.diagnosis import Diagnosis, diagnoses
from ui.parts import examining, prices, text
from ui.runs.facts import memory, run_data

OUT_OF_MEMORY = "out_of_memory"
NOT_FINITE = "not_finite"

_LOSS_NOT_FINITE = Diagnosis(
    name="loss not finite",
    sentence="The loss is no longer a finite number.",
    rule="A loss or eval_loss is infinite or not a number.",
    advice="Lower learning_rate to a third.",
    factors={"learning_rate": 1 / 3},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """One change to a run's plan that helps."""

    name: str
    """Unique among the fixes for one run."""
    words: str
    plan: FinetunePlan


def fixes(run: Run, points: Sequence[Metric]) -> list[Fix]:
    """Return what would fix a run: what saves memory if it ran out of it, and what its curves call for."""
    found = [_LOSS_NOT_FINITE] if run.error_kind == NOT_FINITE else list(diagnoses(points, run.plan.method))
    remedies = [_remedy(run, diagnosis) for diagnosis in found if diagnosis.factors]
    savings = list(_savings(run)) if run.error_kind == OUT_OF_MEMORY else []
    return [*savings, *(fix for fix in remedies if fix is not None)]


def shortage(run: Run) -> str:
    """Return the predicted, available and used memory of a run that ran out of it, as a phrase."""
    estimate = run.estimate or {}
    parts = (
        ("predicted", memory.predicted_peak(run)),
        ("available", estimate.get("capacity_bytes")),
        ("in use at the end", memory.measured_peak(run)),
    )
    return ", ".join(f"{gib(int(size))} {label}" for label, size in parts if size)


def retry(run: Run, plan: FinetunePlan) -> str:
    """Run the same data with another plan and its prediction, linked to this run, and return the new run's id.

    Raises:
        LorafitError: If the plan cannot be trained here.
    """
    estimate = predicted(run, plan)
    unknown = {name: why for name, why in (run.estimate or {}).items() if name == UNKNOWN}
    return run_data.starter().retry(run, plan, estimate.to_dict() if estimate else unknown or None).id


def _remedy(run: Run, diagnosis: Diagnosis) -> Fix | None:
    """Return the fix for a diagnosis; None if the plan is already at its limit."""
    try:
        plan = diagnosis.changed(run.plan)
    except LorafitError:
        return None
    if plan == run.plan:
        return None
    return Fix(name=diagnosis.name, words=f"{diagnosis.name.capitalize()}: {diagnosis.remedy(run.plan)}", plan=plan)


def _savings(run: Run) -> Iterator[Fix]:
    """Yield the single changes that save memory, least harmful first; none for a model missing from the catalog.

    Of a model that cannot be estimated it is not known by how much.
    """
    try:
        situation = _situation(run)
        search = Search(
            situation,
            RULE_SETS["evidence"],
            lambda plan: prices.priced(situation.model, plan, situation.device),
        )
        found = levers(search, search.unchanged(run.plan))
    except TraceError:
        for name, plan, cost in unpriced(situation, run.plan):
            change = f"{name} {text.value(getattr(run.plan, name))} -> {text.value(getattr(plan, name))}"
            yield Fix(name=name, words=f"{change} ({cost})", plan=plan)
        return
    except LorafitError:
        return
    for lever in found:
        yield Fix(name=lever.field, words=f"{lever.text} ({lever.cost})", plan=lever.plan)


def predicted(run: Run, plan: FinetunePlan) -> MemoryEstimate | None:
    """Return what a plan needs on a run's device; None for a model that is not in the catalog or cannot be traced."""
    try:
        situation = _situation(run)
        return prices.priced(situation.model, situation.as_priced(plan), situation.device)
    except LorafitError:
        return None


def _situation(run: Run) -> Situation:
    """Return the situation of a run: its model, its device, and what its data holds as long as that is there."""
    device, model = _device(run), with_layers(models.find(run.plan.model_name_or_path))
    return Situation(
        model=model,
        gpu=device.gpu,
        num_gpus=run.plan.num_gpus,
        free_bytes=device.free_bytes,
        **_data_facts(run, model.task_types),
    )


def _data_facts(run: Run, task_types: tuple[str, ...]) -> dict[str, Any]:
    """Return what a run's data holds, as fields of a situation; none if the file is gone."""
    try:
        report, _ = examining.report_of(
            run.data, examining.reader_for(run.place.model_path or run.plan.model_name_or_path)
        )
    except LorafitError:
        return {}
    return facts(report, task_types)


def _device(run: Run) -> machine.Device:
    """Return the device of a run, or this machine's first one if it is gone."""
    here = machine.devices()
    return next((device for device in here if device.torch_name == run.place.device), here[0])
