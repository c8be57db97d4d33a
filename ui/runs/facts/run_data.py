"""Runs for the page: the store, starting a run, and its results as files. Draws nothing."""

import functools
import importlib
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from catalog import here
from specs import DataError, FinetunePlan, LorafitError, RunError, paths
from trainer.data import tested
from trainer.data.source import DataSource
from trainer.results import best as results
from trainer.results import evaluation as evaluating
from trainer.results import quantizing, tasks
from trainer.results.best import Best
from trainer.results.evaluation import Evaluation, Wanted
from trainer.results.serving import exporting
from trainer.results.serving.exporting import Served
from trainer.runs import export
from trainer.runs.contract import Metric, Place, Run
from trainer.runs.launcher import start_waiting
from trainer.runs.starting import Starter
from trainer.runs.storage import order
from trainer.runs.store import LOG, Store
from trainer.sandbox import running

_PROGRESS = re.compile(r"\d+%\|.*\| *\d\S*/\S+ \[|\d+(?:it|ex\w*) \[\d+:\d+")
"""A line of tqdm, with a known end or without: ``40%|##  | 2/5 [00:01<00:02, 1.9it/s]``, ``12it [00:03, 4.0it/s]``."""

LOG_BYTES = 16_000
"""How much of the end of a log is shown."""

_UNSETTLED = 20
"""How many of the last points are read again each time."""


def store() -> Store:
    """Return the store of the runs folder; the first call starts runs that wait for a free device."""
    return _store(paths.runs())


@functools.lru_cache(maxsize=4)
def _store(folder: Path) -> Store:
    opened = Store(folder)
    start_waiting(opened)
    return opened


def starter() -> Starter:
    """Return what starts runs of the runs folder on this machine."""
    return Starter(store(), here)


def known(run_ids: Iterable[str]) -> list[Run]:
    """Return the runs with the given ids, each once; unknown ids are left out."""
    return [run for run_id in dict.fromkeys(run_ids) if (run := store().find(run_id)) is not None]


def is_training() -> bool:
    """Return whether any run uses a device."""
    return any(run.is_active for run in store().runs())


def known_here() -> tuple[Run, ...]:
    """Return all runs, to learn from.

    There are none in a folder that cannot be used, which the pages of runs tell of.
    """
    try:
        return store().runs()
    except (OSError, LorafitError):
        return ()


def start(plan: FinetunePlan, data: DataSource, place: Place, estimate: Mapping[str, Any]) -> str:
    """Queue a run, start it if its device is free, and return its id; the same token never starts a second run."""
    return starter().start(plan, data, place, estimate).id


def race(
    plan: FinetunePlan,
    varied: Sequence[str],
    data: DataSource,
    place: Place,
    estimate: Mapping[str, Any],
    *,
    repeats: int = 0,
) -> str:
    """Queue a run that begins with a race, or with an ablation of so many seeds; return its id, as ``start`` does."""
    return starter().race(plan, varied, data, place, estimate, repeats=repeats).id


def log_tail(run: Run) -> str:
    """Return the end of the run's log, without progress bars."""
    try:
        with (store().run_folder(run.id) / LOG).open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - LOG_BYTES))
            tail = log.read().decode("utf-8", errors="replace")
            return "\n".join(line for line in tail.replace("\r", "\n").split("\n") if not _PROGRESS.search(line))
    except FileNotFoundError:
        return ""


def resume(run_id: str) -> None:
    """Queue a run again and start it if its device is free."""
    starter().resume(run_id)


def extend(run_id: str, steps: int) -> None:
    """Queue a run that is over for more steps and start it if its device is free."""
    starter().extend(run_id, steps)


def metrics_file(run: Run) -> str:
    """Return a run's metrics as CSV."""
    return export.metrics_csv(metrics(run))


def adapter_file(run: Run) -> bytes:
    """Return a zip of a run's adapter with plan, metrics and model card."""
    return _zipped(export.package(store(), run))


