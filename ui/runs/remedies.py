"""Fixes for a run that went wrong: what to change, and the same run with the change. Draws nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from advisor import Situation
from advisor.levers import levers
from advisor.rules import RULE_SETS
from advisor.search import Search
from catalog import machine, models
from estimator.estimate import MemoryEstimate
from specs import FinetunePlan, LorafitError, gib
from trainer.runs import retry as retrying
from trainer.runs.contract import Metric, Run
from trainer.runs.diagnosis import Diagnosis, diagnoses
from trainer.runs.feasibility import Ground, require_feasible
from ui.parts import examining, prices
from ui.runs import run_data

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
    found = [_LOSS_NOT_FINITE] if run.error_kind == NOT_FINITE else list(diagnoses(points))
    remedies = [_remedy(run, diagnosis) for diagnosis in found if diagnosis.factors]
    savings = list(_savings(run)) if run.error_kind == OUT_OF_MEMORY else []
    return [*savings, *(fix for fix in remedies if fix is not None)]


def shortage(run: Run) -> str:
    """Return the predicted, available and used memory of a run that ran out of it, as a phrase."""
    estimate = run.estimate or {}
    parts = (
        ("predicted", run_data.predicted_peak(run)),
        ("available", estimate.get("capacity_bytes")),
        ("in use at the end", run_data.measured_peak(run)),
    )
    return ", ".join(f"{gib(int(size))} {label}" for label, size in parts if size)


def retry(run: Run, plan: FinetunePlan) -> str:
    """Run the same data with another plan and its prediction, linked to this run, and return the new run's id.

    Raises:
        PlanError: If the plan cannot be trained on the run's device or data.
    """
    model = run.place.model_path or plan.model_name_or_path
    ground = Ground(
        device=run.place.device,
        compute_capabilities=machine.compute_capabilities(),
        linear_modules=models.known_modules(model),
        has_pairs=_data_facts(run).get("task") == "preference",
    )
    require_feasible(plan, ground)
    estimate = predicted(run, plan)
    return retrying.retry(run_data.store(), run, plan, estimate.to_dict() if estimate else None).id


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
    """Yield the single changes that save memory, least harmful first; none for a model missing from the catalog."""
    try:
        situation = _situation(run)
        search = Search(
            situation,
            RULE_SETS["evidence"],
            lambda plan: prices.priced(situation.model, plan, situation.gpu),
        )
        found = levers(search, search.unchanged(run.plan))
    except LorafitError:
        return
    for lever in found:
        yield Fix(name=lever.field, words=f"{lever.text} ({lever.cost})", plan=lever.plan)


def predicted(run: Run, plan: FinetunePlan) -> MemoryEstimate | None:
    """Return what a plan needs on a run's device; None for a model that is not in the catalog or cannot be traced."""
    try:
        situation = _situation(run)
        return prices.priced(situation.model, situation.as_priced(plan), situation.gpu)
    except LorafitError:
        return None


def _situation(run: Run) -> Situation:
    """Return the situation of a run: its model, its device, and what its data holds as long as that is there."""
    device, model = _device(run), models.find(run.plan.model_name_or_path)
    return Situation(model=model, gpu=device.gpu, free_bytes=device.free_bytes, **_data_facts(run))


def _data_facts(run: Run) -> dict[str, Any]:
    """Return what a run's data holds, as fields of a situation; none if the file is gone."""
    try:
        report, _ = examining.report_of(
            run.data, examining.reader_for(run.place.model_path or run.plan.model_name_or_path)
        )
    except LorafitError:
        return {}
    return examining.facts(report)


def _device(run: Run) -> machine.Device:
    """Return the device of a run, or this machine's first one if it is gone."""
    here = machine.devices()
    return next((device for device in here if device.torch_name == run.place.device), here[0])
