"""Predicted against measured memory: of the published runs in ``assets``, and of runs on this machine."""

import functools
from collections.abc import Sequence
from pathlib import Path

from catalog import models
from estimator.accuracy.comparison import KINDS, Comparison, Kind, MeasuredRow, compared, rows
from estimator.accuracy.measure import device_of_row
from estimator.tape import library
from estimator.tape.tape import Tape
from specs import GpuSpec, LorafitError, ModelSpec, paths
from trainer.runs.contract import Run
from ui.drawing.charts import Dot
from ui.parts import text
from ui.runs.facts import memory, titles


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
    return compared(published()[number], model=found, gpu=device_of_row, tape=_tape)


def dots(comparisons: Sequence[Comparison]) -> list[Dot]:
    """Return what the chart of published runs draws: allocated bytes by card and source."""
    return [
        Dot(
            group=f"{device(found.row)}, {found.row.source.partition('/')[0]}",
            line=description(found.row),
            measured=found.row.measured["allocated"],
            predicted=found.predicted["allocated"],
            note=conditions(found.row),
        )
        for found in comparisons
        if "allocated" in found.predicted and "allocated" in found.row.measured
    ]


def description(row: MeasuredRow) -> str:
    """Return a row in one line."""
    plan = row.plan
    return f"{Path(row.model).stem}, {plan.method}, {plan.per_device_train_batch_size} x {plan.max_length:,} tokens"


def device(row: MeasuredRow) -> str:
    """Return the card of a row, with how many of them it ran on."""
    return f"{row.plan.num_gpus} x {row.gpu}" if row.plan.num_gpus > 1 else row.gpu


def first_measured(row: MeasuredRow) -> Kind:
    """Return which memory of a row to show: allocated if it was measured, else what was; used of one that ran out."""
    return next((kind for kind in KINDS if kind in row.measured), "used")


def conditions(row: MeasuredRow) -> str:
    """Return what decides a row's memory besides model, method and batch: attention, sharding, casts to 32 bits."""
    told = [f"{row.conditions.attention_kernel} attention"]
    told += [row.plan.sharding.upper()] if row.plan.sharding != "none" else []
    told += ["prepare_kbit"] if row.plan.prepare_kbit else []
    return ", ".join(told)


def own(runs: Sequence[Run]) -> list[Dot]:
    """Return the measured runs on this machine, used bytes by device; runs with one title share a line."""
    return [
        Dot(group=run.place.device, line=titles.title(run), measured=measured, predicted=predicted, note=run.id)
        for run in runs
        if (measured := memory.measured_peak(run)) and (predicted := memory.predicted_peak(run))
    ]


def linked(words: str) -> str:
    """Return where a row was published, linked if it starts with a GitHub repository."""
    place = words.removeprefix("github ")
    repository = place.split(" ", 1)[0]
    shown = text.plain(place)
    return f"[{shown}](https://github.com/{repository})" if repository.count("/") == 1 else text.plain(words)


def _files() -> list[Path]:
    return sorted((paths.assets() / "measured").glob("*.csv"))


@functools.cache
def found(name: str) -> ModelSpec:
    """Return the model of a row: of the catalog, or a configuration beside the rows."""
    path = paths.assets() / "measured" / name
    return models.find(str(path) if path.is_file() else name)


def _tape(spec: ModelSpec, row: MeasuredRow, gpu: GpuSpec) -> Tape:
    return library.tape_for(spec, row.plan, gpu=gpu, conditions=row.conditions)


def _is_warm(row: MeasuredRow) -> bool:
    try:
        return library.is_warm(found(row.model), row.plan, gpu=device_of_row(row.gpu), conditions=row.conditions)
    except LorafitError:
        return False
