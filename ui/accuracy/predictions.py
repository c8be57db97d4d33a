"""Predicted against measured memory: of the published runs in ``assets``, and of runs on this machine."""

import functools
from collections.abc import Sequence
from pathlib import Path

from catalog import gpus, models
from estimator.accuracy.comparison import Comparison, MeasuredRow, compared, rows
from estimator.tape import library
from estimator.tape.tape import Tape
from specs import GpuSpec, LorafitError, ModelSpec, paths
from trainer.runs.contract import Run
from ui.runs import run_data


@functools.cache
def published() -> tuple[MeasuredRow, ...]:
    """Return every measured row of the project."""
    return tuple(row for path in _files() for row in rows(path.read_text(encoding="utf-8")))


def cold() -> tuple[int, ...]:
    """Return the numbers of the rows whose prediction needs a trace first."""
    return tuple(number for number, row in enumerate(published()) if not _is_warm(row))


@functools.lru_cache(maxsize=1024)
def comparison(number: int) -> Comparison:
    """Return the prediction and the measurement of one row of ``published``."""
    return compared(published()[number], model=_model, gpu=gpus.find, tape=_tape)


def points(comparisons: Sequence[Comparison]) -> list[tuple[str, str, int, int]]:
    """Return what the chart draws: GPU, description, measured and predicted allocated bytes."""
    return [
        (found.row.gpu, description(found.row), found.row.measured["allocated"], found.predicted["allocated"])
        for found in comparisons
        if "allocated" in found.predicted and "allocated" in found.row.measured
    ]


def description(row: MeasuredRow) -> str:
    """Return a row in one line."""
    plan = row.plan
    return f"{Path(row.model).stem}, {plan.method}, {plan.per_device_train_batch_size} x {plan.max_length:,} tokens"


def own(runs: Sequence[Run]) -> list[tuple[str, str, int, int]]:
    """Return the measured runs on this machine: device, description, measured and predicted used bytes."""
    return [
        (run.place.device, f"{run_data.title(run)}, {run.id}", measured, predicted)
        for run in runs
        if (measured := run_data.measured_peak(run)) and (predicted := run_data.predicted_peak(run))
    ]


def _files() -> list[Path]:
    return sorted((paths.assets() / "measured").glob("*.csv"))


@functools.cache
def _model(name: str) -> ModelSpec:
    path = paths.assets() / "measured" / name
    return models.find(str(path) if path.is_file() else name)


def _tape(spec: ModelSpec, row: MeasuredRow, gpu: GpuSpec) -> Tape:
    return library.tape_for(spec, row.plan, gpu=gpu, conditions=row.conditions)


def _is_warm(row: MeasuredRow) -> bool:
    try:
        return library.is_warm(_model(row.model), row.plan, gpu=gpus.find(row.gpu), conditions=row.conditions)
    except LorafitError:
        return False
