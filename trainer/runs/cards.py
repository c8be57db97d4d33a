"""Model cards: what was made of which base model, with which data and settings, how it went, and under which licence.

A card leaves this machine, so it names no folder of it.
"""

import dataclasses
import functools
import importlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from specs import METHODS, TASK_TYPES, FinetunePlan, gib
from specs.markup import in_markdown
from specs.paths import assets
from specs.units import with_digits
from trainer.data.uploaded import name_of
from trainer.runs.contract import Metric, Run
from trainer.runs.diagnosis import perplexity

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""The Hub rejects a card whose base model is a folder."""
_LICENCE = ("license", "license_name", "license_link")
"""The fields of a licence in a card: https://huggingface.co/docs/hub/model-cards."""
_AS_BASE = "as-the-base-model"
"""What ``license_name`` says where the licence of the base model is not known here."""


def model_card(run: Run, metrics: Sequence[Metric], *, merged: bool = False) -> str:
    """Return the card of a run's result: base model, data, settings, libraries, and how it went.

    Args:
        run: The run.
        metrics: Its metrics.
        merged: Whether the result is the whole model, with the adapter merged in.
    """
    lines = [
        *_front_matter(run, merged=merged),
        f"# {_heading(run)}",
        "",
        *(_combination(run) if run.parts else _training(run)),
        *(["The adapter is merged into the base model."] if merged else []),
        *_numbers(run, metrics),
        "",
        *_data_and_licence(run),
        "",
        *_settings("Settings", run.plan, run),
        *(line for part in run.parts for line in _settings_of(part, run)),
        "",
        "## Libraries",
        *(f"- {name} {number}" for name, number in run.details.get("libraries", {}).items()),
    ]
    return "\n".join([*lines, ""])


def _heading(run: Run) -> str:
    made = f"{len(run.parts)} adapters" if run.parts else METHODS[run.plan.method].label
    return f"{made} of {_base_in_words(run)}{', combined' if run.parts else ''}"


def _training(run: Run) -> Iterator[str]:
    yield f"Trained with LoRAFit, run {run.id}: {run.step:,} steps of {run.plan.effective_batch_size:,} sequences."
    if run.result_step != run.step:
        yield f"The weights are those of step {run.result_step:,}."


def _combination(run: Run) -> Iterator[str]:
    """Yield the runs whose adapters a combination is made of, each with its data and settings."""
    kind = run.details["combined"]["type"]
    yield f"Adapters combined with LoRAFit by PEFT's `add_weighted_adapter`, `combination_type={kind}`:"
    yield ""
    for part in run.parts:
        data = in_markdown(name_of(Path(part["data"])))
        rows, fingerprint = part.get("rows", "unknown"), part.get("data_sha256", "unknown")
        yield f"- {part['weight']:g} x run {part['id']}, data {data}, {rows} rows, SHA-256 {fingerprint}"
    yield ""


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
    return str(found["sentence"]) if found.get("step") == run.result_step else ""


def shared_plan(run: Run) -> FinetunePlan:
    """Return the plan of a run for others: a model that is a folder of this machine keeps its name only."""
    return dataclasses.replace(run.plan, model_name_or_path=base_name(run))


def base_name(run: Run) -> str:
    """Return what others know the base model by: its id on the Hub, or the name of its folder."""
    name = run.plan.model_name_or_path
    return name if _is_on_hub(name) else re.split(r"[\\/]", name.rstrip("\\/"))[-1] or "unnamed"


def shared_adapter_config(text: str, run: Run) -> str:
    """Return PEFT's ``adapter_config.json`` for others, with the name of the base model in place of a folder."""
    return json.dumps({**json.loads(text), "base_model_name_or_path": base_name(run)}, indent=2, sort_keys=True)


