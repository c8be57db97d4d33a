"""Turns an example into text as the model reads it, says which of it the loss counts, and makes tokens of both."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from specs.tasks import TASK_TYPES, task_type_of
from trainer.data.examples import Example, related_of
from trainer.data.forms import related
from trainer.data.forms.classes import BETWEEN
from trainer.data.forms.messages import Turn
from trainer.data.forms.passages import Passage, require_answer
from trainer.data.row import UnreadableError
from trainer.data.source import WITHOUT_ANSWERS, Thinking
from trainer.data.template import answer_spans, chat_template, completeness
from trainer.data.template.answer_spans import Span
from trainer.data.template.chat_template import ChatTemplate

IGNORED = -100
"""The label that PyTorch's cross entropy leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The text of an example as the model reads it, and the parts that it shall learn to say."""

    text: str
    learned: tuple[Span, ...]
    """Spans of characters, from the first to before the last."""
    row: int = 0
    """Number of the row in the file."""
    left_out: tuple[str, ...] = ()
    """What the template leaves out on purpose: reasoning before the last answer."""

    def pieces(self) -> Iterator[tuple[str, bool]]:
        """Yield the text in pieces, each with whether it is learned."""
        position = 0
        for start, end in self.learned:
            if position < start:
                yield self.text[position:start], False
            yield self.text[start:end], True
            position = end
        if position < len(self.text):
            yield self.text[position:], False


