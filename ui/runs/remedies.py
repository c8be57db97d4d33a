"""Ways on for a run that went wrong: what to change, and the same run with it. Knows no widget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
from ui.parts import prices
from ui.runs import run_data

OUT_OF_MEMORY = "out_of_memory"
NOT_FINITE = "not_finite"

_LOST_LOSS = Diagnosis(
    name="loss lost",
    sentence="The loss is no finite number any more.",
    rule="A loss or eval_loss is infinite or not a number.",
    advice="Lower learning_rate to a third.",
    factors={"learning_rate": 1 / 3},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One change of a run's plan that helps."""

    name: str
    """Unique among the ways on from one run."""
    words: str
    plan: FinetunePlan


def ways_on(run: Run, points: Sequence[Metric]) -> list[Way]:
    """Return what would mend a run: what saves memory if it ran out of it, and what its curves ask for."""
    found = [_LOST_LOSS] if run.error_kind == NOT_FINITE else list(diagnoses(points))
    remedies = [_remedied(run, diagnosis) for diagnosis in found if diagnosis.factors]
    savings = list(_savings(run)) if run.error_kind == OUT_OF_MEMORY else []
    return [*savings, *(way for way in remedies if way is not None)]


def shortage(run: Run) -> str:
    """Return what was predicted, what the device has and what the run held, for one that ran out of memory."""
    estimate = run.estimate or {}
    parts = (
        ("predicted", run_data.predicted_peak(run)),
        ("available on the device", estimate.get("capacity_bytes")),
        ("held when it ended", run_data.measured_peak(run)),
    )
    return ", ".join(f"{label} {gib(int(size))}" for label, size in parts if size)


def retry(run: Run, plan: FinetunePlan) -> str:
    """Start the run again with another plan and the prediction for it, linked to this one, and return its id."""
    predicted = _priced(run, plan)
    estimate = predicted.to_dict() if predicted else None
    return retrying.retry(run_data.store(), run, plan, estimate).id


def _remedied(run: Run, diagnosis: Diagnosis) -> Way | None:
    """Return the way on of a diagnosis; None where the plan is at its limit already."""
    try:
        plan = diagnosis.changed(run.plan)
    except LorafitError:
        return None
    if plan == run.plan:
        return None
    return Way(name=diagnosis.name, words=f"{diagnosis.remedy(run.plan)} (against {diagnosis.name})", plan=plan)


def _savings(run: Run) -> Iterator[Way]:
    """Yield the single changes that save memory, least harmful first; none for a model that the catalog lacks."""
    device = _device(run)
    try:
        situation = Situation(
            model=models.find(run.plan.model_name_or_path), gpu=device.gpu, free_bytes=device.free_bytes
        )
        search = Search(
            situation,
            RULE_SETS["evidence"],
            lambda plan: prices.priced(situation.model, plan, device.gpu),
        )
        found = levers(search, search.unchanged(run.plan))
    except LorafitError:
        return
    for lever in found:
        yield Way(name=lever.field, words=f"{lever.text} ({lever.cost})", plan=lever.plan)


def _priced(run: Run, plan: FinetunePlan) -> MemoryEstimate | None:
    """Return what a plan needs on a run's device; None for a model that the catalog lacks or that cannot be traced."""
    try:
        return prices.priced(models.find(plan.model_name_or_path), plan, _device(run).gpu)
    except LorafitError:
        return None


def _device(run: Run) -> machine.Device:
    """Return the device of a run, or the first there is now."""
    here = machine.devices()
    return next((device for device in here if device.torch_name == run.place.device), here[0])
