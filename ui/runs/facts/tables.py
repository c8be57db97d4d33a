"""Runs as tables: all of them, how plans differ, what happened. Draws nothing."""

import time
from collections.abc import Sequence
from typing import Any

from specs import METHODS, FinetunePlan, gib
from trainer.runs.contract import Metric, Run
from ui.drawing.curves import Curve
from ui.parts import text, writing
from ui.parts.writing import Sheet
from ui.runs.facts import memory, plan_fields, run_data, standing, titles


def history(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the table of runs, one list per column."""
    curves_of = run_data.store().loss_curves()
    return {
        "Run": [run.id for run in runs],
        "Name": [run.name for run in runs],
        "Note": [run.note for run in runs],
        "Date": [titles.date(run.created_at) for run in runs],
        "State": [str(run.state) for run in runs],
        "Model": [titles.short_model(run) for run in runs],
        "Method": [METHODS[run.plan.method].label for run in runs],
        "Data": [titles.data_name(run) for run in runs],
        "Loss": [list(curves_of[run.id].losses) if run.id in curves_of else [] for run in runs],
        "Last loss": [curves_of[run.id].last if run.id in curves_of else None for run in runs],
        "Steps": [run.step for run in runs],
        "Plan": [_summary(run.plan) for run in runs],
        "Predicted": [gib(peak) if (peak := memory.predicted_peak(run)) else "" for run in runs],
        "Peak": [gib(peak) if (peak := memory.measured_peak(run)) else "" for run in runs],
        "Time": [text.duration(seconds) if (seconds := standing.seconds_taken(run)) else "" for run in runs],
    }


def sheet(name: str, runs: Sequence[Run]) -> Sheet:
    """Return the table of runs as it is saved, without its charts."""
    columns = {head: ["" if cell is None else cell for cell in cells] for head, cells in history(runs).items()}
    del columns["Loss"]
    return writing.sheet_of(name, columns, {})


def curve_table(curves: Sequence[Curve], quantity: str) -> dict[str, list[Any]]:
    """Return the points of curves as a table, one row for each."""
    points = [(one.name, *point) for one in curves for point in zip(one.steps, one.values, strict=True)]
    return {head: [point[at] for point in points] for at, head in enumerate(("run", "step", quantity))}


def about(run: Run) -> dict[str, str]:
    """Return what all tables of a run are about."""
    return {"run": run.id, "model": titles.short_model(run), "method": METHODS[run.plan.method].label}


def numbers_sheet(run: Run, points: Sequence[Metric]) -> Sheet:
    """Return a run's key figures as they are saved, its peak among them."""
    peak, predicted = memory.measured_peak(run), memory.predicted_peak(run)
    columns = {label: [shown] for label, shown, _ in standing.figures(run, points)}
    columns |= {"Steps": [f"{run.step:,}"], "Peak": [gib(peak) if peak else ""]}
    return writing.sheet_of("numbers", columns | {"Predicted": [gib(predicted) if predicted else ""]}, about(run))


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the plan fields in which runs differ, one list per column."""
    plans = [run.plan.to_dict() for run in runs]
    differing = [name for name in plans[0] if len({repr(plan[name]) for plan in plans}) > 1]
    head = "Setting"
    table = {head: [f"`{name}`" for name in differing]}
    for name, plan in zip(titles.labels(runs, beside=head), plans, strict=True):
        table[text.plain(name)] = [text.plain(text.value(plan[field])) for field in differing]
    return table


def changes(before: Run, after: Run) -> list[str]:
    """Return how the plan of a run differs from another's, field by field."""
    old, new = before.plan.to_dict(), after.plan.to_dict()
    return [f"{name} {text.value(old[name])} → {text.value(new[name])}" for name in old if old[name] != new[name]]


def _summary(plan: FinetunePlan) -> str:
    """Return the fields in which plans differ most often."""
    rank = f"r {plan.r}, " if METHODS[plan.method].trains_adapter else ""
    batch = f"{plan.per_device_train_batch_size} x {plan.gradient_accumulation_steps}"
    return f"{rank}rate {text.value(plan.learning_rate)}, batch {batch}, {plan.max_length:,} tokens"


def plan_table(plan: FinetunePlan) -> dict[str, list[str]]:
    """Return the fields of a plan that have an effect as a table."""
    values = plan_fields.used(plan)
    return {"Setting": [f"`{name}`" for name in values], "Value": [text.plain(text.value(v)) for v in values.values()]}


def event_table(run: Run) -> dict[str, list[str]]:
    """Return the events of a run as a table, newest first."""
    events = run_data.store().events(run.id)[::-1]
    return {
        "When": [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at)) for event in events],
        "What": [text.plain(event.text) for event in events],
    }
