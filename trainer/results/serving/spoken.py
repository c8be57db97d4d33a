"""How a run's model is spoken to: its chat template, the tokens at which it stops, its data's system message."""

import json
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from specs import DataError, headings
from trainer.data.examples import Example, examples
from trainer.data.forms.messages import Turn
from trainer.data.rendering import Renderer, control_tokens
from trainer.data.source import DataSource
from trainer.data.template import chat_template
from trainer.data.tokenizer import FolderTokenizer
from trainer.results.serving import go_template

_LOOKED_AT = 200
"""Rows that are looked at for a system message that all share."""

_MARK = re.compile(r"(\{%-?\s*)(end)?generation(\s*-?%\})")


class Spoken:
    """The tokenizer and the template of a model's folder, as servers must be told them."""

    def __init__(self, folder: Path) -> None:
        """Read the tokenizer and its template.

        Raises:
            SpecError: If the folder has no readable tokenizer.
        """
        self.tokenizer = FolderTokenizer(folder)
        self._renderer = Renderer(self.tokenizer)
        self._folder = folder

    def asked(self, turns: Sequence[Turn]) -> str:
        """Return a conversation up to where the model is to answer, as the run wrote it."""
        return self._renderer.asked(turns)

    @property
    def begins(self) -> str:
        """The token that the tokenizer puts before a text and the template writes too, mostly BOS, or nothing."""
        first = self._renderer.begins_with
        return first if first and self.asked((Turn(role="user", content="a"),)).startswith(first) else ""

    @property
    def puts_bos(self) -> bool:
        """Whether the tokenizer puts such a token before a text by itself, whatever the template writes."""
        return bool(self._renderer.begins_with)

    @property
    def jinja(self) -> str:
        """The template in Jinja without marks of what is learned, which only transformers knows."""
        source = chat_template.chosen(self.tokenizer.chat_template)
        if source is None:
            return headings.template(begins_with_bos=bool(self._renderer.begins_with), marked=False)
        return _MARK.sub(lambda mark: f"{mark[1]}{'endif' if mark[2] else 'if true'}{mark[3]}", source)

    def stops(self) -> tuple[str, ...]:
        """Return where an answer ends: at tokens of ``generation_config``, the tokenizer's, and the template's."""
        said = _json(self._folder / "generation_config.json").get("eos_token_id")
        listed = said if isinstance(said, list) else [said]
        numbered = (self.tokenizer.token(number) for number in listed if isinstance(number, int))
        ending = go_template.ending(self.asked, control_tokens(self.tokenizer))
        return tuple(dict.fromkeys(token for token in (*numbered, self.tokenizer.eos_token, ending) if token))


def system_message(data: DataSource) -> str:
    """Return the system message that all of the first rows of a run's data share; nothing where they differ.

    A model that has always read the same one answers worse without.
    """
    try:
        found = islice((one for one in examples(data) if isinstance(one, Example)), _LOOKED_AT)
        said = {tuple(turn.content for turn in one.turns if turn.role == "system") for one in found}
    except (DataError, OSError):
        return ""
    return next(iter(said))[0] if len(said) == 1 and said != {()} else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
