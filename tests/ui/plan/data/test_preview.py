"""Rows as the model reads them, by hand: a tokenizer that takes each letter as one token."""

import pytest

from trainer.data.doctor import Preview
from trainer.data.readers import Reader
from ui.plan.data import preview


class Letters:
    def __call__(self, text, **_):
        return {"input_ids": [*range(len(text))], "offset_mapping": [(at, at + 1) for at in range(len(text))]}


READER = Reader(tokenizer=Letters(), template="", counter="letters", is_own=True)
ROW = Preview(row=1, pieces=(("ask ", False), ("answer", True)))


@pytest.mark.parametrize(
    ("max_length", "whole", "pieces", "numbers", "facts"),
    [
        pytest.param(
            None, False, [("ask ", "read"), ("answer", "learned")], (10, 6, 0), "10 tokens, 60% learned", id="all"
        ),
        pytest.param(
            7,
            False,
            [("ask ", "read"), ("ans", "learned"), ("wer", "beyond")],
            (10, 3, 3),
            "10 tokens, 30% learned, 3 truncated",
            id="an answer is truncated",
        ),
        pytest.param(
            2,
            False,
            [("as", "read"), ("k ", "beyond"), ("answer", "beyond")],
            (10, 0, 8),
            "10 tokens, 0% learned, 8 truncated",
            id="nothing is learned",
        ),
        pytest.param(
            10, True, [("ask ", "learned"), ("answer", "learned")], (10, 10, 0), "10 tokens, 100% learned", id="whole"
        ),
    ],
)
def test_a_row_says_what_is_learned_and_what_is_truncated(max_length, whole, pieces, numbers, facts):
    (side,) = preview.sides(ROW, READER, max_length=max_length, whole=whole)
    assert list(side.pieces) == pieces
    assert (side.tokens, side.learned, side.beyond) == numbers
    assert side.facts == facts


def test_both_sides_of_a_pair_are_shown():
    row = Preview(row=1, pieces=(("ask ", False), ("yes", True)), rejected=(("ask ", False), ("no", True)))
    better, worse = preview.sides(row, READER, max_length=None, whole=False)
    assert (better.title, better.learned) == ("Better answer", 3)
    assert (worse.title, worse.learned) == ("Worse answer", 2)


def test_every_colour_has_its_word_for_those_who_do_not_see_it_and_text_is_no_markup():
    row = Preview(row=1, pieces=(("<b>ask</b>", False), ("answer", True)))
    (side,) = preview.sides(row, READER, max_length=12, whole=False)
    drawn = preview.html(side)
    places = [drawn.index(words) for words in ("[only read]", "&lt;b&gt;ask", "[learned]", "an", "[truncated]", "swer")]
    assert places[0] < places[1] < places[2]
    assert places[2] < places[4] < places[5]
    assert "<b>" not in drawn


def test_a_text_of_megabytes_is_shown_in_part_and_says_so():
    row = Preview(row=1, pieces=(("a" * preview.MOST_CHARACTERS, False), ("b" * 1_000, True)))
    (side,) = preview.sides(row, READER, max_length=None, whole=False)
    drawn = preview.html(side)
    assert len(drawn) < preview.MOST_CHARACTERS + 1_000
    assert "… 1,000 more characters" in drawn
