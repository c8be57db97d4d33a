"""Memory as stacked bars in HTML: values in, markup out. Pure.

The plan page redraws its bar on every change: markup shows at once, while a chart library would first have to load and
lay out. Fonts and text colours are those of the page.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from specs import GIB, MIB, gib
from ui.drawing.palette import CAPACITY_LINE, NEUTRAL, PARTS, part

_MARGIN = 1.03
"""The axis extends a little beyond the longest bar and the capacity line."""
_MOST_TICKS = 6
_MIDDLE = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One stacked bar: its label, and the bytes of its parts."""

    label: str
    parts: Mapping[str, int]


def memory_bars(
    bars: Sequence[Bar],
    *,
    alt: str,
    capacity_bytes: int | None,
    band: tuple[float, float] | None = None,
    legend: bool = True,
) -> str:
    """Return stacked bars of memory by part, each part in its own colour, with a line at the capacity of the device.

    Args:
        bars: From top to bottom.
        alt: A description for readers who cannot see the picture.
        capacity_bytes: Where to draw the line; None draws no line.
        band: The likely range of a real run, as fractions below and above the first bar's total.
        legend: Whether the parts are named below.
    """
    totals = [sum(bar.parts.values()) for bar in bars]
    upper = [total * (1 + band[1]) if band else total for total in totals]
    reach = max([*upper, capacity_bytes or 0, 1]) * _MARGIN
    whisker = _whisker(totals[0], band, reach) if band else ""
    rows = [("", _capacity_label(capacity_bytes, reach))] if capacity_bytes else []
    for number, bar in enumerate(bars):
        marks = (whisker if number == 0 else "") + _capacity_line(capacity_bytes, reach)
        rows.append((bar.label, _track(bar, reach, marks)))
    rows.append(("", _axis(reach)))
    several = len(bars) > 1
    names = [f"<div style='text-align:right'>{escape(label)}</div>" if several else "" for label, _ in rows]
    cells = "".join(name + drawn for name, (_, drawn) in zip(names, rows, strict=True))
    columns = "fit-content(35%) 1fr" if several else "1fr"
    return (
        f"<div role='img' aria-label='{escape(alt)}' style='font-size:0.85rem;line-height:1.35'>"
        f"<div style='display:grid;grid-template-columns:{columns};column-gap:0.6rem;row-gap:0.45rem;"
        f"align-items:center'>{cells}</div>{parts_legend(bars) if legend else ''}</div>"
    )


def shown_parts(parts: Sequence[Mapping[str, int]]) -> list[str]:
    """Return the parts that take memory in any bar, in the palette's order, unknown ones last."""
    present = [name for sizes in parts for name, size in sizes.items() if size > 0]
    order = list(PARTS)
    return sorted(dict.fromkeys(present), key=lambda name: order.index(name) if name in order else len(order))


def tick_step(reach_bytes: float) -> float:
    """Return the spacing of the axis ticks in GiB: 1, 2 or 5 times a power of ten, for at most six ticks."""
    least = reach_bytes / GIB / _MOST_TICKS
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def _track(bar: Bar, reach: float, marks: str) -> str:
    pieces = [
        f"<div title='{_explained(name, bar.parts[name])}' style='width:{bar.parts[name] / reach:.3%};"
        f"background:{part(name).color};border-right:1px solid rgba(255,255,255,0.5);box-sizing:border-box'></div>"
        for name in shown_parts([bar.parts])
    ]
    return f"<div style='position:relative;display:flex;height:1.7rem'>{''.join(pieces)}{marks}</div>"


def _explained(name: str, num_bytes: int) -> str:
    """Return the size of a part and what it is, as an attribute of HTML."""
    return escape(f"{part(name).label}: {gib(num_bytes)}. {part(name).meaning}".rstrip())


def _capacity_line(capacity_bytes: int | None, reach: float) -> str:
    if not capacity_bytes:
        return ""
    return (
        f"<div style='position:absolute;left:{capacity_bytes / reach:.3%};top:-0.25rem;bottom:-0.25rem;"
        f"border-left:2px dashed {CAPACITY_LINE}'></div>"
    )


def _capacity_label(capacity_bytes: int, reach: float) -> str:
    """Return the label of the capacity line, on the side of it that has more space."""
    at = 100 * capacity_bytes / reach
    side = f"right:{100 - at:.2f}%" if at > _MIDDLE else f"left:{at:.2f}%"
    words = f"<div style='position:absolute;{side};white-space:nowrap'>{gib(capacity_bytes)} available</div>"
    return f"<div style='position:relative;height:1.2rem'>{words}</div>"


def _whisker(total: int, band: tuple[float, float], reach: float) -> str:
    low, high = int(total * (1 + band[0])), int(total * (1 + band[1]))
    return (
        f"<div title='likely {gib(low)} to {gib(high)}' style='position:absolute;left:{low / reach:.3%};"
        f"width:{(high - low) / reach:.3%};top:0.5rem;bottom:0.5rem;box-sizing:border-box;"
        f"border:solid {NEUTRAL};border-width:0 2px;background:linear-gradient({NEUTRAL},{NEUTRAL}) center/100% 2px "
        "no-repeat'></div>"
    )


def _axis(reach: float) -> str:
    return f"<div style='position:relative;height:1.2rem'>{''.join(_ticks(reach))}</div>"


def _ticks(reach: float) -> Iterator[str]:
    step = tick_step(reach)
    for number in range(int(reach / GIB / step) + 1):
        at = number * step * GIB / reach
        shift = "0" if number == 0 else "-50%" if at < 0.95 else "-100%"
        unit = " GiB" if number == 0 else ""
        yield (
            f"<div style='position:absolute;left:{at:.3%};transform:translateX({shift})'>{number * step:g}{unit}</div>"
        )


def parts_legend(bars: Sequence[Bar]) -> str:
    """Return the parts by colour and name, with their sizes if there is only one bar."""
    entries = [
        f"<span title='{escape(part(name).meaning)}' style='white-space:nowrap'><span style='display:inline-block;"
        f"width:0.8em;height:0.8em;border-radius:2px;margin-right:0.4em;background:{part(name).color}'></span>"
        f"{escape(part(name).label)}{' ' + gib(bars[0].parts[name]) if len(bars) == 1 else ''}</span>"
        for name in shown_parts([bar.parts for bar in bars])
        if len(bars) > 1 or bars[0].parts[name] >= MIB // 2
    ]
    style = "display:flex;flex-wrap:wrap;gap:0.15rem 1rem;margin-top:0.5rem;font-size:0.85rem;line-height:1.35"
    return f"<div style='{style}'>{''.join(entries)}</div>"
