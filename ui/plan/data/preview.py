"""Rows as the model reads them: what is learned, what is only read, what max_length truncates. Knows no widget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal

from trainer.data.doctor import Preview, preview_of
from trainer.data.examples import first_example
from trainer.data.readers import Reader
from trainer.data.rendering import Renderer
from trainer.data.source import DataSource

Kind = Literal["learned", "read", "beyond"]
MOST_CHARACTERS = 2_500
"""Of one text; a row may have megabytes."""

WORDS: dict[Kind, str] = {"learned": "learned", "read": "only read", "beyond": "truncated"}
_STYLES: dict[Kind, str] = {
    "learned": "background:color-mix(in srgb,#228833 24%,transparent);border-bottom:2px solid #228833",
    "read": "",
    "beyond": "background:color-mix(in srgb,#EE6677 18%,transparent);text-decoration:line-through",
}
"""Tol's green and red, with a second sign beside the colour; the words keep the page's own colour."""
_HIDDEN = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One text as the model reads it."""

    title: str
    """What it is of a pair; empty for a text that stands alone."""
    pieces: tuple[tuple[str, Kind], ...]
    tokens: int
    """Tokens of the whole text; 0 where none are counted."""
    learned: int
    """Tokens of it that are learned."""
    beyond: int
    """Tokens behind ``max_length``."""
    writes: bool = True
    """Whether the model learns to write any of it."""

    @property
    def facts(self) -> str:
        """Its numbers in words."""
        if not self.tokens:
            return ""
        cut = f"{self.beyond:,} truncated" if self.beyond else ""
        if not self.writes:
            return cut  # its tokens are counted with those that the tokenizer puts around a text
        return ", ".join(filter(None, (f"{self.tokens:,} tokens, {self.learned / self.tokens:.0%} learned", cut)))


def sides(preview: Preview, reader: Reader, *, max_length: int | None, whole: bool) -> tuple[Side, ...]:
    """Return the texts of a row: one, or both of a pair.

    Args:
        preview: The row.
        reader: Whose tokens are counted.
        max_length: Tokens beyond are truncated; None truncates none.
        whole: Whether the loss counts what is asked too.
    """
    if not preview.rejected:
        writes = preview.writes
        side = _side("", preview.pieces, reader.tokenizer, max_length=max_length, whole=whole and writes)
        return (replace(side, writes=writes),)
    return (
        _side("Better answer", preview.pieces, reader.tokenizer, max_length=max_length, whole=False),
        _side("Worse answer", preview.rejected, reader.tokenizer, max_length=max_length, whole=False),
    )


def first(source: DataSource, reader: Reader) -> Preview:
    """Return the first row that can be trained on.

    Raises:
        LorafitError: If there is none, or the template refuses it.
    """
    example, renderer = (
        first_example(source),
        Renderer(reader.tokenizer, thinking=source.thinking, task_types=reader.task_types),
    )
    texts = renderer.both(example) if example.rejected else (renderer.rendered(example),)
    worse = tuple(texts[1].pieces()) if len(texts) > 1 else ()
    return preview_of(example, tuple(texts[0].pieces()), worse)


def mark(preview: Preview) -> str:
    """Return how a marked answer, a text with a class or tagged words are marked; empty for any other."""
    if preview.label is None:
        return ""
    if preview.has_class:
        return f"class {preview.label}"
    if not preview.writes:
        return f"tagged {preview.label}"
    return {"True": "marked good", "False": "marked bad"}[preview.label]


def html(side: Side) -> str:
    """Return a text as HTML: each kind of piece with a colour, a second sign, and its word for those who do not see."""
    drawn = "".join(_piece(words, kind, told=side.writes) for words, kind in _shortened(side.pieces))
    more = sum(len(words) for words, _ in side.pieces) - MOST_CHARACTERS
    rest = f"<div>… {more:,} more characters</div>" if more > 0 else ""
    return (
        "<div dir='auto' style='white-space:pre-wrap;overflow-wrap:anywhere;font-size:0.85rem;line-height:1.55'>"
        f"{drawn}{rest}</div>"
    )


def legend() -> str:
    """Return what each colour stands for, as HTML."""
    entries = "".join(
        f"<span style='{_STYLES[kind]};margin-right:1rem'>{words}</span>" for kind, words in WORDS.items()
    )
    return f"<div style='font-size:0.85rem'>{entries}</div>"


def _side(
    title: str, pieces: Sequence[tuple[str, bool]], tokenizer: Any, *, max_length: int | None, whole: bool
) -> Side:
    text = "".join(words for words, _ in pieces)
    offsets = tokenizer(text, add_special_tokens=False)["offset_mapping"]
    kept = len(offsets) if max_length is None else min(len(offsets), max_length)
    end = offsets[kept][0] if kept < len(offsets) else len(text)
    marked = tuple(_cut(pieces, end, whole=whole))
    spans = [(start, stop) for start, stop, kind in _places(marked) if kind == "learned"]
    learned = sum(any(start <= first < stop for start, stop in spans) for first, _ in offsets[:kept])
    return Side(title=title, pieces=marked, tokens=len(offsets), learned=learned, beyond=len(offsets) - kept)


def _cut(pieces: Sequence[tuple[str, bool]], end: int, *, whole: bool) -> Iterator[tuple[str, Kind]]:
    """Yield pieces with their kinds; what stands behind the end is beyond."""
    position = 0
    for words, learned in pieces:
        kept = max(0, min(len(words), end - position))
        if kept:
            yield words[:kept], "learned" if learned or whole else "read"
        if kept < len(words):
            yield words[kept:], "beyond"
        position += len(words)


def _places(pieces: Sequence[tuple[str, Kind]]) -> Iterator[tuple[int, int, Kind]]:
    position = 0
    for words, kind in pieces:
        yield position, position + len(words), kind
        position += len(words)


def _shortened(pieces: Sequence[tuple[str, Kind]]) -> Iterator[tuple[str, Kind]]:
    left = MOST_CHARACTERS
    for words, kind in pieces:
        if left > 0:
            yield words[:left], kind
        left -= len(words)


def _piece(words: str, kind: Kind, *, told: bool) -> str:
    word = f"<span style='{_HIDDEN}'>[{WORDS[kind]}] </span>" if told or kind == "beyond" else ""
    return f"{word}<span style='{_STYLES[kind]}'>{escape(words)}</span>"
