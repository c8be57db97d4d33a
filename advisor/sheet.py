"""A one-page sheet as data, and its two forms: Markdown to keep, HTML to read and print."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from specs.markup import in_markdown


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading with a table or list below it."""

    heading: str
    rows: Sequence[Sequence[str]]
    """The rows of a table, or entries of one cell for a list."""
    head: Sequence[str] = ()
    """The column headings; empty makes the section a list."""
    names_first: bool = False
    """Whether the first column holds field names, shown as code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One page: what it is about, its main sentence, and its sections."""

    title: str
    about: str
    verdict: str
    remark: str
    sections: Sequence[Section]

    @property
    def filled(self) -> tuple[Section, ...]:
        """The sections that are not empty."""
        return tuple(section for section in self.sections if section.rows)


def markdown(sheet: Sheet) -> str:
    """Return a sheet as Markdown."""
    about, verdict = in_markdown(sheet.about), in_markdown(sheet.verdict)
    lines = [f"# {in_markdown(sheet.title)}", "", about, "", f"**{verdict}**", ""]
    lines += [in_markdown(sheet.remark), ""] if sheet.remark else []
    for section in sheet.filled:
        lines += [f"## {section.heading}", "", *_markdown_rows(section), ""]
    return "\n".join(lines)


def page(sheet: Sheet) -> str:
    """Return a sheet as an HTML page that prints on one sheet of A4."""
    sections = "\n".join(
        f"<section><h2>{html.escape(section.heading)}</h2>{_html_rows(section)}</section>" for section in sheet.filled
    )
    return _PAGE.format(
        title=html.escape(sheet.title),
        style=_STYLE,
        about=html.escape(sheet.about),
        verdict=html.escape(sheet.verdict),
        remark=html.escape(sheet.remark),
        sections=sections,
    )


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
<main>
<h1>{title}</h1>
<p>{about}</p>
<p class="verdict">{verdict}</p>
<p>{remark}</p>
{sections}
</main>
</html>
"""

_STYLE = """
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; font: 0.95rem/1.4 system-ui, sans-serif; color: #1a1a1a;
  background: #fff; }
h1 { font-size: 1.4rem; margin: 0 0 0.3rem; }
h2 { font-size: 1rem; margin: 1rem 0 0.3rem; border-bottom: 1px solid #999; }
p { margin: 0.3rem 0; }
.verdict { font-weight: 600; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.1rem 0.6rem 0.1rem 0; }
tr + tr td { border-top: 1px solid #ddd; }
ul { margin: 0; padding-left: 1.1rem; }
li, td { overflow-wrap: anywhere; }
td:first-child { white-space: nowrap; }
@page { size: A4; margin: 9mm; }
@media print {
  body { margin: 0; max-width: none; padding: 0; font-size: 6.5pt; line-height: 1.15; }
  h1 { font-size: 11pt; }
  h2 { font-size: 8pt; margin: 1mm 0 0.3mm; }
  p { margin: 0.5mm 0; }
  th, td { padding: 0 2mm 0 0; }
  section { break-inside: avoid; }
  a { color: inherit; text-decoration: none; }
}
"""


def _markdown_rows(section: Section) -> Iterator[str]:
    if not section.head:
        yield from (f"- {in_markdown(row[0])}" for row in section.rows)
        return
    yield _markdown_row(section.head)
    yield _markdown_row(["---"] * len(section.head))
    for row in section.rows:
        first, *others = map(in_markdown, row)
        yield _markdown_row([f"`{first}`" if section.names_first else first, *others])


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _html_rows(section: Section) -> str:
    if not section.head:
        return f"<ul>{''.join(f'<li>{_linked(row[0])}</li>' for row in section.rows)}</ul>"
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in section.head)
    rows = "".join(f"<tr>{_html_cells(row, section)}</tr>" for row in section.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _html_cells(row: Sequence[str], section: Section) -> str:
    first, *others = map(html.escape, row)
    named = f"<code>{first}</code>" if section.names_first else first
    return "".join(f"<td>{cell}</td>" for cell in (named, *others))


def _linked(text: str) -> str:
    """Return text with the URL at its end as a link."""
    words, _, last = text.rpartition(" ")
    if not last.startswith("https://"):
        return html.escape(text)
    address = html.escape(last)
    return f'{html.escape(words)} <a href="{address}">{address}</a>'
