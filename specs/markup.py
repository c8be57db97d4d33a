"""Plain text as other languages read it: Markdown that shows it as it is."""

import re

_ADDRESS = r"https?://[^\s<>|()\[\]`*\\$]+"
_READ = re.compile(
    rf"{_ADDRESS}|[\\`*\[\]<|~$]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)|:(?=[\w+-]+:)|^(?:[#>]|[+-](?=\s))|(?<=^\d)[.)](?=\s)"
)
"""What Markdown would read: marks, links, tags, entities, formulas, GitHub's pictures such as ``:tada:``, and the
beginning of a heading or a list. Addresses stay as they are, and become links."""


def in_markdown(text: str) -> str:
    """Return text that GitHub and other readers of Markdown show as it is, on one line, also within a table."""
    line = " ".join(text.split())
    return _READ.sub(lambda found: found[0] if len(found[0]) > 1 else f"\\{found[0]}", line)
