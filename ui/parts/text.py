"""Values as sentences and short labels. Pure."""

import math
import re

from advisor import Advice, Source
from specs import gib
from specs.units import gib_between, in_powers, with_digits

_MINUTE = 60
_HOUR = 3600
_DAY = 86_400
_NOT_MARKDOWN = re.compile(r"[A-Za-z0-9][\w ./+()-]*")


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, such as ``1 h 20 min``."""
    if not math.isfinite(seconds):
        return "unknown"
    if 0 < seconds < 1:
        return "under 1 s"
    # Rounded before the units are chosen: 59.7 s are a minute.
    if round(seconds) < _MINUTE:
        return f"{round(seconds)} s"
    if round(seconds) < _HOUR:
        return _in_two(round(seconds), _MINUTE, "min", "s")
    if round(seconds / _MINUTE) < _DAY // _MINUTE:
        return _in_two(round(seconds / _MINUTE), _HOUR // _MINUTE, "h", "min")
    return _in_two(round(seconds / _HOUR), _DAY // _HOUR, "d", "h")


def _in_two(number: int, size: int, unit: str, rest: str) -> str:
    """Return a number of small units as large ones of so many, and the rest."""
    return f"{number // size} {unit} {number % size} {rest}"


def size(num_bytes: int) -> str:
    """Return bytes in a readable unit, never broken over two lines."""
    return gib(num_bytes).replace(" ", "\N{NO-BREAK SPACE}")


def unbroken(sentence: str) -> str:
    """Return a sentence in which no size is broken over two lines."""
    return re.sub(r" (?=[KMG]iB)", "\N{NO-BREAK SPACE}", sentence)


def size_between(less: int, more: int) -> str:
    """Return how much lies between two sizes, such that the three add up as they are shown."""
    return gib_between(less, more).replace(" ", "\N{NO-BREAK SPACE}")


def size_range(low: int, high: int) -> str:
    """Return two sizes as a range that names a common unit once, such as ``1.7 to 1.9 GiB``."""
    (least, unit), most = size(low).split("\N{NO-BREAK SPACE}"), size(high)
    return f"{least} to {most}" if most.endswith(unit) else f"{size(low)} to {most}"


def count(number: float) -> str:
    """Return a large count with three digits and a unit, such as ``8.03 B``."""
    rounded = float(f"{number:.3g}")
    for size, unit in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " K")):
        if abs(rounded) >= size:
            return f"{with_digits(rounded / size, 3)}{unit}"
    return f"{number:,.0f}"


def value(setting: object) -> str:
    """Return a setting's value as tables show it."""
    if isinstance(setting, bool):
        return "yes" if setting else "no"
    if setting is None:
        return "none"
    if isinstance(setting, float):
        return in_powers(setting) if 0 < abs(setting) < 0.001 else f"{setting:g}"
    if isinstance(setting, tuple | list):
        return (
            ", ".join(f"{entry[0]}: {entry[1]}" if isinstance(entry, tuple) else str(entry) for entry in setting)
            or "none"
        )
    return str(setting)


def acceptable(advice: Advice) -> str:
    """Return the acceptable values of a setting as tables show them."""
    also = dict.fromkeys(map(value, advice.range))
    return (" to " if advice.is_interval else "; " if any(", " in one for one in also) else ", ").join(also)


def link(source: Source) -> str:
    """Return a source as Markdown, linked if it has an address."""
    title = plain(source.title)
    place = f", {plain(source.where)}" if source.where else ""
    return f"[{title}]({source.url}){place}" if source.url else f"{title}{place}"


def with_range(shown: str, advice: Advice) -> str:
    """Return a value with the acceptable ones below it, as Markdown."""
    return f"**{shown}**  \n:gray[acceptable: {plain(acceptable(advice))}]"


def reasoning(advice: Advice) -> str:
    """Return the reason, source and confidence of a piece of advice as Markdown."""
    return f"{plain(advice.reason)}  \n:gray[{link(advice.source)} ({advice.confidence} confidence)]"


def on_accent(words: str) -> str:
    """Return the label of a filled button in the theme's colour for text on the accent colour."""
    return f":violet[{words}]"


def plain(text: str) -> str:
    """Return text with Markdown's special characters escaped, so that names and logs appear literally."""
    return "".join(f"\\{sign}" if sign in r"\`*_{}[]()#+-.!|<>~$:&" else sign for sign in text)


def option(words: str) -> str:
    """Return words as a pill shows them; only names that Markdown might read are escaped, since addresses hold this."""
    return words if _NOT_MARKDOWN.fullmatch(words) else plain(words)


def paragraphs(words: str) -> str:
    """Return a model's answer as Markdown that shows it literally, line by line."""
    return "  \n".join(plain(line) for line in words.strip().splitlines())
