"""How a page about a plan begins: what was chosen before, and everything that the advice depends on."""

import dataclasses
from contextlib import suppress

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from specs import LorafitError
from ui.parts import carried, given, text
from ui.parts.examining import reader_for
from ui.plan import again, forms, pins, planning
from ui.plan.data import data_view, datasets
from ui.plan.forms import Inputs


def inputs() -> Inputs | None:
    """Ask for everything; None while a name such as 3060 leaves open which card is meant, which is then asked."""
    carried.bring()
    again.take()
    asked = forms.inputs(planning.model_names(), planning.device_names(), planning.linear_modules)
    meant = planning.devices_meant(asked.device)
    if not meant:
        return asked
    forms.choose_device(meant)
    pins.show_chosen()
    return None


def in_words(inputs: Inputs) -> str:
    """Return what is compared or explained in one line, as Markdown."""
    count = f"{inputs.num_gpus:,} x " if inputs.num_gpus > 1 else ""
    return f"**{text.plain(inputs.model)}** on {count}**{text.plain(inputs.device)}**, {text.plain(inputs.data.label)}"


def edited(inputs: Inputs) -> Inputs:
    """Return the inputs with the settings as they are now; draws the page anew where more than those changed.

    Call it at the beginning of a fragment that draws a plan. A fragment keeps the inputs of the page's last run; what
    it cannot redraw is the form and what is said of the address.
    """
    context = get_script_run_ctx()
    alone = context is not None and bool(context.fragment_ids_this_run)
    if alone and (st.session_state.get("num_gpus") != inputs.num_gpus or given.refusals()):
        st.rerun()
    return dataclasses.replace(inputs, pins=pins.chosen(planning.linear_modules(inputs.model)))


def reading(inputs: Inputs) -> None:
    """Say how far the data is read, as long as it is."""
    with suppress(LorafitError):  # the plan says what is wrong with the data
        running = datasets.find(inputs.data, reader_for(inputs.model)).running
        if running is not None:
            data_view.reading(running)
