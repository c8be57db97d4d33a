"""Links into the plan page that keep what was chosen and change one thing."""

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

Parameters = Mapping[str, str | Sequence[str]]


def to_plan(words: str, parameters: Parameters, **changes: str) -> str:
    """Return Markdown that opens the plan page with these parameters and some changed; the words are Markdown too."""
    return f"[{words}](/?{urlencode({**parameters, **changes}, doseq=True)})"
