"""The plan as a card: the settings that matter as rows edited in place, and all others in a drawer to search."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import streamlit as st

from advisor import Advice, Recommendation
from advisor.levers import Lever
from specs import METHODS, MIB, FinetunePlan
from ui.parts import text
from ui.parts.notices import guarded
from ui.plan import fields, pins, spread, steps, taking
from ui.plan.planning import Request
from ui.plan.reason import Reason, named
from ui.plan.steps import Override, Step
from ui.plan.upgrades import Upgrade

_NAME, _WIDGET = 170, 250
"""Widths of a row's first two parts, in pixels."""


# On a phone each row has its name above, then its widgets and the next step beside them, whose words may break.
_STYLE = """<style>
@media (max-width: 640px) {
  [class*="st-key-row_"] > * { flex: 0 0 62%; width: auto !important; min-width: 0; }
  [class*="st-key-row_"] > :first-child { flex-basis: 100%; }
  [class*="st-key-row_"]:has(> :nth-child(4)) > :nth-child(2),
  [class*="st-key-row_"]:has(> :nth-child(4)) > :nth-child(3) { flex-basis: calc(31% - 0.25rem); }
  [class*="st-key-row_"] > [class*="st-key-step_"] { flex: 1 1 0; }
  [class*="st-key-step_"] button * { white-space: normal; overflow-wrap: anywhere; text-align: left; }
}
</style>"""


def show(asked: Request, result: Recommendation) -> None:
    """Show the rows that matter, then what else is overridden, then the drawer with all other settings."""
    st.html(_STYLE)
    advice = {entry.field: entry for entry in result.advice}
    found = steps.overrides(asked, result.plan)
    rows = {label: names for label, names in fields.ROWS.items() if names != ("sharding",) or result.plan.num_gpus > 1}
    listed = {name for names in rows.values() for name in names}
    for label, names in rows.items():
        if present := [name for name in names if name in advice or name in found]:
            _row(asked, result, label, present, advice, found)
    others = [name for name in fields.ALL if name not in listed and name in found]
    for name in others:
        _row(asked, result, name, [name], advice, found)
    _drawer(asked, result, [name for name in fields.ALL if name in advice and name not in {*listed, *others}], advice)


def chips(asked: Request, result: Recommendation, upgrades: Sequence[Upgrade]) -> None:
    """Offer single changes: what would make the plan fit, or save memory, and what the free memory buys."""
    levers = [lever for lever in result.levers if lever.saved_bytes >= MIB or not result.fits]
    if levers:
        _chips(asked, "To save memory:" if result.fits else "To make it fit:", map(_saving, levers), "save")
    if upgrades:
        _chips(asked, "The free memory buys:", map(_gain, upgrades), "buy")


def _chips(asked: Request, words: str, entries: Iterable[tuple[Lever | Upgrade, str, str]], key: str) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key=f"chips_{key}", gap="small"):
        st.markdown(f":small[:gray[{words}]]", width="content")
        for offer, cost, help_ in entries:
            name = "" if offer.field == "method" else f"{fields.label(offer.field)} "
            st.button(
                f":small[{text.plain(name + _shown(offer.field, offer.after))} {cost}]",
                key=f"{key}_{offer.field}",
                help=help_,
                on_click=guarded(_take),
                args=(asked, offer.field, offer.plan),
            )


def _take(asked: Request, field: str, offered: FinetunePlan) -> None:
    """Make exactly the plan that was offered with its cost; without a cost, the change alone."""
    priced = asked.is_warm(offered)
    chosen = taking.taken(asked, field, offered) if priced else {field: getattr(offered, field)}
    for name, value in chosen.items():
        pins.put(name, value)


def _saving(lever: Lever) -> tuple[Lever, str, str]:
    color = "green" if lever.fits else "gray"
    return lever, f":{color}[{_signed(-lever.saved_bytes)}]", text.plain(lever.cost)


def _gain(upgrade: Upgrade) -> tuple[Upgrade, str, str]:
    return upgrade, f":gray[{_signed(upgrade.more_bytes)}]", text.plain(upgrade.gain)


def _row(
    asked: Request,
    result: Recommendation,
    label: str,
    names: Sequence[str],
    advice: Mapping[str, Advice],
    found: Mapping[str, Override],
) -> None:
    """Show one row: its name, its widgets, what the next step costs, the reason, and what an override moved."""
    with st.container(horizontal=True, vertical_alignment="center", key=f"row_{names[0]}", gap="small"):
        st.html(named(label, [_reason(result, name, advice.get(name)) for name in names]), width=_NAME)
        for name in names:
            wished = found[name].recommended if name in found else getattr(result.plan, name)
            width = _WIDGET // len(names) - (4 if len(names) > 1 else 0)
            pins.ask(name, recommended=_shown(name, wished), modules=asked.situation.modules, bare_width=width)
        for name in names:
            if step := steps.next_step(asked, result.plan, name):
                _step(asked, step)
    for name in names:
        if name in found:
            _changed(found[name])
    if "num_train_epochs" in names and result.plan.max_steps > 0:
        _said(_instead(result.plan.max_steps, None if "max_steps" in found else advice.get("max_steps")))
    _said(_about(asked, result.plan, names))


