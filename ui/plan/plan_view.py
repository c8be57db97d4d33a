"""Results on the page: each function shows one thing and computes nothing."""

import functools
from collections.abc import Sequence

import streamlit as st

from advisor import Recommendation, cheatsheet
from advisor.export import FORMATS
from advisor.levers import Alternative
from advisor.speed import Speed
from advisor.tree import Question
from estimator.estimate import MemoryEstimate
from specs import METHODS
from ui.parts import given, links, palette, text
from ui.parts.bars import Bar, memory_bars
from ui.plan import exporting, fields, planning
from ui.plan.forms import URL
from ui.plan.planning import Override, Request
from ui.plan.upgrades import Upgrade


def verdict(asked: Request, result: Recommendation, estimate: MemoryEstimate) -> None:
    """Show in one line whether the plan fits, what it leaves free and how long it takes; the details below."""
    color = palette.VERDICT_COLORS[estimate.verdict]
    icon = palette.VERDICT_ICONS[estimate.verdict]
    fits = f":{color}[{icon} {estimate.verdict.capitalize()}] with {METHODS[result.plan.method].label}"
    time = _time(result.speed, asked.price_per_hour) if estimate.spare_bytes >= 0 else ""
    st.markdown(f"### {fits}: {_used(estimate)}{time}  \n:small[:gray[{_details(asked, result, estimate)}]]")


def devices_needed(asked: Request, result: Recommendation, number: int | None) -> None:
    """Say how many of these devices the method needs, as a link to that plan."""
    label, card = METHODS[result.plan.method].label, text.plain(planning.card(asked.situation.gpu))
    if number is None:
        st.markdown(f"{label} does not fit on any number of these: what each {card} must hold in full is too large.")
        return
    changes = {"num_gpus": str(number), "method": label, "sharding": "fsdp"}
    link = links.to_plan(f"{number:,} x {card}", st.query_params.to_dict(), **changes)
    st.markdown(f"{label} would fit on {link}, with the weights sharded by FSDP.")


def memory(estimate: MemoryEstimate) -> None:
    """Show the parts of the memory as one bar, with a line at the capacity of the device."""
    bar = Bar(label="this plan", parts=estimate.components)
    alt, capacity = memory_alt(estimate), estimate.capacity_bytes
    st.html(memory_bars([bar], alt=alt, capacity_bytes=capacity, band=estimate.error_band))


def memory_alt(estimate: MemoryEstimate) -> str:
    """Return what the memory bar shows, in words."""
    largest = max(estimate.components, key=estimate.components.__getitem__)
    return f"{_used(estimate)}; the largest part is {palette.part(largest).label.lower()}."


def verdict_words(verdict: str) -> str:
    """Return a verdict as coloured words for a table."""
    return f":{palette.VERDICT_COLORS[verdict]}[{palette.VERDICT_ICONS[verdict]} {verdict}]"


def plan(result: Recommendation) -> None:
    """Show the plan as a table; reasons and sources on demand."""
    reasons = st.toggle("Reasons and sources", key="reasons", bind=URL)
    advice = {entry.field: entry for entry in result.advice}
    shown = [name for group in fields.GROUPS.values() for name in group if name in advice]
    values = [text.plain(text.value(getattr(result.plan, name))) for name in shown]
    if reasons:
        table = {
            "Setting": [f"`{name}`" for name in shown],
            "Value": [text.with_range(value, advice[name]) for name, value in zip(shown, values, strict=True)],
            "Reason and source": [text.reasoning(advice[name]) for name in shown],
        }
    else:
        table = {"Setting": [f"`{name}`  \n:gray[{fields.MEANINGS[name]}]" for name in shown], "Value": values}
    st.table(table, border="horizontal", hide_index=True, alt="The recommended plan, one setting a row")


def overrides(found: Sequence[Override]) -> None:
    """Show what the user's own settings cost, and whether the evidence agrees."""
    if not found:
        return
    st.markdown("**Your settings**")
    st.table(
        {
            "Setting": [f"`{entry.advice.field}`" for entry in found],
            "Yours": [text.plain(text.value(entry.advice.value)) for entry in found],
            "Memory": [_change(entry.cost_bytes) for entry in found],
            "Evidence": [_agreement(entry) for entry in found],
            "Advice": [text.reasoning(entry.advice) for entry in found],
        },
        border="horizontal",
        hide_index=True,
        alt="Your own settings, what they cost and whether the evidence agrees",
    )


