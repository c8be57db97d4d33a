"""Published runs with the time they took: rows of a file in, what ran and its seconds out."""

import csv
import io
from collections.abc import Callable
from pathlib import PurePath

from estimator.duration.published import TimedRun
from specs import FinetunePlan, GpuSpec, ModelSpec

_BATCH = "per_device_train_batch_size"


def timed_runs(text: str, *, model: Callable[[str], ModelSpec], gpu: Callable[[str], GpuSpec]) -> tuple[TimedRun, ...]:
    """Return the runs of a file of rows.

    Args:
        text: The file, with the columns that ``assets/speed.csv`` has.
        model: Finds a model by its name, or by the path of its configuration beside the measured rows.
        gpu: Finds a card by its name.
    """
    return tuple(
        TimedRun(
            model=model(row["model"]),
            gpu=gpu(row["gpu"]),
            plan=_plan(row),
            steps_apart=int(row["passes_per_step"]),
            seconds=float(row["seconds_per_pass"]),
            source=row["source"],
        )
        for row in csv.DictReader(io.StringIO(text))
    )


def description(run: TimedRun) -> str:
    """Return a run in one line."""
    plan, name = run.plan, PurePath(run.model.name).name.removesuffix(".json")
    return f"{name}, {plan.method}, {plan.per_device_train_batch_size} x {plan.max_length:,} tokens"


def _plan(row: dict[str, str]) -> FinetunePlan:
    values: dict[str, object] = {"dtype": row["dtype"], "loss": "full", "optim": "adamw_torch"}
    values |= {name: int(row[name]) for name in (_BATCH, "max_length")}
    values |= {name: row[name] == "true" for name in ("gradient_checkpointing", "prepare_kbit")}
    if row["r"]:
        values["r"] = int(row["r"])
    if row["target_modules"] not in {"", "all-linear"}:
        values["target_modules"] = tuple(row["target_modules"].split())
    return FinetunePlan.for_method(row["method"], row["model"], **values)
