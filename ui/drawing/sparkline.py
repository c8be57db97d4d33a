"""A curve as small as a word, in SVG: values in, markup out. Pure."""

import math
from collections.abc import Sequence

from ui.drawing.palette import ACCENT
from ui.drawing.picture import picture

_WIDTH, _HEIGHT, _MARGIN = 120, 26, 2


def sparkline(values: Sequence[float], *, alt: str) -> str:
    """Return a line through values, lowest at the bottom, as wide as many characters; nothing for fewer than two."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    low, high = min(finite), max(finite)
    reach = (high - low) or 1.0
    across, up = (_WIDTH - 2 * _MARGIN) / (len(finite) - 1), _HEIGHT - 2 * _MARGIN
    points = " ".join(
        f"{_MARGIN + at * across:.1f},{_MARGIN + (high - value) / reach * up:.1f}" for at, value in enumerate(finite)
    )
    line = f"<polyline points='{points}' fill='none' stroke='{ACCENT}' stroke-width='1.5' stroke-linejoin='round'/>"
    return picture(line, size=(_WIDTH, _HEIGHT), alt=alt)
