"""Runs for the page: the store, its contents as curves and tables, and starting a run. Draws nothing."""

import csv
import dataclasses
import functools
import importlib
import io
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from specs import GIB, METHODS, FinetunePlan, gib, paths
from trainer.data.source import DataSource
from trainer.results import tasks
from trainer.runs import export
from trainer.runs.contract import HEARTBEAT_SECONDS, Metric, Place, Run, State
from trainer.runs.diagnosis import perplexity
from trainer.runs.launcher import launch, start_waiting
from trainer.runs.store import LOG, Store
from ui.parts import text
from ui.parts.curves import Curve

LOG_BYTES = 16_000
"""How much of the end of a log is shown."""

_JUST_NOW_SECONDS = 2.5 * HEARTBEAT_SECONDS
"""A worker that sends heartbeats on time is never silent for longer."""
_UNSETTLED = 20
"""How many of the last points are read again each time."""

SERIES: Mapping[str, str] = {
    "loss": "loss",
    "eval_loss": "eval loss",
    "perplexity": "perplexity",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens/s",
    "memory_bytes": "memory (GiB)",
}
"""The quantities that can be drawn over steps, with their axis titles."""

_DERIVED: Mapping[str, tuple[str, Callable[[float], float]]] = {
    "perplexity": ("loss", perplexity),
    "memory_bytes": ("memory_bytes", lambda num_bytes: num_bytes / GIB),
}
"""The metric that a quantity is derived from, and how."""

Color = Literal["gray", "blue", "orange", "green", "red"]
STATE_COLORS: Mapping[State, Color] = {
    State.QUEUED: "gray",
    State.PREPARING: "blue",
    State.RUNNING: "blue",
    State.STOPPING: "orange",
    State.STOPPED: "gray",
    State.FINISHED: "green",
    State.FAILED: "red",
    State.LOST: "red",
}


def store() -> Store:
    """Return the store of the runs folder; the first call starts runs that wait for a free device."""
    return _store(paths.runs())


@functools.lru_cache(maxsize=4)
def _store(folder: Path) -> Store:
    opened = Store(folder)
    start_waiting(opened)
    return opened


def known(run_ids: Iterable[str]) -> list[Run]:
    """Return the runs with the given ids, each once; unknown ids are left out."""
    return [run for run_id in dict.fromkeys(run_ids) if (run := store().find(run_id)) is not None]


def start(plan: FinetunePlan, data: DataSource, place: Place, estimate: Mapping[str, Any]) -> str:
    """Queue a run, start it if its device is free, and return its id; the same token never starts a second run."""
    run = store().create(plan, data, estimate, place=place)
    launch(store(), run.id)
    return run.id


class _MetricsSoFar:
    """The metrics of one run read so far; new ones are added, so that each update reads only a few rows."""

    def __init__(self) -> None:
        self.points: tuple[Metric, ...] = ()

    def read(self, run: Run) -> tuple[Metric, ...]:
        """Read what is new, and the last steps again: an evaluation adds to a step that is already there."""
        settled = self.points[:-_UNSETTLED]
        fresh = store().metrics(run.id, after_step=settled[-1].step if settled else 0)
        self.points = settled + fresh
        return self.points


@functools.lru_cache(maxsize=256)
def _metrics_so_far(_folder: Path, _run_id: str, _attempt: int) -> _MetricsSoFar:
    return _MetricsSoFar()


def metrics(run: Run) -> tuple[Metric, ...]:
    """Return a run's metrics so far."""
    return _metrics_so_far(paths.runs(), run.id, run.attempt).read(run)


def curve(points: Iterable[Metric], quantity: str, name: str) -> Curve:
    """Return one quantity over steps, without the steps at which it was not measured."""
    column, shown = _DERIVED.get(quantity, (quantity, float))
    found = [(point.step, shown(value)) for point in points if (value := getattr(point, column)) is not None]
    return Curve(name=name, steps=[step for step, _ in found], values=[value for _, value in found])