def _about(asked: Request, plan: FinetunePlan, names: Sequence[str]) -> str:
    """Return what a person must know of a row to choose in it; mostly empty."""
    if "sharding" in names and plan.num_gpus > 1:
        return spread.compared(steps.ways_to_share(asked, plan))
    return spread.reached(asked.situation.model, plan) if "target_modules" in names else ""


def _said(words: str) -> None:
    if words:
        st.markdown(f":small[:gray[{text.plain(words)}]]")


def _instead(max_steps: int, advice: Advice | None) -> str:
    """Return that a number of steps ends the run before its epochs do, and why where nobody asked for it."""
    words = f"max_steps {max_steps:,} decides instead; it is among all other settings."
    return f"{words} {advice.reason}" if advice else words


def _reason(result: Recommendation, name: str, advice: Advice | None) -> Reason:
    """Return what a setting means and why it has its value."""
    shown = _shown(name, getattr(result.plan, name))
    return Reason(field=name, meaning=fields.MEANINGS[name], shown=shown, advice=advice)


def _step(asked: Request, step: Step) -> None:
    """Offer the next value with its cost; a click takes it."""
    color = "red" if step.verdict == "does not fit" else "gray"
    if step.more_bytes is None:
        cost = "to be traced"
    elif step.more_bytes:
        cost = _signed(step.more_bytes)
    elif step.more_time is None:
        cost = "same memory"
    else:
        cost = f"{step.more_time:+.0%} time" if round(step.more_time, 2) else "same memory and time"
    if step.verdict == "does not fit":
        cost = f"{cost}, does not fit"
    st.button(
        f":small[{text.plain(_shown(step.field, step.after))}: :{color}[{cost}]]",
        key=f"step_{step.field}",
        type="tertiary",
        on_click=guarded(_take),
        args=(asked, step.field, step.plan),
    )


def _changed(override: Override) -> None:
    """Say what is recommended instead, what moved along, and offer to undo."""
    said = []
    if override.recommended is not None:
        said.append(f"recommended {_shown(override.field, override.recommended)}")
    if override.more_bytes:
        said.append(f"{_signed(override.more_bytes)} against that{_alone(override)}")
    if not override.accepted:
        said.append("outside what the evidence supports")
    if override.moved:
        moves = (f"{name} {text.value(before)} -> {text.value(after)}" for name, before, after in override.moved)
        said.append(f"moved with it: {', '.join(moves)}")
    with st.container(horizontal=True, vertical_alignment="center", key=f"changed_{override.field}", gap="small"):
        st.button(
            "Undo",
            key=f"undo_{override.field}",
            type="tertiary",
            icon=":material/undo:",
            on_click=guarded(pins.put),
            args=(override.field, None),
        )
        st.markdown(f":small[:gray[{text.plain('; '.join(said))}]]", width="stretch")


def _alone(override: Override) -> str:
    """Return what the setting costs by itself where what moved with it makes a difference, as its next step told."""
    if override.by_itself is None or override.more_bytes is None:
        return ""
    differ = abs(override.by_itself - override.more_bytes) >= MIB
    return f" with all that moved, {_signed(override.by_itself)} by itself" if differ else ""


def _drawer(asked: Request, result: Recommendation, names: Sequence[str], advice: Mapping[str, Advice]) -> None:
    """Show all other settings, grouped by what they decide, while the drawer is open."""
    with st.expander(f"All other settings ({len(names)})", key="drawer", on_change="rerun") as drawer:
        if not drawer.open:
            return
        wanted = st.text_input("Search settings", key="search_settings", placeholder="a name or a word").lower()
        matching = [name for name in names if wanted in f"{name} {fields.MEANINGS[name]}".lower()]
        for group, members in fields.GROUPS.items():
            present = [name for name in members if name in matching]
            if present:
                st.markdown(f"**{group}**")
            for name in present:
                _row(asked, result, name, [name], advice, {})
        if not matching:
            st.caption("No setting has this word in its name or meaning.")


def _shown(field: str, value: Any) -> str:
    """Return a field's value as its widget shows it."""
    return METHODS[value].label if field == "method" and value in METHODS else text.value(value)


def _signed(num_bytes: int) -> str:
    return f"{'+' if num_bytes > 0 else '-'}{text.size(abs(num_bytes))}"
