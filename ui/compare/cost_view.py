"""Shows how long the plan takes on other devices, and what it costs there: this one, the fastest, the cheapest."""

import dataclasses
from collections.abc import Mapping, Sequence

import streamlit as st

from advisor import speed
from advisor.speed import Speed
from lorafit.comparing import Cell, Point
from specs import FinetunePlan
from ui.compare import comparison
from ui.drawing import palette
from ui.parts import exhibits, given, notices, text
from ui.plan.forms import URL
from ui.plan.planning import Request

_MOST_EXPENSIVE = 1e6


def show(asked: Request, plan: FinetunePlan) -> None:
    """Show time and cost of a plan's run on several devices, quickest first."""
    if asked.situation.dataset_rows is None:
        st.caption("The time of a run follows from its data: choose a file above.")
        return
    axis = comparison.axes(asked, plan)["device"]
    cards = [name for name in axis.values if name == axis.own or not name.endswith("GiB")]
    usual = list(dict.fromkeys((axis.own, *comparison.RENTED)))
    labels = {name: text.option(name) for name in cards}
    given.expect("on", f"must be some of {', '.join(labels.values())}", labels)
    picked = st.pills(
        "Devices",
        cards,
        selection_mode="multi",
        default=usual,
        format_func=lambda name: labels[name],
        key="on",
        bind=URL,
        wrap=True,
    )
    names = picked or usual
    prices = _prices(names, axis.own, asked.price_per_hour)
    start = comparison.start(asked, plan, ("device",))
    points = {name: comparison.moved_to(start, (axis, name)) for name in names}
    with notices.progress("Estimating every device") as progress:
        cells = comparison.table(start, (axis, names), (comparison.axes(asked, plan)[comparison.NONE], ("",)), progress)
    known = _speeds(asked, points)
    order = sorted(range(len(names)), key=lambda index: _seconds(known.get(names[index])))
    why = speed.choices(known, prices, here=axis.own)
    rows = [_row(names[index], cells[index][0], known.get(names[index]), prices, why) for index in order]
    exhibits.table(
        {head: [row[head] for row in rows] for head in rows[0]},
        name="time_and_cost",
        alt=f"Time and cost of the run on {len(names)} devices",
        values={
            "device": [names[index] for index in order],
            "seconds": [known[names[index]].total_seconds if names[index] in known else "" for index in order],
            "price_per_hour": [prices.get(names[index], "") for index in order],
            "cost": [_cost(known.get(names[index]), prices.get(names[index])) or "" for index in order],
            "verdict": [_verdict(cells[index][0]) for index in order],
        },
    )
    st.caption(
        "The whole run, with evaluations and the questions at its end; all other settings stay as planned, only the "
        "number formats follow the device. A time is missing where no throughput in that number format is published."
    )
    st.caption(palette.SIGNS)


def _prices(names: Sequence[str], own: str, price_per_hour: float | None) -> dict[str, float]:
    """Ask for the price of each device that the form above did not ask for; return those that were given."""
    found = {} if price_per_hour is None else {own: price_per_hour}
    with st.expander("Prices per hour, in any currency", key="prices"):
        for name in names:
            price = found.get(name)
            if price is None:
                price = st.number_input(name, 0.0, _MOST_EXPENSIVE, None, key=f"price_of_{name}")
            if price is not None:
                found[name] = price
    return found


def _speeds(asked: Request, points: Mapping[str, Point | Cell]) -> dict[str, Speed]:
    """Return the speeds that are known, quickest first."""
    found = {}
    for name, point in points.items():
        if isinstance(point, Point):
            told = speed.step_speed(dataclasses.replace(asked.situation, gpu=point.gpu, free_bytes=None), point.plan)
            if told is not None and told.total_seconds is not None:
                found[name] = told
    return dict(sorted(found.items(), key=lambda pair: _seconds(pair[1])))


def _seconds(told: Speed | None) -> float:
    return float("inf") if told is None or told.total_seconds is None else told.total_seconds


def _cost(told: Speed | None, price: float | None) -> float | None:
    return None if told is None or price is None else told.cost(price)


def _verdict(cell: Cell) -> str:
    return cell.refusal if cell.estimate is None else cell.estimate.verdict


def _row(
    name: str, cell: Cell, told: Speed | None, prices: Mapping[str, float], why: Mapping[str, str]
) -> dict[str, str]:
    cost = _cost(told, prices.get(name))
    reasons = ", ".join(reason for reason, chosen in why.items() if chosen == name)
    return {
        "device": text.plain(name),
        "why": reasons,
        "time": "not known" if told is None else _between(told),
        "cost": "" if cost is None else f"{cost:,.2f}",
        "memory": _memory(cell),
    }


def _between(told: Speed) -> str:
    total = told.total_seconds or 0.0
    shortest, longest = (text.duration(total * factor) for factor in told.band)
    return shortest if shortest == longest else f"{shortest} to {longest}"


def _memory(cell: Cell) -> str:
    if cell.estimate is None:
        return ":gray[not possible]"
    verdict = cell.estimate.verdict
    shown = f"{palette.VERDICT_ICONS[verdict]}\N{NO-BREAK SPACE}{text.size(cell.estimate.used_bytes)}"
    return f":{palette.VERDICT_COLORS[verdict]}[{shown}]"
