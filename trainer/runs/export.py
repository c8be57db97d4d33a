"""Exports of a run: JSON, a CSV of its metrics, a comparison, a zip with adapter and model card."""

import csv
import dataclasses
import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from specs import METHODS, TASK_TYPES, RunError, gib
from specs.markup import in_markdown
from trainer.runs.contract import Metric, Run
from trainer.runs.store import Store

RESULT = "adapter"
"""Folder of the result within the run's folder; holds the whole model after full fine-tuning."""

MERGED = "merged-{}"
"""Folder of a merged model within the run's folder, by the step after which it was merged."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""The Hub rejects a card whose base model is a folder."""

_METRICS = tuple(entry.name for entry in dataclasses.fields(Metric))


def run_dict(run: Run) -> dict[str, Any]:
    """Return a run as plain JSON values."""
    values = {entry.name: getattr(run, entry.name) for entry in dataclasses.fields(run)}
    values["plan"] = run.plan.to_dict()
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

    Raises:
        RunError: If the run has saved no result yet.
    """
    result = result_folder(store, run)
    metrics = store.metrics(run.id)
    # PEFT and TRL write a card that mentions neither data nor metrics: ours replaces it.
    return {
        **files_of(result),
        "plan.json": run.plan.to_json().encode(),
        "metrics.csv": metrics_csv(metrics).encode(),
        "README.md": model_card(run, metrics).encode(),
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


def combined_card(runs: Sequence[Run], weights: Sequence[float], combination_type: str) -> str:
    """Return the card of combined adapters."""
    lines = [
        *_front_matter(runs[0]),
        f"# {len(runs)} adapters of {in_markdown(runs[0].plan.model_name_or_path)}, combined",
        "",
        f"Made with LoRAFit by PEFT's `add_weighted_adapter`, `combination_type={combination_type}`:",
        "",
        *(f"- {weight:g} x run {run.id}" for run, weight in zip(runs, weights, strict=True)),
    ]
    for run in runs:
        lines += ["", f"## Plan of run {run.id}", "```json", run.plan.to_json(), "```"]
    return "\n".join([*lines, ""])


def evaluation(run: Run) -> str:
    """Return in a sentence what the last evaluation measured besides the loss; empty if nothing."""
    found = run.measured.get("evaluation")
    if not found:
        return ""
    known = TASK_TYPES[run.plan.task_type].measures
    measures = ", ".join(f"{one.label} {one.shown(found[one.name])}" for one in known if one.name in found)
    return f"On held-out rows after step {found['step']:,}: {measures.replace('%', ' %')}."


def judged(run: Run) -> str:
    """Return the verdict of the last evaluation against the base model; empty without, or if the run went on since."""
    found = run.measured.get("judged") or {}
    return str(found["sentence"]) if found.get("step") == run.step else ""


def model_card(run: Run, metrics: Sequence[Metric]) -> str:
    """Return the card of a run's result: model and data, plan and libraries, and how it went."""
    losses = [metric.loss for metric in metrics if metric.loss is not None]
    lines = [
        *_front_matter(run),
        f"# {METHODS[run.plan.method].label} of {in_markdown(run.plan.model_name_or_path)}",
        "",
        f"Trained with LoRAFit, run {run.id}: {run.step:,} steps of {run.plan.effective_batch_size:,} sequences.",
    ]
    if losses:
        lines.append(f"The loss went from {losses[0]:.4f} to {losses[-1]:.4f}.")
    lines += [told for told in (evaluation(run), judged(run)) if told]
    if "peak_used_bytes" in run.measured:
        lines.append(f"Measured memory peak: {gib(run.measured['peak_used_bytes'])}.")
    rows, fingerprint = run.details.get("rows"), run.details.get("data_sha256")
    lines.append(f"Data: {rows or 'unknown'} rows, SHA-256 {fingerprint or 'unknown'}.")
    lines += ["", "## Plan", "```json", run.plan.to_json(), "```", "", "## Libraries"]
    lines += [f"- {name} {number}" for name, number in run.details.get("libraries", {}).items()]
    return "\n".join([*lines, ""])


def _front_matter(run: Run) -> list[str]:
    """Return the part of a card that the Hub parses: https://huggingface.co/docs/hub/model-cards."""
    name = run.plan.model_name_or_path
    base = [f"base_model: {json.dumps(name)}"] if _HUB_ID.fullmatch(name) else []
    library = "peft" if METHODS[run.plan.method].trains_adapter else "transformers"
    task = TASK_TYPES[run.plan.task_type]
    library = "sentence-transformers" if task.embeds else library
    tag = [f"pipeline_tag: {task.pipeline}"] if task.name != "CAUSAL_LM" else []
    return ["---", *base, f"library_name: {library}", *tag, "---"]
