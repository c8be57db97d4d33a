"""A table as files for other tools: CSV, Markdown, LaTeX, a picture. Pure."""

import csv
import importlib
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from specs.markup import in_markdown
from ui.drawing import palette

Columns = Mapping[str, Sequence[Any]]

_WORDS = r"((?:[^\[\]\\]|\\.)*)"
_MARKS: Sequence[tuple[re.Pattern[str], str]] = (
    *(
        (re.compile(rf":[a-z]+\[{re.escape(palette.VERDICT_ICONS[verdict])}\s*{_WORDS}\]"), rf"\1 ({verdict})")
        for verdict in ("tight", "does not fit")
    ),
    (re.compile(r":material/\w+:\s*"), ""),
    (re.compile(rf"\[{_WORDS}\]\((https?://[^)\s]+)\)"), r"\1 (\2)"),
    (re.compile(rf"\[{_WORDS}\]\([^)\s]*\)"), r"\1"),
    (re.compile(rf":[a-z]+\[{_WORDS}\]"), r"\1"),
    (re.compile(r"\s*\n\s*"), "; "),
    (re.compile(r"(?<!\\)\*\*|(?<!\\)`"), ""),
)
"""What Markdown adds to words, and what remains of it."""
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_NUMBER = re.compile(r"[+-]?[\d.,]+(e[+-]?\d+)?\s?%?")
_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{sign: f"{{{sign}}}" for sign in "[]*"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\N{NO-BREAK SPACE}": "~",
}
_FONT_PIXELS, _GAP_PIXELS, _ROW_PIXELS, _MARGIN_PIXELS = 26, 44, 46, 32
_WIDEST_CELL = 90
"""Characters of a cell in a picture; a longer one is cut, with a mark."""
_INK, _LINE, _PAPER = "#111318", "#B8BABF", "#FFFFFF"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A table as it is saved, and what it is about."""

    name: str
    """The file's name without its ending."""
    columns: Columns
    """Cells by their heading, as text."""
    about: Mapping[str, str] = field(default_factory=dict)
    """What all cells have in common, such as model, card and verdict."""
    values: Columns | None = None
    """The same as plain numbers and words, one row for each value, where a program should rather read those."""

    @property
    def title(self) -> str:
        """What the table is about, in one line."""
        return _line_of("; ".join(f"{name} {value}" for name, value in self.about.items()))


def sheet(name: str, shown: Columns, about: Mapping[str, str], values: Columns | None = None) -> Sheet:
    """Return a table of Markdown cells without Markdown."""
    columns = {unmarked(head): [unmarked(str(cell)) for cell in cells] for head, cells in shown.items()}
    return Sheet(name=name, columns=columns, about=about, values=values)


def sheet_of(name: str, values: Columns, about: Mapping[str, str]) -> Sheet:
    """Return a table of plain numbers and words, such as those of a chart."""
    columns = {_line_of(head): list(map(_line_of, cells)) for head, cells in values.items()}
    return Sheet(name=name, columns=columns, about=about, values=values)


def unmarked(words: str) -> str:
    """Return Markdown as plain text; a link to another site keeps its address."""
    before = None
    while before != words:
        before = words
        for pattern, kept in _MARKS:
            words = pattern.sub(kept, words)
    return re.sub(r"\\(.)", r"\1", words).replace("\N{NO-BREAK SPACE}", " ").strip()


def as_csv(table: Sheet) -> bytes:
    """Return the table as CSV; each row begins with what all have in common."""
    columns = table.values or table.columns
    common = {name: value for name, value in table.about.items() if name not in columns}
    rows = ([*common.values(), *row] for row in zip(*columns.values(), strict=True))
    return csv_text([*common, *columns], rows).encode()


def csv_text(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as CSV in which no cell is a formula: one that looks like a formula gets an apostrophe before it.

    Source:
        https://owasp.org/www-community/attacks/CSV_Injection
    """
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(map(_harmless, head))
    writer.writerows(map(_harmless, row) for row in rows)
    return out.getvalue()


def _harmless(cell: Any) -> Any:
    is_formula = isinstance(cell, str) and cell[:1] in _FORMULA and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if is_formula else cell


def as_markdown(table: Sheet) -> bytes:
    """Return the table as GitHub and most other tools read it."""
    lines = [in_markdown(table.title), ""] if table.title else []
    lines += [_line(list(table.columns)), _line(["---"] * len(table.columns))]
    lines += [_line(row) for row in zip(*table.columns.values(), strict=True)]
    return ("\n".join(lines) + "\n").encode()


def as_latex(table: Sheet) -> bytes:
    """Return the table in LaTeX with the rules of the package booktabs."""
    columns = {in_latex(head): list(map(in_latex, cells)) for head, cells in table.columns.items()}
    frame = importlib.import_module("pandas").DataFrame(columns)
    written: str = frame.to_latex(index=False, escape=False, caption=in_latex(table.title) or None)
    return written.encode()


def in_latex(words: str) -> str:
    """Return words as LaTeX shows them; a bracket or star after the end of a row would be read as that command's."""
    return "".join(_LATEX.get(sign, sign) for sign in words)


def as_png(table: Sheet) -> bytes:
    """Return the table as a picture, black on white, for a slide or a message."""
    font = ImageFont.load_default(size=_FONT_PIXELS)
    rows = [list(table.columns), *map(list, zip(*table.columns.values(), strict=True))]
    rows = [[_cut(cell) for cell in row] for row in rows]
    widths = [max(font.getlength(row[number]) for row in rows) for number in range(len(table.columns))]
    top = _MARGIN_PIXELS + (_ROW_PIXELS if table.title else 0)
    wide = sum(widths) + _GAP_PIXELS * (len(widths) - 1)
    wide = int(max(wide, font.getlength(table.title))) + 2 * _MARGIN_PIXELS
    picture = Image.new("RGB", (wide, top + _ROW_PIXELS * len(rows) + _MARGIN_PIXELS), _PAPER)
    pen = ImageDraw.Draw(picture)
    if table.title:
        pen.text((_MARGIN_PIXELS, _MARGIN_PIXELS), table.title, fill=_INK, font=font)
    for number, row in enumerate(rows):
        y = top + number * _ROW_PIXELS
        x = float(_MARGIN_PIXELS)
        for cell, width in zip(row, widths, strict=True):
            pen.text((x, y), cell, fill=_INK, font=font)
            x += width + _GAP_PIXELS
        pen.line((_MARGIN_PIXELS, y + 38, wide - _MARGIN_PIXELS, y + 38), fill=_LINE, width=1 if number else 3)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file."""

    ending: str
    mime: str
    written: Callable[[Sheet], bytes]


KINDS: Mapping[str, Kind] = {
    "CSV": Kind("csv", "text/csv", as_csv),
    "Markdown": Kind("md", "text/markdown", as_markdown),
    "LaTeX": Kind("tex", "application/x-tex", as_latex),
    "PNG": Kind("png", "image/png", as_png),
}
"""Every kind of file by its name."""


def _line_of(value: Any) -> str:
    return " ".join(str(value).split())


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(in_markdown, cells))} |"


def _cut(cell: str) -> str:
    return cell if len(cell) <= _WIDEST_CELL else f"{cell[: _WIDEST_CELL - 3]}..."