def _is_on_hub(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def _base_in_words(run: Run) -> str:
    return in_markdown(base_name(run))


def _front_matter(run: Run, *, merged: bool = False) -> list[str]:
    """Return the part of a card that the Hub parses: https://huggingface.co/docs/hub/model-cards."""
    name, task = base_name(run), TASK_TYPES[run.plan.task_type]
    is_adapter = METHODS[run.plan.method].trains_adapter and not merged
    library = "sentence-transformers" if task.embeds else "peft" if is_adapter else "transformers"
    fields: dict[str, str] = {"base_model": name} if _is_on_hub(name) else {}
    if fields:
        fields["base_model_relation"] = "adapter" if is_adapter else "finetune"
    fields |= {"library_name": library, **_licence(run)}
    if task.name != "CAUSAL_LM":
        fields["pipeline_tag"] = task.pipeline
    return ["---", *(f"{key}: {_in_yaml(value)}" for key, value in fields.items()), "tags:", "- lorafit", "---"]


def _in_yaml(value: str) -> str:
    """Return a value as YAML reads it, bare where it can be nothing but a word."""
    return value if re.fullmatch(r"[a-z][a-z-]*[a-z]|[a-z]+-[\d.]+", value) else json.dumps(value)


def _licence(run: Run) -> Mapping[str, str]:
    """Return the licence of the base model: as its own card or the catalog says, or where its terms can be read."""
    name = base_name(run)
    known = _of_card(Path(run.model) / "README.md") or _shipped().get(name.casefold(), {})
    link = {"license_link": f"https://huggingface.co/{name}"} if _is_on_hub(name) else {}
    if known and (known["license"] != "other" or "license_name" in known):
        return known
    return {"license": "other", "license_name": _AS_BASE, **link}


def _of_card(file: Path) -> dict[str, str]:
    """Return the licence that the card of a model names; empty without a card that does."""
    # huggingface_hub takes half a second to import; only a model with a card needs its reader.
    if not file.is_file():
        return {}
    try:
        found = importlib.import_module("huggingface_hub").metadata_load(file) or {}
    except Exception:  # noqa: BLE001 - a card is anybody's YAML; one that cannot be read names nothing
        return {}
    named = {key: str(found[key]) for key in _LICENCE if isinstance(found.get(key), str)}
    return named if "license" in named else {}


@functools.cache
def _shipped() -> Mapping[str, dict[str, str]]:
    """Return the licences of the shipped models and of their owners' own fine-tunes, by their names in lower case."""
    entries = json.loads((assets() / "models.json").read_text(encoding="utf-8"))["models"]
    return {
        # The Hub's word for it may be followed by its whole name.
        name.casefold(): {"license": one["license"].split()[0]}
        for one in entries
        if one.get("license")
        for name in (one["name"], *one.get("aliases", ()))
        if name.partition("/")[0] == one["name"].partition("/")[0]
    }


def _numbers(run: Run, metrics: Sequence[Metric]) -> Iterator[str]:
    """Yield how the run went, in sentences."""
    losses = [metric.loss for metric in metrics if metric.loss is not None]
    held_out = [metric.eval_loss for metric in metrics if metric.eval_loss is not None]
    if losses:
        yield f"The loss went from {losses[0]:.4f} to {losses[-1]:.4f}."
    if held_out:
        more = f" (perplexity {with_digits(perplexity(held_out[-1]), 4)})" if run.has_perplexity else ""
        yield f"On held-out rows it went from {held_out[0]:.4f} to {held_out[-1]:.4f}{more}."
    yield from (told for told in (evaluation(run), judged(run)) if told)
    if "peak_used_bytes" in run.measured:
        yield f"Measured memory peak: {gib(run.measured['peak_used_bytes'])}."


def _data_and_licence(run: Run) -> list[str]:
    rows, fingerprint = run.details.get("rows"), run.details.get("data_sha256")
    name, licence = in_markdown(name_of(Path(run.data.path))), _licence(run)
    known = licence.get("license_name", licence["license"])
    told = f" ({known})" if known != _AS_BASE else ""
    return [
        f"- Base model: {_base_in_words(run)}",
        f"- Data: {name}, {rows or 'unknown'} rows, SHA-256 {fingerprint or 'unknown'}",
        f"- Licence: that of the base model{told}; the data may have terms of its own",
    ]


def _settings(heading: str, plan: FinetunePlan, run: Run) -> list[str]:
    shared = dataclasses.replace(plan, model_name_or_path=base_name(run))
    return [f"## {heading}", "```json", shared.to_json(), "```"]


def _settings_of(part: Mapping[str, Any], run: Run) -> list[str]:
    """Return the settings of one of the runs of a combination, whose base model is the same."""
    return ["", *_settings(f"Settings of run {part['id']}", FinetunePlan.from_dict(part["plan"]), run)]
