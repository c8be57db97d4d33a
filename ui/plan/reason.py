"""The name of a setting with the reason for its value behind it, as markup that opens without the server. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from advisor import Advice, Source
from ui.parts import text

# Of all reasons one is open at a time: it lies over the rows below it, and closes where it was opened.
STYLE = """<style>
details.reason { position: relative; line-height: 1.35; }
details.reason > summary { cursor: pointer; display: flex; flex-wrap: wrap; gap: 0 0.5rem; align-items: baseline;
                           border-radius: 6px; }
details.reason > summary::-webkit-details-marker { display: none; }
details.reason > summary:focus-visible { outline: 3px solid light-dark(#3D4FB5, #97A3F5); outline-offset: 2px; }
details.reason > summary > b { font-weight: 600; }
details.reason > summary > span { font-size: 0.85rem; text-decoration: underline; color: light-dark(#3646A0, #A9B4FF); }
details.reason > div { position: absolute; left: 0; top: 100%; z-index: 10; width: min(30rem, 82vw); margin-top: 0.3rem;
                       padding: 0.2rem 1rem; border-radius: 6px; background: light-dark(#FDFDFC, #1F2128);
                       border: 1px solid light-dark(#DBDAD5, #363943); box-shadow: 0 4px 14px rgba(0, 0, 0, 0.25); }
details.reason p { margin: 0.6rem 0; overflow-wrap: anywhere; }
details.reason a { color: light-dark(#3646A0, #A9B4FF); }
details.reason small { font-size: 0.85rem; color: light-dark(#5A5D66, #A9ACB4); }
</style>"""
"""How reasons look; a page shows it once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why one setting has its value."""

    field: str
    meaning: str
    """What the setting does, in a sentence."""
    shown: str = ""
    """Its value as the page shows it."""
    advice: Advice | None = None
    """None where the advice says nothing of it."""


def named(label: str, reasons: Sequence[Reason]) -> str:
    """Return a row's name as markup that opens the reasons of its settings."""
    inside = "".join(map(_paragraphs, reasons))
    name = f"<b>{escape(label)}</b> <span>Why</span>"
    return f"<details class='reason' name='reason'><summary>{name}</summary><div>{inside}</div></details>"


def _paragraphs(reason: Reason) -> str:
    found = [f"<code>{escape(reason.field)}</code>: {escape(reason.meaning)}"]
    if (advice := reason.advice) is not None:
        found += [
            f"<b>{escape(reason.shown)}</b><br><small>acceptable: {escape(text.acceptable(advice))}</small>",
            f"{escape(advice.reason)}<br><small>{_source(advice.source)} ({advice.confidence} confidence)</small>",
        ]
    return "".join(f"<p>{words}</p>" for words in found)


def _source(source: Source) -> str:
    title = escape(source.title)
    place = f", {escape(source.where)}" if source.where else ""
    return f"<a href='{escape(source.url)}' target='_blank'>{title}</a>{place}" if source.url else f"{title}{place}"
