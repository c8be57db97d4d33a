"""Combinations of adapters as runs: one that was never trained, but can be asked, evaluated, merged and exported."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from specs import FinetunePlan, RunError
from trainer.runs.contract import Place, Run
from trainer.runs.storage.shelf import LONGEST_NAME
from trainer.runs.store import Store

_COPIED = ("rows", "data_sha256", "libraries", "python", "texts", "loss_of_tokens", "expected", "learned", "classes")
"""What a combination takes over from the first of its runs, whose data it is evaluated on."""


def added(store: Store, runs: Sequence[Run], weights: Sequence[float], combination_type: str, result: Path) -> Run:
    """Add a combination to the runs, and return it; the same combination is added once.

    Args:
        store: Where the runs are kept.
        runs: Those whose adapters were combined. The combination has the place, the data and the settings of the
            first, but the rank of what was combined.
        weights: How much of each adapter.
        combination_type: As in PEFT.
        result: The folder of the combined adapter, in the runs folder; it is moved.
    """
    first = runs[0]
    plan = _plan(first.plan, json.loads((result / "adapter_config.json").read_text(encoding="utf-8")))
    parts = [
        {
            "id": run.id,
            "name": run.name,
            "weight": weight,
            "plan": run.plan.to_dict(),
            "data": run.data.path,
            **{key: run.details[key] for key in ("rows", "data_sha256") if key in run.details},
        }
        for run, weight in zip(runs, weights, strict=True)
    ]
    combined = {"type": combination_type, "parts": parts, "shares_rows": _share_rows(runs)}
    details = {**{key: first.details[key] for key in _COPIED if key in first.details}, "combined": combined}
    place = Place(device=first.place.here, model_path=first.place.model_path, token=_token(runs, combined))
    return store.create_finished(plan, first.data, place=place, name=_name(runs), details=details, result=result)


def refuse_combination(run: Run) -> None:
    """Refuse to train a combination.

    Raises:
        RunError: If the run is one.
    """
    if run.parts:
        ids = ", ".join(part["id"] for part in run.parts)
        way_out = "Train one of its runs, and combine again"
        raise RunError(f"run {run.id}", f"is a combination of {ids}, and is not trained itself", None, way_out)


def combined_in_words(run: Run) -> str:
    """Return which adapters a run combines, such as ``0.5 x A + 0.5 x B (cat)``."""
    parts = " + ".join(f"{part['weight']:g} x {part['name'] or part['id']}" for part in run.parts)
    return f"{parts} ({run.details['combined']['type']})"


def _plan(plan: FinetunePlan, config: Mapping[str, Any]) -> FinetunePlan:
    """Return a plan with the adapter that a configuration of PEFT describes; its scale is within its weights."""
    fields = plan.with_method("lora") if plan.use_rslora else plan
    return dataclasses.replace(
        fields,
        r=config["r"],
        lora_alpha=config["lora_alpha"],
        use_rslora=False,
        rank_pattern=(),
        alpha_pattern=(),
        target_modules=tuple(sorted(config["target_modules"])),
    )


def _share_rows(runs: Sequence[Run]) -> bool:
    """Return whether one run may have learned rows that another one of the same data held out."""
    first, *others = runs
    same = [run for run in others if run.data.path == first.data.path]
    return any(_held_out(run) != _held_out(first) for run in same)


def _held_out(run: Run) -> tuple[object, ...]:
    """Return what decides which rows a run does not learn."""
    return run.plan.seed, run.plan.eval_split, run.data


def _token(runs: Sequence[Run], combined: Mapping[str, Any]) -> str:
    """Return what names a combination of these adapters as they are now."""
    steps = [(run.step, run.attempt) for run in runs]
    weights = [(part["id"], part["weight"]) for part in combined["parts"]]
    digest = hashlib.sha256(json.dumps([combined["type"], weights, steps]).encode()).hexdigest()
    return f"combine {digest}"


def _name(runs: Sequence[Run]) -> str:
    name = " + ".join(run.name or run.id for run in runs)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