def curves(points: Sequence[Metric], quantity: str) -> list[Curve]:
    """Return the curves of one run: the quantity, and next to the loss that of held-out rows."""
    names = (quantity, "eval_loss") if quantity == "loss" else (quantity,)
    return [found for name in names if (found := curve(points, name, SERIES[name])).steps]


def newest(points: Sequence[Metric], quantity: str) -> float | None:
    """Return the last measured value of a quantity."""
    return next((value for point in reversed(points) if (value := getattr(point, quantity)) is not None), None)


def log_tail(run: Run) -> str:
    """Return the end of the run's log."""
    try:
        with (store().run_folder(run.id) / LOG).open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - LOG_BYTES))
            return log.read().decode("utf-8", errors="replace").replace("\r", "\n")
    except FileNotFoundError:
        return ""


def title(run: Run) -> str:
    """Return the title of a run: model and method."""
    return f"{run.plan.model_name_or_path.rsplit('/', 1)[-1]}, {METHODS[run.plan.method].label}"


def last_update(run: Run, now: float | None = None) -> str:
    """Return how long ago the worker last sent a heartbeat."""
    if run.heartbeat_at is None:
        return "not started yet"
    seconds = (now or time.time()) - run.heartbeat_at
    return "updated just now" if seconds < _JUST_NOW_SECONDS else f"updated {text.duration(seconds)} ago"


def progress(run: Run) -> float:
    """Return the share of steps done."""
    return min(1.0, run.step / run.total_steps) if run.total_steps else 0.0


def activity(run: Run) -> str:
    """Return what the run is doing now, as a phrase."""
    if run.state is State.QUEUED:
        return "waiting for the device"
    steps = f"step {run.step:,} of {run.total_steps:,}" if run.total_steps else "before the first step"
    return f"{run.phase}, {steps}" if run.is_active else steps


