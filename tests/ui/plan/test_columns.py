"""Uploads with columns of other names: a person says which is which, once."""

import io

import pytest

from specs import DataError
from trainer.data.layouts import first_example
from ui.plan import datasets

FILE = b"left,right,year\nWhy is it dry?,The sun shines.,1999\nWhy is it wet?,It rains.,2000\n"


@pytest.fixture
def label():
    return datasets.add(io.BytesIO(FILE), "mine.csv")


def agree(app):
    next(button for button in app.button if button.label == "Use these columns").click().run()
    assert not app.exception


def test_columns_are_asked_for_only_where_no_layout_is_recognised(page, label):
    known = datasets.add(io.BytesIO(b"prompt,completion\na,b\n"), "known.csv")
    assert datasets.unrecognised_columns(label)[0] == ("left", "right", "year")
    for other in (known, datasets.DEMO, "gone"):
        assert datasets.unrecognised_columns(other) == ((), {})
    assert not [box for box in page(data=known).selectbox if box.label == "Layout"]


def test_a_file_is_refused_with_a_way_out_until_its_columns_are_named(page, label):
    app = page(data=label)
    assert len(app.error) == 1
    assert "Say which is which" in app.error[0].value
    app.selectbox(key=f"layout {label}").set_value("question + answer").run()
    app.selectbox(key=f"column {label} question").set_value("left").run()
    app.selectbox(key=f"column {label} answer").set_value("right").run()
    assert app.error
    agree(app)
    assert not app.error
    assert datasets.find(label).columns == {"question": "left", "answer": "right"}
    assert not app.button(key="start").disabled


def test_likely_columns_are_chosen_already_but_the_person_agrees(page):
    label = datasets.add(io.BytesIO(b"id,my question,my answer\n1,Why?,So.\n"), "named.csv")
    app = page(data=label)
    assert app.selectbox(key=f"column {label} prompt").value == "my question"
    assert app.error
    agree(app)
    assert not app.error
    assert datasets.find(label).columns == {"prompt": "my question", "completion": "my answer"}


def test_assigned_roles_are_remembered_and_a_run_trains_on_them(page, label):
    datasets.set_column_roles(label, {"prompt": "left", "completion": "right"})
    app = page(data=label)
    assert not app.error
    assert app.selectbox(key=f"column {label} completion").value == "right"
    example = first_example(datasets.find(label).source)
    assert [turn.content for turn in example.turns] == ["Why is it dry?", "The sun shines."]


def test_a_column_that_is_not_there_is_refused_in_a_sentence(label):
    datasets.set_column_roles(label, {"prompt": "left", "completion": "gone"})
    with pytest.raises(DataError):
        datasets.find(label)
