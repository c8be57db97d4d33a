"""Opens the Plan page with everything that a run did, to change it and run it again."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import streamlit as st

from advisor.rules import RULE_SETS
from specs import METHODS, TASK_TYPES, FinetunePlan, LorafitError
from trainer.runs.contract import Run
from ui.parts import given
from ui.parts.links import AGAIN
from ui.plan import fields, forms, pins, planning, taking
from ui.plan.data import data_form, datasets
from ui.plan.forms import Inputs
from ui.runs.facts import plan_fields, run_data, titles


def take() -> None:
    """Choose what the run did that the address names, but for the settings that the address names too.

    Call it before the first widget of the page.
    """
    run_id = st.query_params.get(AGAIN)
    if run_id is None:
        return
    given.granted(AGAIN)
    del st.query_params[AGAIN]
    run = run_data.store().find(run_id)
    if run is None:
        given.refuse(AGAIN, run_id, "must be the id of a run that is kept here")
        return
    changes = {name: st.query_params[name] for name in fields.ALL if name in st.query_params}
    for name in given.PLAN:
        st.session_state.pop(name, None)
    said = inputs(run)
    for name, value in said.items():
        st.session_state[name] = value
    for name, value in (overrides(run, said) | changes).items():
        pins.put(name, value)


def inputs(run: Run) -> dict[str, Any]:
    """Return what the form of the Plan page says for a run: its model, device and data, by the names of the widgets."""
    found: dict[str, Any] = {"model": run.plan.model_name_or_path, "num_gpus": run.plan.num_gpus}
    if label := planning.label_of(run.place.device):
        found["gpu"] = label
    if label := datasets.label_of(run.data):
        found |= {"data": label, "prompts": "\n".join(run.data.prompts), "thinking": data_form.words_of(run.data)}
        if datasets.splits(label):
            found["split"] = run.data.split
        if run.data.evaluation_split:
            found["evaluate"] = run.data.evaluation_split
    else:
        given.refuse("data", titles.data_name(run), "is data of the run that is not kept here: choose yours")
    return found


def overrides(run: Run, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with which the Plan page advises exactly the plan of a run, as few as that takes.

    Args:
        run: The run.
        said: What the form says for it.
    """
    wanted = _decided(run.plan)
    if "data" not in said:
        return wanted  # on other data, other values would be advised
    asked = _asked(run, said)

    def moved(pinned: Mapping[str, Any]) -> list[str]:
        plan = planning.proposal(planning.request(replace(asked, pins=dict(pinned)))).plan
        return [name for name, value in wanted.items() if getattr(plan, name) != value]

    with suppress(LorafitError):
        return taking.fewest(wanted, {}, moved)
    return wanted


def _asked(run: Run, said: Mapping[str, Any]) -> Inputs:
    """Return the inputs of the page as the form will say them, with everything else at its default."""
    source = run.data
    choice = datasets.Choice(
        label=said["data"],
        thinking=source.thinking,
        split=source.split,
        evaluation_split=source.evaluation_split,
        prompts=source.prompts,
    )
    device = said.get("gpu", planning.device_names()[0])
    return Inputs(
        model=said["model"],
        device=device,
        num_gpus=said["num_gpus"],
        data=choice,
        task="",
        goal=forms.USUAL_GOAL,
        rules="evidence",
        pins={},
    )


def _decided(plan: FinetunePlan) -> dict[str, Any]:
    """Return what a plan says in the fields that rules decide, and elsewhere what is not the default."""
    fixed = {*METHODS[plan.method].preset, *TASK_TYPES[plan.task_type].preset, "num_gpus"}
    decided = {"method", *(rule.field for rule in RULE_SETS["evidence"] if rule.applies(plan))}
    usual = FinetunePlan(model_name_or_path=plan.model_name_or_path, method="full")
    return {
        name: value
        for name, value in plan_fields.used(plan).items()
        if name in ("method", *fields.ALL)
        and name not in fixed
        and value is not None
        and (name in decided or value != getattr(usual, name))
    }