def combined(run_ids: Sequence[str], weights: Sequence[float], combination_type: str) -> Run:
    """Add the weighted sum of runs' adapters as a run of its own, and return it."""
    return tasks.combine(store(), run_ids, weights, combination_type)


def merged(run: Run) -> Path:
    """Write the base model with a run's adapter merged in, and return its folder."""
    target = store().run_folder(run.id) / export.MERGED.format(run.result_step)
    return target if target.exists() else tasks.merge(store(), run.id, target)


def served(run: Run, to: str, file_type: str) -> Served:
    """Write a run's model for another program into the run's folder."""
    return exporting.served_beside(store(), run, to, file_type)


def quantize(run: Run, way: str) -> None:
    """Round a run's model to fewer bits, and keep it."""
    quantizing.quantized(store(), run, way)


def quantized(run: Run) -> Mapping[str, Mapping[str, Any]]:
    """Return what was measured of each quantized model of a run's result, by its way."""
    return quantizing.kept(store(), run)


def quantized_folder(run: Run, way: str) -> Path:
    """Return where a quantized model is kept."""
    return quantizing.folder(store(), run, way)


def pushed(run: Run, repo_id: str, token: str, *, private: bool) -> str:
    """Upload a run's result to the Hub and return its address."""
    # Importing the Hub's library takes half a second, so it waits until somebody uploads.
    return str(importlib.import_module("trainer.results.hub").push(store(), run, repo_id, token, private=private))


def evaluation(run: Run) -> Evaluation | None:
    """Return the newest evaluation of a run."""
    return evaluating.latest(store(), run)


def evaluated_rows(run: Run) -> Sequence[Mapping[str, Any]]:
    """Return what the last complete evaluation of a run found row by row."""
    return evaluating.rows(store(), run)


def evaluate(run: Run, wanted: Wanted) -> None:
    """Start an evaluation of a run."""
    evaluating.start(store(), run, wanted)


def brings_tests(run: Run) -> bool:
    """Return whether the data of a run brings tests for answers that are code."""
    return _brings_tests(run.data.path, run.data.split, _changed(run.data.path))


@functools.lru_cache(maxsize=32)
def _brings_tests(path: str, split: str, _changed: int) -> bool:
    try:
        return tested.brings_tests(DataSource(path=path, split=split))
    except DataError:
        return False


def _changed(path: str) -> int:
    """Return when a file was changed, in nanoseconds; 0 where there is none."""
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0


def lacks_sandbox() -> str:
    """Return why answers cannot be run as code here; empty if they can."""
    try:
        running.require()
    except RunError as error:
        return str(error)
    return ""


def stop_evaluation(run: Run) -> None:
    """Ask the evaluation of a run to end."""
    evaluating.stop(store(), run)


def _zipped(files: Mapping[str, Path | bytes]) -> bytes:
    with tempfile.TemporaryFile() as target:
        export.write_zip(files, target)
        target.seek(0)
        return target.read()


def best(run: Run) -> Best | None:
    """Return which step of a run was best on held-out rows."""
    return results.best(store(), run, metrics(run))


def keep(run: Run, step: int) -> None:
    """Make the weights of a checkpoint the result of a run."""
    results.keep(store(), run, step)


@functools.lru_cache(maxsize=32)
def _rows_behind(folder: Path, run_id: str, _attempt: int, step: int) -> Mapping[int, str]:
    known = _store(folder)
    return order.told(known.run(run_id), known.run_folder(run_id), step)


def rows_behind(run: Run, step: int) -> Mapping[int, str]:
    """Return the rows that a step read, by their numbers in the file, with their beginnings."""
    return _rows_behind(paths.runs(), run.id, run.attempt, step)


def has_adapter(run: Run) -> bool:
    """Return whether a run has saved its result."""
    return (store().run_folder(run.id) / export.RESULT).is_dir()


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
