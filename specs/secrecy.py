"""What must never be read in a sentence, a log or a page: the values of tokens and passwords."""

import os
import re

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIAL", re.IGNORECASE)
_LOCATION_NAME = re.compile(r"(PATH|FILE|DIR|FOLDER|HOME)$", re.IGNORECASE)
_SHORTEST = 8
"""Characters of the shortest value that counts as a secret; ``TOKENIZERS_PARALLELISM=false`` is none."""

_KNOWN_FORM = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
"""A token of the Hub: ``hf_`` and letters, https://huggingface.co/docs/hub/security-tokens."""

HIDDEN = "[hidden]"


def without_secrets(text: str) -> str:
    """Return a text in which the secrets of this process's environment, and tokens of the Hub, are hidden."""
    for value in sorted(_values(), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return _KNOWN_FORM.sub(HIDDEN, text)


def _values() -> set[str]:
    return {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and _SECRET_NAME.search(name) and not _LOCATION_NAME.search(name)
    }
