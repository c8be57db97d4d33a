"""What is predicted of a run that is started without a page, to be kept beside what it will measure."""

from collections.abc import Mapping
from typing import Any

from advisor import Situation, speed
from advisor.speed import Speed
from catalog import machine, models
from estimator import pricing
from estimator.estimate import MemoryEstimate
from estimator.tape import library
from lorafit import own_runs
from lorafit.asked import asks_data, facts, reader
from specs import FinetunePlan, LorafitError
from trainer.data import doctor
from trainer.data.source import DataSource
from trainer.runs.contract import Place


def foretold(estimate: MemoryEstimate, told: Speed | None) -> dict[str, Any]:
    """Return memory and time of a run as they are kept with it."""
    return {**estimate.to_dict(), **({"time": told.to_dict()} if told is not None else {})}


def predicted(plan: FinetunePlan, data: DataSource, place: Place) -> Mapping[str, Any] | None:
    """Return memory and time of a plan on its data, to its end; None where a step of the model must be traced first.

    Nobody waits for a trace before a run: its first steps show what it takes.
    """
    try:
        device = next(one for one in machine.devices() if one.torch_name == place.device.partition(",")[0])
        gpu = own_runs.taught(device, own_runs.kept())
        model = models.find(plan.model_name_or_path)
        if not library.is_warm(model, plan, gpu=gpu):
            return None
        whose = reader(model)
        report = doctor.examined(data, whose.tokenizer, task_types=whose.task_types)
        situation = Situation(
            model=model,
            gpu=gpu,
            num_gpus=plan.num_gpus,
            free_bytes=device.free_bytes,
            asks_data=asks_data(data, report),
            questions=len(data.prompts),
            **facts(report, model.task_types),
        )
        estimate = pricing.price(model, situation.as_priced(plan), situation.device)
        return foretold(estimate, speed.step_speed(situation, plan))
    except (LorafitError, StopIteration):
        return None  # the run itself says what is wrong with its model or its data