class Renderer:
    """Renders examples for one tokenizer: transformers' own, or a ``FolderTokenizer``."""

    def __init__(self, tokenizer: Any, *, thinking: Thinking = "keep", task_types: tuple[str, ...] = ()) -> None:
        """Look up the tokenizer's template, its variant for training, and what it puts around a text.

        Args:
            tokenizer: transformers' own, or a ``FolderTokenizer``.
            thinking: Whether reasoning is kept.
            task_types: The tasks that the model can be trained for; empty for any decoder.
        """
        self._thinking, self._task_types = thinking, task_types
        self.begins_with, self.ends_with = leading_token(tokenizer), tokenizer.eos_token or ""
        self._controls = control_tokens(tokenizer)
        source = chat_template.chosen(tokenizer.chat_template)
        self._plain = ChatTemplate(source, dict(tokenizer.special_tokens_map)) if source else None
        self._training = chat_template.for_training(self._plain) if self._plain else None

    def rendered(self, example: Example) -> Rendered:
        """Return an example as the model reads it: by the chat template, or in plain headings without one.

        Of a pair the better answer is shown, of a text with a class the text.

        Raises:
            UnreadableError: If the template refuses the example or leaves something of it out.
        """
        turns = (*example.turns, *example.chosen)
        if example.passage and self._task_type(example) == "QUESTION_ANS":
            return _cut_out(example.passage, example.row)
        if TASK_TYPES[self._task_type(example)].embeds:
            return _side_by_side(related.texts(related_of(example)), example.row)
        if turns[0].role == "text":
            return self._raw(example, turns)
        if self._task_type(example) == "SEQ_2_SEQ_LM":
            return _written_by_two(*self.sides(example), example.row)
        shown = [self._spoken(turn) for turn in turns]
        said = self._conversation(shown, example.tools)
        first = len(example.turns) if example.chosen else 0
        learned = (
            span
            for index, (turn, span) in enumerate(zip(turns, said.spans, strict=True))
            if span and turn.learned and index >= first
        )
        return Rendered(text=said.text, learned=tuple(learned), row=example.row, left_out=said.left_out)

    def is_plain(self, example: Example) -> bool:
        """Return whether the model reads an example without any template around it, and so with special tokens."""
        return self._task_type(example) != "CAUSAL_LM"

    def counted(self, example: Example, text: Rendered) -> tuple[str, ...]:
        """Return the texts whose tokens are counted, of which the longest is the length of the example.

        A model with an encoder and a decoder has the question in one and the answer in the other; of texts that are
        compared, each is read by itself.
        """
        task_type = self._task_type(example)
        if TASK_TYPES[task_type].embeds:
            return related.texts(related_of(example))
        return self.sides(example) if task_type == "SEQ_2_SEQ_LM" else (text.text,)

    def sides(self, example: Example) -> tuple[str, str]:
        """Return what an encoder reads of an example, and what a decoder learns to write.

        Raises:
            UnreadableError: If there is more than one answer, or what only a chat template has words for.
        """
        *before, last = [self._spoken(turn) for turn in (*example.turns, *example.chosen)]
        unread = next((key for turn in (*before, last) for key in turn.more if key in _OF_TEMPLATES), "")
        if example.tools or unread:
            raise UnreadableError(f"{unread or 'tools'} cannot be told to an encoder and a decoder without a template")
        if last.role != "assistant" or any(turn.role == "assistant" for turn in before):
            raise UnreadableError("has several answers, of which an encoder and a decoder learn one: choose a decoder")
        return asked_plainly(before), last.content

    def _task_type(self, example: Example) -> str:
        return task_type_of(example.kinds, self._task_types).name

    def both(self, example: Example) -> tuple[Rendered, Rendered]:
        """Return a pair with its better answer and with its worse one.

        Raises:
            UnreadableError: As ``rendered`` does.
        """
        return self.rendered(example), self.rendered(replace(example, chosen=example.rejected))

    def turns_as_read(self, example: Example) -> tuple[Turn, ...]:
        """Return the turns of an example in the form in which the template says all of them, without what is left out.

        Reasoning may stand under a key of its own or in tags, as the template has it.

        Raises:
            UnreadableError: As ``rendered`` does.
        """
        turns = [self._spoken(turn) for turn in (*example.turns, *example.chosen)]
        return tuple(turns if turns[0].role == "text" else self._conversation(turns, example.tools).turns)

    def asked(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Return a conversation up to where the model shall answer.

        Raises:
            UnreadableError: If the template refuses these turns.
        """
        if self._plain is None:
            return self._headings(turns).text + "\n\n### Assistant:\n"
        return self._plain.rendered([turn.message() for turn in turns], tools=tools, ask=True)[0]

    def _raw(self, example: Example, turns: Sequence[Turn]) -> Rendered:
        begun = "" if self.begins_with and turns[0].content.startswith(self.begins_with) else self.begins_with
        text = begun + "\n\n".join(turn.content for turn in turns)
        if example.task in WITHOUT_ANSWERS:
            return Rendered(text=text, learned=(), row=example.row)
        asked = begun + "".join(turn.content for turn in example.turns if example.chosen)
        text = begun + "".join(turn.content for turn in turns) + self.ends_with
        return Rendered(text=text, learned=((len(asked), len(text)),), row=example.row)

    def _conversation(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]]) -> "_Said":
        """Return a conversation in the first form of its reasoning of which the template leaves nothing out."""
        if self._training is None:
            return self._headings(turns)
        nearest: _Said | None = None
        refused: UnreadableError | None = None
        for form in completeness.forms(turns, self._training.source):
            try:
                said = self._templated(self._training, form, tools)
            except UnreadableError as error:
                refused = refused or error
                continue
            if not said.left_out:
                return said
            if nearest is None or len(said.left_out) < len(nearest.left_out):
                nearest = said
        if nearest is None:
            raise refused or UnreadableError("cannot be rendered")
        return nearest

    def _templated(self, template: ChatTemplate, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]]) -> "_Said":
        text, spans = answer_spans.found(template, turns, tools, self._controls)
        left_out = completeness.left_out(turns, spans, text)
        if tools and template.rendered([turn.message() for turn in turns])[0] == text:
            raise UnreadableError(f"tools are left out by the model's chat template: {completeness.CALLING}")
        if turns[-1].role == "assistant" and spans[-1] and not _ends_with(text, (*self._controls, self.ends_with)):
            text, spans = text + self.ends_with, (*spans[:-1], (spans[-1][0], len(text) + len(self.ends_with)))
        return _Said(text, spans, left_out, turns)

    def _spoken(self, turn: Turn) -> Turn:
        """Return a turn without its reasoning, if that is to be left out."""
        if self._thinking == "keep" or turn.role != "assistant":
            return turn
        more = {key: value for key, value in turn.more.items() if key != "reasoning_content"}
        return replace(turn, more=more, content=completeness.THOUGHT.sub("", turn.content))

    def _headings(self, turns: Sequence[Turn]) -> "_Said":
        """Return turns under plain headings, for models without a chat template."""
        text, spans = self.begins_with, list[Span | None]()
        for number, turn in enumerate(turns, start=1):
            unknown = next(iter(turn.more.keys() & {"tool_calls", "reasoning_content"}), None)
            if unknown:
                raise UnreadableError(f"{unknown} of message {number} needs a model with a chat template")
            text += ("" if number == 1 else "\n\n") + f"### {turn.role.capitalize()}:\n"
            start = len(text)
            text += turn.content + (self.ends_with if turn.role == "assistant" else "")
            spans.append((start, len(text)) if turn.role == "assistant" else None)
        return _Said(text, spans, turns=turns)


_OF_TEMPLATES = frozenset({"tool_calls", "reasoning_content"})
"""What only a chat template has words for."""


def asked_plainly(turns: Sequence[Turn]) -> str:
    """Return what is asked as an encoder reads it: one after the other, without any template."""
    return BETWEEN.join(turn.content for turn in turns)


def _written_by_two(asked: str, answer: str, row: int) -> Rendered:
    """Return a question, which is only read, and its answer below."""
    before = f"{asked}{BETWEEN}"
    return Rendered(text=before + answer, learned=((len(before), len(before) + len(answer)),), row=row)


def _side_by_side(texts: Sequence[str], row: int) -> Rendered:
    """Return texts that are compared, of which nothing is written."""
    return Rendered(text=BETWEEN.join(texts), learned=(), row=row)


def _cut_out(passage: Passage, row: int) -> Rendered:
    """Return a question with its context, of which the first answer is learned."""
    require_answer(passage)
    before = f"{passage.question}{BETWEEN}"
    first, words = passage.answers[0]
    begun = len(before) + first
    return Rendered(text=before + passage.context, learned=((begun, begun + len(words)),), row=row)


class _Said(NamedTuple):
    """A conversation as a template says it."""

    text: str
    spans: Sequence[Span | None]
    left_out: tuple[str, ...] = ()
    turns: Sequence[Turn] = ()


def leading_token(tokenizer: Any) -> str:
    """Return the token that a tokenizer puts before a text by itself, mostly BOS, or nothing."""
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    begun = tokenizer.bos_token and ids and ids[0] == tokenizer.bos_token_id
    return str(tokenizer.bos_token) if begun else ""


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Return the special tokens of a tokenizer, such as the one that ends a turn."""
    return tuple(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)


def labelled(text: Rendered, tokenizer: Any, *, max_length: int, whole: bool) -> dict[str, list[int]] | None:
    """Return ``input_ids`` and ``labels`` cut to a length, or None if nothing is left to learn.

    Args:
        text: What to tokenize.
        tokenizer: A fast tokenizer of transformers, or a ``FolderTokenizer``.
        max_length: Most tokens that are kept.
        whole: Whether the prompt counts in the loss too.
    """
    encoded = tokenizer(text.text, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False)
    ids = encoded["input_ids"][:max_length]
    offsets = encoded["offset_mapping"][:max_length]
    labels = list(ids) if whole else _labels(ids, offsets, text.learned)
    if all(label == IGNORED for label in labels):
        return None
    return {"input_ids": list(ids), "labels": labels}


def compared(better: Rendered, worse: Rendered, tokenizer: Any) -> Mapping[str, list[int]]:
    """Return the tokens of a pair: what both begin with, and how each goes on.

    Raises:
        UnreadableError: If the two answers do not differ.
    """
    sides = []
    for side in (better, worse):
        end = side.learned[-1][1] if side.learned else len(side.text)
        sides.append(tokenizer(side.text[:end], add_special_tokens=False, return_offsets_mapping=True))
    starts = [
        sum(1 for first, _ in encoded["offset_mapping"] if first < side.learned[0][0]) if side.learned else 0
        for side, encoded in zip((better, worse), sides, strict=True)
    ]
    chosen, rejected = (list(encoded["input_ids"]) for encoded in sides)
    begun = min(starts)
    while begun and chosen[:begun] != rejected[:begun]:  # tokens may merge across the end of the question
        begun -= 1
    if chosen == rejected or not chosen[begun:] or not rejected[begun:]:
        raise UnreadableError("chosen and rejected are the same to the model")
    return {"prompt_ids": chosen[:begun], "chosen_ids": chosen[begun:], "rejected_ids": rejected[begun:]}


def _labels(ids: Sequence[int], offsets: Sequence[tuple[int, int]], learned: Sequence[Span]) -> list[int]:
    """Return the ids of the tokens that begin within a learned span; the rest is ignored."""
    labels = [IGNORED] * len(ids)
    spans = iter(learned)
    start, end = next(spans, (0, 0))
    for index, (first, last) in enumerate(offsets):
        while first >= end and (start, end) != (0, 0):
            start, end = next(spans, (0, 0))
        if start <= first < end and last > first:
            labels[index] = ids[index]
    return labels


def _ends_with(text: str, tokens: Sequence[str]) -> bool:
    return text.rstrip().endswith(tuple(token for token in tokens if token))