def tree(questions: Sequence[Question]) -> None:
    """Draw the questions that lead to the method, with the numbers of this case."""
    lines = ["flowchart TD"]
    for number, question in enumerate(questions):
        answer = "yes" if question.answer else "no"
        lines.append(f'q{number}["{_mermaid(question.text)}<br/>{_mermaid(question.detail)}"]')
        if question.outcome:
            lines.append(f'q{number} -- {answer} --> t{number}(["{_mermaid(question.outcome)}"])')
        if number + 1 < len(questions):
            lines.append(f"q{number} -- {'otherwise' if question.outcome else answer} --> q{number + 1}")
    outcome = next((question.outcome for question in questions if question.outcome), "")
    st.mermaid_chart("\n".join(lines), alt=f"The questions that lead to {outcome}")


def cautions(result: Recommendation, estimate: MemoryEstimate) -> None:
    """Show the warnings to read before the start."""
    found = [text.plain(str(caution)) for caution in (*result.warnings, *estimate.warnings)]
    if found:
        st.warning(
            found[0] if len(found) == 1 else "\n".join(f"- {words}" for words in found), icon=":material/warning:"
        )


def levers(result: Recommendation, estimate: MemoryEstimate) -> None:
    """Show single changes that free memory, with how much and at what cost."""
    st.markdown("**Changes that free memory**")
    if not result.levers:
        st.caption("No single change frees memory here.")
        return
    st.table(
        {
            "Change": [_plan_link(lever.field, lever.after) for lever in result.levers],
            "From": [text.plain(_setting(lever.field, lever.before)) for lever in result.levers],
            "To": [text.plain(_setting(lever.field, lever.after)) for lever in result.levers],
            "Frees": [text.size(lever.saved_bytes) for lever in result.levers],
            "Result": [verdict_words("fits" if lever.fits else "does not fit") for lever in result.levers],
            "Cost": [text.plain(lever.cost) for lever in result.levers],
        },
        border="horizontal",
        hide_index=True,
        alt=f"Changes that free some of the {text.size(estimate.used_bytes)}",
    )


def upgrades(found: Sequence[Upgrade]) -> None:
    """Show single changes that take more memory, with their benefit."""
    st.markdown("**Changes that use more memory**")
    if not found:
        st.caption("No useful change needs more memory.")
        return
    st.table(
        {
            "Change": [_plan_link(entry.field, entry.after) for entry in found],
            "From": [text.plain(_setting(entry.field, entry.before)) for entry in found],
            "To": [text.plain(_setting(entry.field, entry.after)) for entry in found],
            "Needs": [_change(entry.more_bytes) for entry in found],
            "Result": [verdict_words(entry.verdict) for entry in found],
            "Benefit": [text.plain(entry.gain) for entry in found],
        },
        border="horizontal",
        hide_index=True,
        alt="Changes that use more memory",
    )


def alternatives(asked: Request, result: Recommendation) -> None:
    """Show the best plan of each method side by side."""
    entries = result.alternatives
    bars = [Bar(label=entry.label, parts=asked.price(entry.plan).components) for entry in entries]
    alt = "; ".join(f"{entry.label}: {text.size(entry.used_bytes)}" for entry in entries)
    st.html(memory_bars(bars, alt=alt, capacity_bytes=asked.situation.available_bytes))
    st.table(
        {
            "Method": [_method_link(entry) for entry in entries],
            "Verdict": [verdict_words("fits" if entry.fits else "does not fit") for entry in entries],
            "Used": [text.size(entry.used_bytes) for entry in entries],
            "Batch": [f"{e.plan.per_device_train_batch_size} x {e.plan.gradient_accumulation_steps}" for e in entries],
            "max_length": [f"{entry.plan.max_length:,}" for entry in entries],
            "What to expect": [text.plain(entry.quality) for entry in entries],
        },
        border="horizontal",
        hide_index=True,
        alt="The best plan of each method",
    )


