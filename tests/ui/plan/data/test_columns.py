"""Uploads with columns of other names: a person says which is which, once."""

import io

import pytest

from specs import DataError
from trainer.data.examples import first_example
from ui.parts import examining
from ui.plan.data import columns_form, datasets
from ui.plan.data.datasets import Choice

FILE = b"left,right,year\nWhy is it dry?,The sun shines.,1999\nWhy is it wet?,It rains.,2000\n"
PAIRS = b"ask,good_answer,bad_answer\nWhy?,Since.,Dunno.\nHow?,Thus.,Dunno.\n"


@pytest.fixture
def label():
    return datasets.add(io.BytesIO(FILE), "mine.csv")


def agree(app):
    button(app, "Use these columns").click().run()
    assert not app.exception


def button(app, words):
    return next(found for found in app.button if found.label == words)


def shown(app):
    """Return the texts of the rows that the page shows, without their tags."""
    return [element.body for element in app.get("html") if "pre-wrap" in element.body]


def roles(label):
    return datasets.source_of(Choice(label=label)).columns


def test_columns_are_asked_for_where_no_layout_is_recognised_and_open_to_whoever_knows_better(page, label):
    known = datasets.add(io.BytesIO(b"prompt,completion\na,b\n"), "known.csv")
    assert datasets.columns_of(label).names == ("left", "right", "year")
    assert (datasets.columns_of(label).layout, datasets.columns_of(known).layout) == ("", "prompt and completion")
    for other in (datasets.DEMO, "gone"):
        assert datasets.columns_of(other) == datasets.Columns()
    assert [box.label for box in page(data=known).expander if "columns" in box.label] == ["Name the columns yourself"]
    assert not [box for box in page(data=label).expander if box.label == "Name the columns yourself"]


def test_a_file_is_refused_with_a_way_out_until_its_columns_are_named(page, label):
    app = page(data=label)
    assert len(app.error) == 1
    assert "Say which is which" in app.error[0].value
    app.selectbox(key=f"layout {label}").set_value("question + answer").run()
    assert button(app, "Use these columns").disabled
    app.selectbox(key=f"column {label} question").set_value("left").run()
    app.selectbox(key=f"column {label} answer").set_value("right").run()
    assert app.error
    agree(app)
    assert not app.error
    assert roles(label) == {"question": "left", "answer": "right"}
    assert not app.button(key="start").disabled
    assert [box.label for box in app.expander if "columns" in box.label] == ["You named the columns"]
    assert not [found for found in app.button if found.label == "Use these columns"]
    assert not any("not recognised" in text.value for text in app.markdown)


def test_likely_columns_are_chosen_already_with_their_reasons_but_the_person_agrees(page):
    label = datasets.add(io.BytesIO(b"id,my question,my answer\n1,Why?,So.\n"), "named.csv")
    app = page(data=label)
    assert app.selectbox(key=f"column {label} prompt").value == "my question"
    assert any("its name says question" in caption.value for caption in app.caption)
    assert app.error
    agree(app)
    assert not app.error
    assert roles(label) == {"prompt": "my question", "completion": "my answer"}


def test_the_first_row_is_shown_as_it_would_be_learned_before_anything_is_accepted(page):
    label = datasets.add(io.BytesIO(b"my question,my answer\nWhy?,So.\n"), "named.csv")
    app = page(data=label)
    (row,) = shown(app)
    assert row.index("only read") < row.index("Why?") < row.index("[learned]") < row.index("So.")
    assert roles(label) == {}
    app.selectbox(key=f"column {label} completion").set_value("my question").run()
    app.selectbox(key=f"column {label} prompt").set_value("my answer").run()
    (row,) = shown(app)
    assert row.index("So.") < row.index("[learned]") < row.index("Why?")


def test_a_worse_answer_is_proposed_as_the_rejected_one_alone_and_insisting_warns(page):
    label = datasets.add(io.BytesIO(PAIRS), "pairs.csv")
    app = page(data=label)
    chosen = {role: app.selectbox(key=f"column {label} {role}").value for role in ("prompt", "chosen", "rejected")}
    assert chosen == {"prompt": "ask", "chosen": "good_answer", "rejected": "bad_answer"}
    assert any("never proposed" in warning.value for warning in app.warning)
    app.selectbox(key=f"layout {label}").set_value("prompt + completion").run()
    assert app.selectbox(key=f"column {label} completion").value is None
    app.selectbox(key=f"column {label} completion").set_value("bad_answer").run()
    assert any("would be learned as a good one" in warning.value for warning in app.warning)
    agree(app)
    assert roles(label) == {"prompt": "ask", "completion": "bad_answer"}


def test_data_for_no_run_is_trained_by_naming_its_columns_and_forgotten_again(page):
    label = datasets.add(io.BytesIO(b"prompt,completion,label\nQ,Nice,1\nQ,Bad,0\nQ,Fine,1\n"), "marks.csv")
    app = page(data=label)
    app.session_state[columns_form.BOX] = True
    app.run()
    assert app.button(key="start").disabled
    assert any("answers marked good or bad" in caption.value for caption in app.caption)
    app.selectbox(key=f"layout {label}").set_value("text").run()
    app.selectbox(key=f"column {label} text").set_value("completion").run()
    agree(app)
    assert not app.button(key="start").disabled
    button(app, "Forget these columns").click().run()
    assert app.button(key="start").disabled


def test_assigned_roles_are_remembered_and_a_run_trains_on_them(page, label):
    datasets.set_column_roles(label, {"prompt": "left", "completion": "right"})
    app = page(data=label)
    assert not app.error
    app.session_state[columns_form.BOX] = True
    app.run()
    assert app.selectbox(key=f"column {label} completion").value == "right"
    example = first_example(datasets.source_of(Choice(label=label)))
    assert [turn.content for turn in example.turns] == ["Why is it dry?", "The sun shines."]


def test_a_column_that_is_not_there_is_refused_in_a_sentence(label):
    datasets.set_column_roles(label, {"prompt": "left", "completion": "gone"})
    with pytest.raises(DataError):
        datasets.find(Choice(label=label), examining.reader_for("7B"))
