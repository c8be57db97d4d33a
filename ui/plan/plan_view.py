"""Results on the page: each function shows one thing and computes nothing."""

import functools
from collections.abc import Sequence

import streamlit as st

from advisor import ByRule, Recommendation, cheatsheet
from advisor.export import FORMATS
from advisor.levers import Alternative
from advisor.speed import Speed
from advisor.tree import Question
from estimator.estimate import MemoryEstimate
from specs import METHODS, FinetunePlan
from ui.drawing import palette
from ui.drawing.bars import Bar, memory_bars, parts_legend
from ui.parts import exhibits, given, links, text
from ui.plan import exporting, planning, spread
from ui.plan.data import data_view
from ui.plan.data.datasets import DEMOS
from ui.plan.forms import URL
from ui.plan.planning import Request

_MOST_NODES = 1_024
"""The most machines that the page offers for one plan."""


def verdict(asked: Request, result: Recommendation, estimate: MemoryEstimate) -> None:
    """Show in one line whether the plan fits, what it leaves free and how long it takes."""
    color = palette.VERDICT_COLORS[estimate.verdict]
    icon = palette.VERDICT_ICONS[estimate.verdict]
    fits = f":{color}[{icon} {estimate.verdict.capitalize()}] with {METHODS[result.plan.method].label}"
    time = _time(result.speed, asked.price_per_hour) if estimate.spare_bytes >= 0 else ""
    shared = f" ({spread.named(result.plan)})" if result.plan.num_gpus > 1 else ""
    st.subheader(f"{fits}: {_used(estimate)}{_on_each(result.plan)}{shared}{time}", anchor=False)


def devices_needed(asked: Request, result: Recommendation, number: int | None) -> None:
    """Say how many of these devices the method needs, as a link to that plan."""
    label, card = METHODS[result.plan.method].label, text.plain(planning.card(asked.situation.gpu))
    if number is None:
        st.markdown(
            f"{label} does not fit on any number of these devices: what each {card} must hold in full is too large."
        )
        return
    changes = {"num_gpus": str(number), "method": label, "sharding": "fsdp"}
    link = links.to_plan(f"{number:,} x {card}", st.query_params.to_dict(), **changes)
    st.markdown(f"In its smallest form, {label} would fit on {link}, with the weights sharded by FSDP.")


def parts(estimate: MemoryEstimate) -> None:
    """Name the parts of the memory bar with their sizes."""
    st.html(parts_legend([Bar(label="this plan", parts=estimate.components)]))


def memory_alt(estimate: MemoryEstimate) -> str:
    """Return what the memory bar shows, in words."""
    largest = max(estimate.components, key=estimate.components.__getitem__)
    return f"{_used(estimate)}; the largest part is {palette.part(largest).label.lower()}."


def verdict_words(verdict: str) -> str:
    """Return a verdict as coloured words for a table."""
    return f":{palette.VERDICT_COLORS[verdict]}[{palette.VERDICT_ICONS[verdict]} {verdict}]"


def about(asked: Request, plan: FinetunePlan, estimate: MemoryEstimate) -> dict[str, str]:
    """Return what a table or chart of a plan is about, for its files."""
    count = asked.situation.num_gpus
    card = f"{count:,} x {asked.situation.gpu.name}" if count > 1 else asked.situation.gpu.name
    label = METHODS[plan.method].label
    return {"model": asked.situation.model.name, "card": card, "method": label, "verdict": estimate.verdict}


def reasons(questions: Sequence[Question]) -> None:
    """Say which questions lead to the method, with the numbers of this case."""
    *before, last = questions
    asked = [f"{_answered(entry)}{f': {entry.outcome}' if entry.outcome else ''}." for entry in before]
    outcome = text.plain(f"{last.outcome[:1].upper()}{last.outcome[1:]}.") if last.outcome else ""
    st.markdown(f"**{outcome}** {text.plain(' '.join([*asked, f'{_answered(last)}.']))}")


