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
    return compared(published()[number], model=found, gpu=gpus.find, tape=_tape)


def dots(comparisons: Sequence[Comparison]) -> list[Dot]:
    """Return what the chart of published runs draws: allocated bytes by card and source."""
    return [
        Dot(
            group=f"{found.row.gpu}, {found.row.source.partition('/')[0]}",
            line=description(found.row),
            measured=found.row.measured["allocated"],
            predicted=found.predicted["allocated"],
            note=f"{found.row.conditions.attention_kernel} attention",
        )
        for found in comparisons
        if "allocated" in found.predicted and "allocated" in found.row.measured
    ]


def description(row: MeasuredRow) -> str:
    """Return a row in one line."""
    plan = row.plan
    return f"{Path(row.model).stem}, {plan.method}, {plan.per_device_train_batch_size} x {plan.max_length:,} tokens"


def own(runs: Sequence[Run]) -> list[Dot]:
    """Return the measured runs on this machine, used bytes by device; runs with one title share a line."""
    return [
        Dot(group=run.place.device, line=titles.title(run), measured=measured, predicted=predicted, note=run.id)
        for run in runs
        if (measured := memory.measured_peak(run)) and (predicted := memory.predicted_peak(run))
    ]


def linked(words: str) -> str:
    """Return where a row was published, linked if it starts with a GitHub repository."""
    repository = words.removeprefix("github ").split(" ", 1)[0]
    return (
        f"[{text.plain(words)}](https://github.com/{repository})" if repository.count("/") == 1 else text.plain(words)
    )


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
        return library.is_warm(found(row.model), row.plan, gpu=gpus.find(row.gpu), conditions=row.conditions)
    except LorafitError:
        return False
