"""Exports of a run: JSON, a CSV of its metrics, a comparison, a zip of its result with plan and model card."""

import csv
import dataclasses
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from specs import RunError
from trainer.runs import cards
from trainer.runs.contract import RESULT as RESULT
from trainer.runs.contract import Metric, Run
from trainer.runs.store import Store

MERGED = "merged-{}"
"""Folder of a merged model within the run's folder, by the step after which it was merged."""
EXPORTED, QUANTIZED = "export-{}", "quantized-{}"
"""Folders of what was written for other programs, and of quantized models, by that step and their kind."""
WRITTEN = (MERGED, EXPORTED, QUANTIZED)
"""All that is made of a result and lies beside it, which can be made again."""

_ADAPTER_CONFIG = "adapter_config.json"
"""What PEFT keeps beside an adapter, with the folder of the base model."""

_METRICS = tuple(entry.name for entry in dataclasses.fields(Metric))


def run_dict(run: Run) -> dict[str, Any]:
    """Return a run as plain JSON values."""
    values = {entry.name: getattr(run, entry.name) for entry in dataclasses.fields(run)}
    values["plan"] = run.plan.to_dict()
    values["race"] = run.race and run.race.to_dict()
    values["data"], values["place"] = dataclasses.asdict(run.data), dataclasses.asdict(run.place)
    return values


def metrics_csv(metrics: Sequence[Metric]) -> str:
    """Return metrics as CSV, one line per step."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_METRICS)
    writer.writerows(dataclasses.astuple(metric) for metric in metrics)
    return stream.getvalue()


def compared(runs: Sequence[Run], store: Store) -> dict[str, list[Any]]:
    """Return how runs differ: the plan fields that differ, then how each run went."""
    plans = [run.plan.to_dict() for run in runs]
    table: dict[str, list[Any]] = {"run": [run.id for run in runs]}
    if any(run.name for run in runs):
        table["name"] = [run.name for run in runs]
    for name in plans[0]:
        values = [plan[name] for plan in plans]
        if any(value != values[0] for value in values):
            table[name] = values
    losses = [[metric.loss for metric in store.metrics(run.id) if metric.loss is not None] for run in runs]
    table["state"] = [str(run.state) for run in runs]
    table["steps"] = [run.step for run in runs]
    table["first loss"] = [round(values[0], 4) if values else None for values in losses]
    table["last loss"] = [round(values[-1], 4) if values else None for values in losses]
    table["predicted bytes"] = [(run.estimate or {}).get("used_bytes") for run in runs]
    table["measured bytes"] = [run.measured.get("peak_used_bytes") for run in runs]
    return table


def result_folder(store: Store, run: Run) -> Path:
    """Return the folder of a run's result.

    Raises:
        RunError: If the run has saved none yet.
    """
    result = store.run_folder(run.id) / RESULT
    if not result.is_dir():
        raise RunError(
            f"run {run.id}", "has saved no adapter yet", str(run.state), "Stop it, or wait until it finishes"
        )
    return result


def package(store: Store, run: Run) -> dict[str, Path | bytes]:
    """Return a run's result with its plan, metrics and model card: content, or the file with it, by name.

    No content names a folder of this machine.

    Raises:
        RunError: If the run has saved no result yet.
    """
    result = result_folder(store, run)
    metrics = store.metrics(run.id)
    files = files_of(result)
    if (config := result / _ADAPTER_CONFIG).is_file():
        files[_ADAPTER_CONFIG] = cards.shared_adapter_config(config.read_text(encoding="utf-8"), run).encode()
    # PEFT and TRL write a card that mentions neither data nor metrics: ours replaces it.
    return {
        **files,
        "plan.json": cards.shared_plan(run).to_json().encode(),
        "metrics.csv": metrics_csv(metrics).encode(),
        "README.md": cards.model_card(run, metrics).encode(),
    }


def files_of(folder: Path) -> dict[str, Path | bytes]:
    """Return the files in a folder by their paths within it."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def write_zip(files: Mapping[str, Path | bytes], target: IO[bytes]) -> None:
    """Write files, or their content, as a zip file."""
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            if isinstance(content, Path):
                archive.write(content, name)
            else:
                archive.writestr(name, content)
