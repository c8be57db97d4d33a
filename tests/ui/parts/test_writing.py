"""Tables as files: nothing of the page's Markdown is left, and other tools read what is written."""

import csv
import html
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from ui.parts import text, writing

ABOUT = {"model": "Llama_3", "card": "RTX 4090", "verdict": "fits"}
CELLS = {"Part": ["**Weights**", "a|b & 5 %"], "Size": [":green[1.0\N{NO-BREAK SPACE}GiB]", "2"]}
SHEET = writing.sheet("memory", CELLS, ABOUT)


@pytest.mark.parametrize(
    ("shown", "plain"),
    [
        pytest.param(":red[:material/cancel:\N{NO-BREAK SPACE}60.5 GiB]", "60.5 GiB (does not fit)", id="a verdict"),
        pytest.param(":orange[:material/error:\N{NO-BREAK SPACE}**23.4 GiB**]", "23.4 GiB (tight)", id="a close one"),
        pytest.param(":green[:material/check_circle:\N{NO-BREAK SPACE}**8.9 GiB**]", "8.9 GiB", id="the best value"),
        pytest.param(r"[**Qwen2\.5**](/?model=Qwen%2F2.5&gpu=24+GiB)", "Qwen2.5", id="a link within the app"),
        pytest.param("[Hu](https://arxiv.org/abs/2106.09685)", "Hu (https://arxiv.org/abs/2106.09685)", id="a source"),
        pytest.param("**r 16**  \n:gray[acceptable: 8 to 64]", "r 16; acceptable: 8 to 64", id="two lines"),
        pytest.param("`q_proj`", "q_proj", id="code"),
    ],
)
def test_a_cell_is_saved_without_markdown(shown, plain):
    assert writing.unmarked(shown) == plain


@given(st.text("abz*_`[](){}#|\\:$ ").map(str.strip))
def test_what_was_escaped_comes_back_as_it_was(words):
    assert writing.unmarked(text.plain(words)) == words


def test_csv_begins_every_row_with_model_card_and_verdict():
    rows = list(csv.DictReader(io.StringIO(writing.as_csv(SHEET).decode())))
    assert rows[0] == {"model": "Llama_3", "card": "RTX 4090", "verdict": "fits", "Part": "Weights", "Size": "1.0 GiB"}


def test_csv_has_the_numbers_where_there_are_some():
    sheet = writing.sheet("memory", {"Size": ["1.0 GiB"]}, ABOUT, {"used_bytes": [1, 2], "verdict": ["fits", "tight"]})
    rows = list(csv.DictReader(io.StringIO(writing.as_csv(sheet).decode())))
    assert [(row["model"], row["used_bytes"], row["verdict"]) for row in rows] == [
        ("Llama_3", "1", "fits"),
        ("Llama_3", "2", "tight"),
    ]


def test_markdown_keeps_a_bar_within_its_cell():
    lines = writing.as_markdown(SHEET).decode().splitlines()
    assert lines == [
        "model Llama_3; card RTX 4090; verdict fits",
        "",
        "| Part | Size |",
        "| --- | --- |",
        "| Weights | 1.0 GiB |",
        r"| a\|b & 5 % | 2 |",
    ]


MARKED = ("a|b", "`c` [d](http://e) <b>f</b>", "_g_ *h* ~~i~~ $j$ :tada: &amp;", "# k", "- l", "1. m", "n\no", "\\p")
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


@pytest.mark.parametrize("words", MARKED)
def test_markdown_shows_names_as_they_are(words):
    sheet = writing.sheet("m", {text.plain(words): [text.plain(words)]}, {"model": words})
    shown = MARKDOWN.render(writing.as_markdown(sheet).decode())
    cells = re.findall(r"<t[hd]>(.*)</t[hd]>", shown)
    assert [html.unescape(cell) for cell in cells] == [writing.unmarked(text.plain(words))] * 2
    assert html.unescape(re.findall(r"<p>(.*)</p>", shown)[0]) == f"model {' '.join(words.split())}"


@pytest.mark.parametrize("words", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "-", "＝1"])
def test_no_cell_of_a_csv_is_a_formula(words):
    sheet = writing.sheet_of("m", {words: [words, "a=1"], "error": ["-3.1%", -0.5]}, {"model": words})
    rows = list(csv.reader(io.StringIO(writing.as_csv(sheet).decode(), newline="")))
    guarded = f"'{words}"
    assert rows == [["model", guarded, "error"], [guarded, guarded, "-3.1%"], [guarded, "a=1", "-0.5"]]


def test_what_a_chart_shows_is_no_markdown():
    sheet = writing.sheet_of("m", {"model": ["**a** [b](c) `d`\ne"]}, {})
    assert sheet.columns == {"model": ["**a** [b](c) `d` e"]}
    assert "**a** [b](c) `d`\ne" in writing.as_csv(sheet).decode()


def test_latex_escapes_what_it_would_read_as_commands():
    written = writing.as_latex(SHEET).decode()
    assert r"a\textbar{}b \& 5 \% & 2 \\" in written
    assert r"\caption{model Llama\_3; card RTX 4090; verdict fits}" in written


@pytest.mark.parametrize(
    ("words", "written"),
    [
        pytest.param(r"\input{x}", r"\textbackslash{}input\{x\}", id="a command"),
        pytest.param("[1] *", "{[}1{]} {*}", id="what belongs to the end of the row before"),
        pytest.param("~^<$#_&%>|", r"\textasciitilde{}\textasciicircum{}\textless{}\$\#\_\&\%\textgreater{}\textbar{}"),
    ],
)
def test_latex_shows_names_as_they_are_in_cells_headings_and_the_caption(words, written):
    sheet = writing.sheet_of("m", {words: [words]}, {"model": words})
    lines = writing.as_latex(sheet).decode().splitlines()
    assert rf"\caption{{model {written}}}" in lines
    assert lines.count(rf"{written} \\") == 2


def test_the_picture_is_wide_enough_for_its_longest_row():
    def width(cell: str) -> int:
        return Image.open(io.BytesIO(writing.as_png(writing.sheet("p", {"a": [cell]}, {})))).width

    assert width("a much longer cell") > width("short") > 100
    titled = writing.sheet_of("p", {"a\nb": ["c\nd"]}, {"model": "e\nf"})
    assert Image.open(io.BytesIO(writing.as_png(titled))).width > 100


def test_every_kind_of_file_holds_every_row():
    table = writing.sheet("m", {"a": [f"row{number}" for number in range(30)]}, {})
    for kind in ("CSV", "Markdown", "LaTeX"):
        assert writing.KINDS[kind].written(table).decode().count("row") == 30