def _answered(question: Question) -> str:
    return f"{question.text} {'Yes' if question.answer else 'No'} ({question.detail})"


def cautions(asked: Request, result: Recommendation, estimate: MemoryEstimate) -> None:
    """Show the warnings to read before the start; the demo's own data needs none about its size."""
    size = {"dataset_rows"} if asked.situation.pins else {"dataset_rows", "num_train_epochs"}
    about_plan = (entry for entry in result.warnings if entry.field not in size or asked.data.label not in DEMOS)
    warned([str(caution) for caution in (*about_plan, *estimate.warnings)])


def warned(sentences: Sequence[str]) -> None:
    """Show sentences as one warning."""
    found = [text.plain(words) for words in sentences]
    if found:
        st.warning(
            found[0] if len(found) == 1 else "\n".join(f"- {words}" for words in found), icon=":material/warning:"
        )


def alternatives(asked: Request, result: Recommendation) -> None:
    """Show the best plan of each method side by side."""
    entries = result.alternatives
    estimates = [asked.price(entry.plan) for entry in entries]
    bars = [Bar(label=entry.label, parts=one.components) for entry, one in zip(entries, estimates, strict=True)]
    used = "Used on each" if result.plan.num_gpus > 1 else "Used"
    alt = "; ".join(f"{entry.label}: {text.size(entry.used_bytes)}" for entry in entries)
    st.html(memory_bars(bars, alt=alt, capacity_bytes=asked.situation.available_bytes))
    exhibits.table(
        {
            "Method": [_method_link(entry) for entry in entries],
            "Verdict": [verdict_words(one.verdict) for one in estimates],
            used: [text.size(entry.used_bytes) for entry in entries],
            "Batch": [f"{e.plan.per_device_train_batch_size} x {e.plan.gradient_accumulation_steps}" for e in entries],
            "max_length": [f"{entry.plan.max_length:,}" for entry in entries],
            "What to expect": [text.plain(entry.quality) for entry in entries],
        },
        name="methods",
        alt="The best plan of each method",
        about={"model": asked.situation.model.name, "card": asked.situation.gpu.name},
        values={
            "method": [entry.label for entry in entries],
            "verdict": [one.verdict for one in estimates],
            "used_bytes": [entry.used_bytes for entry in entries],
            **{
                name: [getattr(entry.plan, name) for entry in entries]
                for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "max_length")
            },
        },
    )


def data(asked: Request, plan: FinetunePlan) -> None:
    """Show what the data holds."""
    model = asked.situation.model
    data_view.examination(asked.data, plan, model.name, model.vocab_size)


def export(asked: Request, result: Recommendation | ByRule) -> None:
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
    made = exporting.export_of(asked, result, picked or names[0], _nodes(result.plan, picked or names[0]))
    filename, file = made.main
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(filename, file, filename, icon=":material/download:", on_click="ignore")
        if made.conversion is not None or len(made.files) > 1:
            packed, name = functools.partial(exporting.archive, asked, made), f"{filename.partition('.')[0]}.zip"
            st.download_button("All files", packed, name, icon=":material/folder_zip:", on_click="ignore")
        if isinstance(result, Recommendation):
            _sheets(asked, result)
        st.markdown(f"To use it: `` {made.command} ``")
    if made.conversion is not None:
        st.caption(text.plain(made.conversion.why))
    for content in made.files.values():
        st.code(content, None, wrap_lines=True)  # Streamlit's highlighting is too pale on a light page


def _nodes(plan: FinetunePlan, name: str) -> int:
    """Ask how many machines share a plan's devices, where a format says how they start."""
    if plan.num_gpus == 1 or not FORMATS[name].on_nodes:
        return 1
    possible = [number for number in range(1, min(plan.num_gpus, _MOST_NODES) + 1) if not plan.num_gpus % number]
    given.one_of("nodes", list(map(str, possible)))
    words = "Machines that share the devices"
    return st.selectbox(words, possible, key="nodes", bind=URL, width=240) or 1