def export(asked: Request, result: Recommendation) -> None:
    """Offer the plan in the formats of other tools."""
    names = list(FORMATS)
    labels = {name: _format_label(name) for name in names}
    given.expect("format", f"must be one of {', '.join(labels.values())}", labels)
    picked = st.segmented_control(
        "Format", names, default=names[0], required=True, format_func=_format_label, key="format", bind=URL, wrap=True
    )
    if asked.data.running is not None:
        st.caption("What a tool must be told is known once all rows of the data are read.")
        return
    made = exporting.export_of(asked, result, picked or names[0])
    filename, file = made.main
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(filename, file, filename, icon=":material/download:", on_click="ignore")
        if made.conversion is not None or len(made.files) > 1:
            packed, name = functools.partial(exporting.archive, asked, made), f"{filename.partition('.')[0]}.zip"
            st.download_button("All files", packed, name, icon=":material/folder_zip:", on_click="ignore")
        sheet = cheatsheet.markdown(asked.situation, result, rules=asked.rules)
        st.download_button("Cheat sheet", sheet, "cheat-sheet.md", icon=":material/description:", on_click="ignore")
        page = cheatsheet.page(asked.situation, result, rules=asked.rules)
        st.download_button("Printable", page, "cheat-sheet.html", icon=":material/print:", on_click="ignore")
        st.markdown(f"To use it: `` {made.command} ``")
    if made.conversion is not None:
        st.caption(text.plain(made.conversion.why))
    for content in made.files.values():
        st.code(content, None, wrap_lines=True)  # Streamlit's highlighting is too pale on a light page


def _method_link(entry: Alternative) -> str:
    """Return a method's name as a link to its plan."""
    words = f"**{text.plain(entry.label)}**" if entry.recommended else text.plain(entry.label)
    return links.to_plan(words, st.query_params.to_dict(), method=METHODS[entry.plan.method].label)


def _plan_link(field: str, after: object) -> str:
    """Return a change as a link to the changed plan."""
    return links.to_plan(f"`{field}`", st.query_params.to_dict(), **{field: _setting(field, after)})


def _setting(field: str, value: object) -> str:
    """Return a field's value as its widget shows it."""
    return METHODS[str(value)].label if field == "method" else text.value(value)


def _change(num_bytes: int) -> str:
    """Return bytes with their sign."""
    return "no change" if num_bytes == 0 else f"{'+' if num_bytes > 0 else '-'}{text.size(abs(num_bytes))}"


def _agreement(entry: Override) -> str:
    return ":green[:material/check_circle: agrees]" if entry.accepted else ":orange[:material/error: differs]"


def _mermaid(words: str) -> str:
    """Return words without the characters that Mermaid would interpret."""
    return "".join(sign for sign in words if sign not in '"<>{}[]()|;#`')


def _format_label(name: str) -> str:
    return FORMATS[name].label


def _used(estimate: MemoryEstimate) -> str:
    """Return used and free memory, or needed and missing memory, as a phrase."""
    used, capacity = text.size(estimate.used_bytes), text.size(estimate.capacity_bytes)
    spare = estimate.spare_bytes
    if spare < 0:
        return f"{used} needed, {text.size(-spare)} more than the {capacity} available"
    return f"{used} of {capacity} used, {text.size(spare)} free"


def _details(asked: Request, result: Recommendation, estimate: MemoryEstimate) -> str:
    """Return allocated and reserved memory, the likely range of used memory, and how long the steps take."""
    low, high = (int(estimate.used_bytes * (1 + share)) for share in estimate.error_band)
    allocated, reserved = text.size(estimate.peak_allocated_bytes), text.size(estimate.peak_reserved_bytes)
    memory = f"{allocated} allocated, {reserved} reserved, likely {text.size_range(low, high)} in total."
    memory = f"{memory} {asked.situation.length_note(result.plan)}".strip()
    speed = result.speed
    if speed is None or speed.total_seconds is None or estimate.spare_bytes < 0:
        return memory
    shortest, longest = (text.duration(speed.total_seconds * factor) for factor in speed.band)
    steps = "1 step takes" if speed.steps == 1 else f"{speed.steps:,} steps take"
    return f"{memory} {steps} {shortest} to {longest}."


def _time(speed: Speed | None, price_per_hour: float | None) -> str:
    """Return how long the run takes and what it costs as a phrase."""
    if speed is None or speed.total_seconds is None:
        return ""
    cost = speed.cost(price_per_hour) if price_per_hour else None
    paid = f", costs about {cost:,.2f}" if cost is not None else ""
    return f"; takes about {text.duration(speed.total_seconds)}{paid}"
