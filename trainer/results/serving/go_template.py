"""A run's chat template as Ollama writes templates: found by rendering conversations, and refused where it differs.

Ollama fills Go templates, models bring Jinja. Whatever a Jinja template computes, most of them say a conversation as
the same few texts between the messages. These are read off one rendered conversation and held against others.

Source:
    What Ollama gives a template, and that it joins messages of one role: ollama, template/template.go, ``Execute``.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from trainer.data.forms.messages import RESERVED, Turn
from trainer.data.row import UnreadableError

Asked = Callable[[Sequence[Turn]], str]
"""Renders a conversation up to where the model is to answer."""

_SYSTEM, _FIRST, _ANSWER, _SECOND = (f"{RESERVED[-1]}{letter}{RESERVED[-1]}" for letter in "sfan")
_SAID = (
    "Name three.",
    "one\n\ntwo: {{ three }}",
    'What about "four"?\n- a\n- b',
    "1 < 2 && 3",
    "äöü 你好",
    "So?",
    "Yes.",
)
_SYNTAX = frozenset('{}"\\')
"""Signs that mean something in a Go template or a Modelfile: a text that has one is quoted."""
_EACH = "{{ range $index, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $index)) 1 }}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a template puts around and between the messages of a conversation."""

    alone: str
    """Before the first question, where there is no system message."""
    before_system: str = ""
    behind_system: str = ""
    """Between the system message and the first question."""
    takes_system: bool = True
    answering: str
    """Between a question and the answer that it has."""
    asking: str
    """Between an answer and the next question."""
    last: str
    """Behind the last question, up to where the model answers."""

    def without(self, token: str) -> "Parts":
        """Return the same without the token that the server puts before a text by itself."""
        return replace(self, alone=self.alone.removeprefix(token), before_system=self.before_system.removeprefix(token))

    def said(self, turns: Sequence[Turn]) -> str:
        """Return a conversation that ends with a question, as the Go template says it."""
        spoken, text = turns, self.alone
        if turns[0].role == "system":
            spoken, text = turns[1:], self.before_system + turns[0].content + self.behind_system
        for turn in spoken[:-1]:
            text += turn.content + (self.answering if turn.role == "user" else self.asking)
        return text + spoken[-1].content + self.last

    def in_go(self) -> str:
        """Return the template in Go's syntax; an answer at the very end is one to go on with."""
        begin, last = _literal(self.alone), _literal(self.last)
        if self.takes_system:
            system = _literal(self.before_system) + "{{ .System }}" + _literal(self.behind_system)
            begin = _either(".System", system, begin)
        behind = last if self.answering == self.last else _either("$last", last, _literal(self.answering))
        question, answer = "{{ .Content }}" + behind, "{{ .Content }}" + _either("$last", "", _literal(self.asking))
        said = '{{ if eq .Role "user" }}' + question + '{{ else if eq .Role "assistant" }}' + answer + "{{ end }}"
        return begin + _EACH + said + "{{ end }}"


def parts(asked: Asked) -> Parts | None:
    """Return the texts of a template, or None if it says some conversation otherwise than by putting them together."""
    try:
        found = _read_off(asked)
    except (UnreadableError, ValueError):
        return None
    return found if all(_is_said(found, asked, turns) for turns in _conversations(found.takes_system)) else None


def cuts_blanks(asked: Asked, found: Parts) -> bool:
    """Return whether the run's template cuts blanks at the ends of a message, which a Go template cannot."""
    return not _is_said(found, asked, (Turn(role="user", content=" \n a \n "),))


def ending(asked: Asked, controls: Sequence[str]) -> str:
    """Return the special token that ends an answer in the template, or nothing."""
    said = (Turn(role="assistant", content=_ANSWER), Turn(role="user", content=_SECOND))
    try:
        behind = asked((Turn(role="user", content=_FIRST), *said)).partition(_ANSWER)[2].lstrip()
    except UnreadableError:
        return ""
    return max((token for token in controls if behind.startswith(token)), key=len, default="")


def _read_off(asked: Asked) -> Parts:
    """Return the texts between the messages of three short conversations.

    Raises:
        UnreadableError: If the template refuses a question, an answer, or the two after each other.
        ValueError: If it says a message never, twice, or changed.
    """
    first, answer, second = (
        Turn(role=role, content=text) for role, text in (("user", _FIRST), ("assistant", _ANSWER), ("user", _SECOND))
    )
    alone, last = asked((first,)).split(_FIRST)
    begun, behind = asked((first, answer, second)).split(_ANSWER)
    answering, asking = begun.split(_FIRST)[1], behind.split(_SECOND)[0]
    known = Parts(alone=alone, answering=answering, asking=asking, last=last)
    try:
        before_system, rest = asked((Turn(role="system", content=_SYSTEM), first)).split(_SYSTEM)
    except (UnreadableError, ValueError):
        return replace(known, takes_system=False)
    return replace(known, before_system=before_system, behind_system=rest.split(_FIRST)[0])


def _conversations(takes_system: bool) -> Sequence[Sequence[Turn]]:  # noqa: FBT001 - private
    roles = ("user", "assistant")
    spoken = [Turn(role=roles[number % 2], content=text) for number, text in enumerate(_SAID)]
    lengths = range(1, len(spoken) + 1, 2)
    plain = [spoken[:length] for length in lengths]
    system = Turn(role="system", content="Be brief.\nBe kind.")
    return [*plain, *([system, *turns] for turns in plain if takes_system)]


def _is_said(found: Parts, asked: Asked, turns: Sequence[Turn]) -> bool:
    try:
        return asked(turns) == found.said(turns)
    except UnreadableError:
        return False


def _either(condition: str, then: str, otherwise: str) -> str:
    return "{{ if " + condition + " }}" + then + "{{ else }}" + otherwise + "{{ end }}"


def _literal(text: str) -> str:
    """Return a text that a Go template gives back as it is: plain, or quoted where it holds signs of the syntax.

    JSON quotes as Go does: https://go.dev/ref/spec#String_literals. Ollama leaves out signs that cannot be printed.
    """
    if all(sign == "\n" or (sign.isprintable() and sign not in _SYNTAX) for sign in text):
        return text
    signs = json.dumps(text, ensure_ascii=False)
    return "{{ " + "".join(sign if sign.isprintable() else f"\\U{ord(sign):08x}" for sign in signs) + " }}"