def _sheets(asked: Request, result: Recommendation) -> None:
    """Offer the plan on one page, to keep and to print."""
    sheet = cheatsheet.markdown(asked.situation, result, rules=asked.rules)
    st.download_button("Cheat sheet", sheet, "cheat-sheet.md", icon=":material/description:", on_click="ignore")
    page = cheatsheet.page(asked.situation, result, rules=asked.rules)
    st.download_button("Printable", page, "cheat-sheet.html", icon=":material/print:", on_click="ignore")


def _method_link(entry: Alternative) -> str:
    """Return a method's name as a link to its plan."""
    words = f"**{text.plain(entry.label)}**" if entry.recommended else text.plain(entry.label)
    return links.to_plan(words, st.query_params.to_dict(), method=METHODS[entry.plan.method].label)


def _format_label(name: str) -> str:
    return FORMATS[name].label


def _used(estimate: MemoryEstimate) -> str:
    """Return used and free memory, or needed and missing memory, as a phrase."""
    used, capacity = text.size(estimate.used_bytes), text.size(estimate.capacity_bytes)
    if estimate.spare_bytes < 0:
        missing = text.size_between(estimate.capacity_bytes, estimate.used_bytes)
        return f"{used} needed, {missing} more than the {capacity} available"
    free = text.size_between(estimate.used_bytes, estimate.capacity_bytes)
    return f"{used} of {capacity} used, {free} free"


def _on_each(plan: FinetunePlan) -> str:
    """Return that figures are of one of several devices, as the end of a phrase."""
    return f" on each of {plan.num_gpus:,} devices" if plan.num_gpus > 1 else ""


def details(asked: Request, result: Recommendation, estimate: MemoryEstimate) -> str:
    """Return allocated and reserved memory, the likely range of used memory, and how long the steps take."""
    low, high = (int(estimate.used_bytes * (1 + share)) for share in estimate.error_band)
    allocated, reserved = text.size(estimate.peak_allocated_bytes), text.size(estimate.peak_reserved_bytes)
    likely = f"likely {text.size_range(low, high)} in total{_on_each(result.plan)}"
    memory = f"{allocated} allocated, {reserved} reserved, {likely}."
    if asked.situation.free_bytes is not None:
        memory = f"{memory} {text.size(estimate.capacity_bytes)} is what other programs leave free at the moment."
    own = text.unbroken(estimate.own_text)
    memory = " ".join(
        filter(None, (spread.in_words(result.plan), memory, own, asked.situation.length_note(result.plan)))
    )
    speed = result.speed
    if speed is None or speed.total_seconds is None or estimate.spare_bytes < 0:
        return memory
    shortest, longest = (text.duration(speed.total_seconds * factor) for factor in speed.band)
    return f"{memory} The run takes {shortest} to {longest}, {speed.basis}: {_time_by_part(speed)}."


def _time_by_part(speed: Speed) -> str:
    """Return the parts of a run's time as a list, those that take none left out."""
    steps = "1 step" if speed.steps == 1 else f"{speed.steps:,} steps"
    names = {"training": steps}
    told = [
        f"{names.get(name, name)} {text.duration(seconds)}" for name, seconds in speed.parts.items() if seconds >= 1
    ]
    return ", ".join(told)


def _time(speed: Speed | None, price_per_hour: float | None) -> str:
    """Return how long the run takes and what it costs as a phrase."""
    if speed is None or speed.total_seconds is None:
        return ""
    cost = speed.cost(price_per_hour) if price_per_hour else None
    paid = f", costs about {cost:,.2f}" if cost is not None else ""
    known = " (measured on this machine)" if speed.measured else ""
    return f"; takes about {text.duration(speed.total_seconds)}{known}{paid}"
