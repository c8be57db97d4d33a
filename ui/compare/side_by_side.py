"""The comparison by up to three settings, such as model, method and device, as one table in groups."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from lorafit.comparing import Cell
from specs import FinetunePlan
from ui.compare import comparison
from ui.compare.comparison import NONE, Axis
from ui.drawing import palette
from ui.parts import exhibits, given, links, notices, text
from ui.parts.writing import Columns
from ui.plan.forms import URL
from ui.plan.planning import Request

_PARTS = ("Groups", "Rows", "Columns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """One setting to vary and the values to compare."""

    name: str
    values: Sequence[Any]
    own: Any
    """The plan's value."""

    def head(self, value: Any) -> str:
        """Return a value as the head of rows or of a column, the plan's own marked."""
        words = text.plain(comparison.label(self.name, value))
        return f"{words} (yours)" if value == self.own else words


def show(asked: Request, plan: FinetunePlan) -> None:
    """Show what every combination of three settings' values needs, the plan's own among them."""
    axes = comparison.axes(asked, plan)
    with st.expander("What is compared: models, methods, devices, or any other settings", key="compared"):
        chosen = _asked(axes)
    point = comparison.start(asked, plan, [one.name for one in chosen])
    with notices.progress("Estimating every combination") as progress:
        cells = comparison.grouped(point, [(axes[one.name], one.values) for one in chosen], progress)
    groups, rows, columns = chosen
    exhibits.table(
        dict(_table(chosen, cells)),
        name="comparison",
        alt=f"Used memory by {groups.name}, {rows.name} and {columns.name}",
        values=_values(asked, plan, chosen, cells),
    )
    each = f" on each of {plan.num_gpus:,} devices" if plan.num_gpus > 1 else ""
    st.caption(
        f"Memory used{each}; all other settings, the batch too, stay as planned, but number formats follow the device, "
        "and a model that lacks the plan's target modules gets its own. **Bold**: the least of a column within a group "
        "that fits. A name opens the plan that is advised for it, whose batch may differ."
    )
    st.caption(palette.SIGNS)
    if "device" in {one.name for one in chosen}:
        st.caption(comparison.SIZES)


def _asked(axes: Mapping[str, Axis]) -> tuple[Chosen, Chosen, Chosen]:
    taken: list[str] = []
    found = []
    for title, column in zip(_PARTS, st.columns(3), strict=True):
        usual = {"Groups": ("model", NONE), "Rows": ("method",), "Columns": ("device",)}[title]
        names = [name for name in dict.fromkeys((*usual, *axes)) if name not in taken]
        names = [name for name in names if name != NONE or title == "Groups"]
        with column:
            found.append(axis(title, names, axes))
        taken.append(found[-1].name)
    return found[0], found[1], found[2]


def axis(title: str, names: list[str], axes: Mapping[str, Axis]) -> Chosen:
    """Ask which setting to vary in the groups, rows or columns, and over which values."""
    given.one_of(title.lower(), names)
    name = st.selectbox(title, names, key=title.lower(), bind=URL)
    picked = axes[name]
    if name == NONE:
        return Chosen(name=name, values=picked.values, own=picked.own)
    labels = {value: text.option(comparison.label(name, value)) for value in picked.values}
    given.expect(f"{title.lower()}_{name}", f"must be some of {', '.join(labels.values())}", labels)
    values = st.pills(
        f"Values of {name}",
        picked.values,
        selection_mode="multi",
        default=picked.usual,
        format_func=lambda value: labels[value],
        key=f"{title.lower()}_{name}",
        bind=URL,
        wrap=True,
    )
    return Chosen(name=name, values=values or picked.usual, own=picked.own)


def _table(chosen: Sequence[Chosen], cells: Sequence[Sequence[Sequence[Cell]]]) -> Iterator[tuple[str, list[str]]]:
    groups, rows, columns = chosen
    if groups.name != NONE:
        heads = [(number, value) for value in groups.values for number in range(len(rows.values))]
        yield groups.name, [f"**{groups.head(value)}**" if number == 0 else "" for number, value in heads]
    yield rows.name, [_link(groups, group, rows, row) for group in groups.values for row in rows.values]
    least = [comparison.least_that_fit(group) for group in cells]
    for index, value in enumerate(columns.values):
        yield (
            columns.head(value),
            [
                _cell(line[index], is_least=line[index] is best[index])
                for group, best in zip(cells, least, strict=True)
                for line in group
            ],
        )


def _link(groups: Chosen, group: Any, rows: Chosen, row: Any) -> str:
    """Return the head of a row as a link to the plan with its values."""
    changes = {_parameter(one.name): _written(one.name, value) for one, value in ((groups, group), (rows, row))}
    changes.pop(NONE, None)
    return links.to_plan(rows.head(row), st.query_params.to_dict(), **changes)


def _parameter(name: str) -> str:
    return {"device": "gpu"}.get(name, name)


def _written(name: str, value: Any) -> str:
    """Return a value as the address of the plan page holds it."""
    return comparison.label(name, value) if name == "method" else text.value(value)


def _cell(shown: Cell, *, is_least: bool) -> str:
    """Return one combination as Markdown."""
    if shown.estimate is None:
        return ":gray[not possible]"
    verdict, used = shown.estimate.verdict, text.size(shown.estimate.used_bytes)
    used = f"**{used}**" if is_least else used
    return f":{palette.VERDICT_COLORS[verdict]}[{palette.VERDICT_ICONS[verdict]}\N{NO-BREAK SPACE}{used}]"


def _values(
    asked: Request, plan: FinetunePlan, chosen: Sequence[Chosen], cells: Sequence[Sequence[Sequence[Cell]]]
) -> Columns:
    """Return one line for each combination: model, device, method, whatever is varied, used bytes and verdict."""
    fixed = {"model": asked.situation.model.name, "device": asked.gpu.name, "method": plan.method}
    lines = []
    for group, table in zip(chosen[0].values, cells, strict=True):
        for row, line in zip(chosen[1].values, table, strict=True):
            for column, cell in zip(chosen[2].values, line, strict=True):
                varied = {one.name: value for one, value in zip(chosen, (group, row, column), strict=True)}
                varied.pop(NONE, None)
                priced = cell.estimate
                verdict = priced.verdict if priced else cell.refusal
                used = priced.used_bytes if priced else ""
                lines.append({**fixed, **varied, "used_bytes": used, "verdict": verdict})
    return {name: [line[name] for line in lines] for name in lines[0]}
