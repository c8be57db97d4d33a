"""Where the answers of a rendered conversation stand, whatever its chat template.

A template that marks what is generated says so itself. In the text of any other, an answer is found by rendering the
conversation again with a placeholder in its place: what differs is the answer, with its reasoning and its calls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from trainer.data.forms.messages import Turn
from trainer.data.row import UnreadableError
from trainer.data.template.chat_template import PLACEHOLDER, ChatTemplate

Span: TypeAlias = tuple[int, int]
Tools: TypeAlias = Sequence[Mapping[str, Any]]

_SHORTEST_HEADING = 3
"""Characters of a heading below which finding it in a text would be chance."""


def found(
    template: ChatTemplate, turns: Sequence[Turn], tools: Tools, controls: Sequence[str]
) -> tuple[str, tuple[Span | None, ...]]:
    """Return a conversation as the model reads it, and for each turn the span that it learns to say.

    A span ends with the token that ends the turn, at which generation stops.

    Args:
        template: The template.
        turns: The conversation.
        tools: JSON schemas of functions.
        controls: The special tokens of the tokenizer.

    Raises:
        UnreadableError: If the template refuses the conversation.
    """
    said = [turn.message() for turn in turns]
    text, marked = template.rendered(said, tools=tools)
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    spans: list[Span | None] = [None] * len(turns)
    if len(marked) == len(answers):
        for index, span in zip(answers, marked, strict=True):
            spans[index] = span
    else:
        rendered, behind = _Text(template, said, tools, controls, text), 0
        for index in answers:
            spans[index] = rendered.span(index, behind)
            behind = (spans[index] or (0, behind))[1]
    return text, tuple(span and (span[0], _stop(text, span, controls)) for span in spans)


@dataclass(frozen=True, slots=True)
class _Text:
    """A rendered conversation, with what is needed to render it again."""

    template: ChatTemplate
    said: Sequence[Mapping[str, Any]]
    tools: Tools
    controls: Sequence[str]
    text: str

    def again(self, said: Sequence[Mapping[str, Any]], *, ask: bool = False) -> str:
        """Return another conversation, or nothing if the template refuses it."""
        try:
            return self.template.rendered(said, tools=self.tools, ask=ask)[0]
        except UnreadableError:
            return ""

    def span(self, index: int, behind: int) -> Span | None:
        """Return the span of one answer behind another one's end, or None if the template does not say it."""
        placeholder = {"role": "assistant", "content": PLACEHOLDER}
        before, mark, after = self._replaced(index, placeholder)
        if not mark:
            return self._call(index, behind)
        start = _shared(self.text, before)
        end = len(self.text) - _shared(self.text[start:][::-1], after[::-1])
        if (called := self._called(index)) > start:
            end = min(end, called)
        alone = self.again([*self.said[:index], placeholder]).partition(PLACEHOLDER)[2]
        return self._behind_heading(index, behind, start), end + self._ending(alone, self.text[end:])

    def _replaced(self, index: int, message: Mapping[str, Any]) -> tuple[str, str, str]:
        return self.again([*self.said[:index], message, *self.said[index + 1 :]]).partition(PLACEHOLDER)

    def _call(self, index: int, behind: int) -> Span | None:
        """Return the span of a call in a template that refuses words in its place."""
        message = self.said[index]
        if not message.get("tool_calls"):
            return None
        first, *rest = message["tool_calls"]
        renamed = {**first, "function": {**first["function"], "name": PLACEHOLDER}}
        before, mark, _ = self._replaced(index, {**message, "tool_calls": [renamed, *rest]})
        start, called = _shared(self.text, before), self._called(index)
        return (self._behind_heading(index, behind, start), called) if mark and called > start else None

    def _called(self, index: int) -> int:
        """Return where a call ends that a tool answers, or 0: templates may write both into one turn."""
        if index + 1 == len(self.said) or self.said[index + 1]["role"] != "tool":
            return 0
        return _shared(self.text, self.again(self.said[: index + 1]))

    def _behind_heading(self, index: int, behind: int, start: int) -> int:
        """Return where the heading of an answer ends, or where the answer starts if it has none."""
        asked = self.said[:index]
        with_heading = self.again(asked, ask=True)
        heading = with_heading[_shared(self.again(asked), with_heading) :]
        for length in range(len(heading), _SHORTEST_HEADING - 1, -1):
            at = self.text.rfind(heading[:length], behind, start)
            if at >= 0:
                return at + length
        return start

    def _ending(self, alone: str, after: str) -> int:
        """Return how many characters behind an answer belong to it: what ends a conversation that it closes."""
        ending = alone[: _shared(alone, after)]
        whole_tokens = [ending.rfind(token) + len(token) for token in self.controls if token in ending]
        if not whole_tokens:
            return len(ending) if ending == alone else 0
        rest = ending[max(whole_tokens) :]  # may hold the beginning of another token
        return len(ending) - len(rest.lstrip())


def _stop(text: str, span: Span, controls: Sequence[str]) -> int:
    """Return where an answer ends, with the special token at its end where the mark closes before it."""
    start, end = span
    if text[start:end].rstrip().endswith(tuple(controls)):
        return end
    return end + next((len(token) for token in controls if text.startswith(token, end)), 0)


def _shared(left: str, right: str) -> int:
    """Return how many characters two texts begin with alike."""
    known, beyond = 0, min(len(left), len(right)) + 1
    while beyond - known > 1:
        middle = (known + beyond) // 2
        if left[known:middle] == right[known:middle]:
            known = middle
        else:
            beyond = middle
    return known