def history(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the table of runs, one list per column."""
    curves_of = store().loss_curves()
    return {
        "Run": [run.id for run in runs],
        "State": [str(run.state) for run in runs],
        "Model": [run.plan.model_name_or_path.rsplit("/", 1)[-1] for run in runs],
        "Method": [METHODS[run.plan.method].label for run in runs],
        "Loss": [list(curves_of[run.id].losses) if run.id in curves_of else [] for run in runs],
        "Last loss": [curves_of[run.id].last if run.id in curves_of else None for run in runs],
        "Steps": [run.step for run in runs],
        "Plan": [_summary(run.plan) for run in runs],
        "Predicted": [gib(peak) if (peak := predicted_peak(run)) else "" for run in runs],
        "Peak": [gib(peak) if (peak := measured_peak(run)) else "" for run in runs],
        "Time": [text.duration(seconds) if (seconds := seconds_taken(run)) else "" for run in runs],
    }


def table_file(rows: Mapping[str, Sequence[Any]]) -> str:
    """Return a table as CSV, without its charts."""
    stream = io.StringIO()
    kept = {name: values for name, values in rows.items() if name != "Loss"}
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(kept)
    writer.writerows(zip(*kept.values(), strict=True))
    return stream.getvalue()


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the plan fields in which runs differ, one list per column."""
    plans = [run.plan.to_dict() for run in runs]
    differing = [name for name in plans[0] if len({repr(plan[name]) for plan in plans}) > 1]
    table = {"Setting": [f"`{name}`" for name in differing]}
    for run, plan in zip(runs, plans, strict=True):
        table[run.id] = [text.plain(text.value(plan[name])) for name in differing]
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
    """Return every field of a plan as a table."""
    values = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
    return {"Setting": [f"`{name}`" for name in values], "Value": [text.plain(text.value(v)) for v in values.values()]}


def measured_peak(run: Run) -> int | None:
    """Return the measured peak of used memory in bytes, once the worker has recorded it."""
    peak = run.measured.get("peak_used_bytes")
    return int(peak) if peak else None


def predicted_peak(run: Run) -> int | None:
    """Return the predicted peak of used memory in bytes, if the run was estimated."""
    return int(run.estimate["used_bytes"]) if run.estimate and run.estimate.get("used_bytes") else None


def seconds_taken(run: Run, now: float | None = None) -> float | None:
    """Return how long the run has taken so far, or took in total."""
    if run.started_at is None:
        return None
    return (run.finished_at or now or time.time()) - run.started_at


def resume(run_id: str) -> None:
    """Queue a run again and start it if its device is free."""
    store().request_resume(run_id)
    launch(store(), run_id)


def figures(run: Run, points: Sequence[Metric]) -> list[tuple[str, str, str]]:
    """Return the run's key figures: label, value, meaning."""
    shown = (
        ("Loss", "loss", ".3f", "How surprised the model is by the answers it learns from; lower is better."),
        ("Eval loss", "eval_loss", ".3f", "The same on held-out rows."),
        ("Learning rate", "learning_rate", ".2e", "Size of the next update of the weights."),
        ("Tokens/s", "tokens_per_second", ",.0f", "Tokens trained on per second, without padding."),
    )
    cells = [
        (label, "–" if (value := newest(points, quantity)) is None else format(value, form), meaning)
        for label, quantity, form, meaning in shown
        if quantity != "eval_loss" or newest(points, quantity) is not None
    ]
    memory, eta, taken = newest(points, "memory_bytes"), newest(points, "eta_seconds"), seconds_taken(run)
    cells.append(
        ("Memory", gib(int(memory)) if memory else "–", "What the worker held on the device at the last measurement.")
    )
    if run.is_over:
        cells.append(("Time", text.duration(taken) if taken else "–", "From the first step to the end."))
    else:
        cells.append(
            ("Time left", text.duration(eta) if eta is not None else "–", "Estimated from the speed of recent steps.")
        )
    return cells


def nothing_drawn(run: Run, points: Sequence[Metric], quantity: str) -> str:
    """Return what to say when there is nothing to draw."""
    if points:
        return f"No {SERIES[quantity]} was measured." if run.is_over else f"No {SERIES[quantity]} measured yet."
    if run.is_over:
        return "The run ended before its first step."
    return "The first point appears after the first step, usually within half a minute of the start."


def extend(run_id: str, steps: int) -> None:
    """Queue a run that is over for more steps and start it if its device is free."""
    store().extend(run_id, steps)
    launch(store(), run_id)


def metrics_file(run: Run) -> str:
    """Return a run's metrics as CSV."""
    return export.metrics_csv(metrics(run))


def adapter_file(run: Run) -> bytes:
    """Return a zip of a run's adapter with plan, metrics and model card."""
    return _zipped(export.package(store(), run))


def combined_file(run_ids: Sequence[str], weights: Sequence[float], combination_type: str) -> bytes:
    """Return a zip of the weighted sum of runs' adapters."""
    return _zipped(export.files_of(tasks.combine(store(), run_ids, weights, combination_type)))


def merged(run: Run) -> Path:
    """Write the base model with a run's adapter merged in, and return its folder."""
    target = store().run_folder(run.id) / f"merged-{run.step}"
    return target if target.exists() else tasks.merge(store(), run.id, target)


def pushed(run: Run, repo_id: str, token: str, *, private: bool) -> str:
    """Upload a run's result to the Hub and return its address."""
    # Importing the Hub's library takes half a second, so it waits until somebody uploads.
    return str(importlib.import_module("trainer.results.hub").push(store(), run, repo_id, token, private=private))


def _zipped(files: Mapping[str, Path | bytes]) -> bytes:
    with tempfile.TemporaryFile() as target:
        export.write_zip(files, target)
        target.seek(0)
        return target.read()


def has_adapter(run: Run) -> bool:
    """Return whether a run has saved its result."""
    return (store().run_folder(run.id) / export.RESULT).is_dir()


def event_table(run: Run) -> dict[str, list[str]]:
    """Return the events of a run as a table, newest first."""
    events = store().events(run.id)[::-1]
    return {
        "When": [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at)) for event in events],
        "What": [text.plain(event.text) for event in events],
    }
