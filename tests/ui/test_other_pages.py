"""Compare, accuracy and the lessons."""

import pytest

from ui.lessons import LESSONS


@pytest.mark.parametrize("view", ["Side by side", "One training step", "Where the bytes are"])
def test_every_comparison_opens(page, view):
    app = page("compare", show=view)
    assert not app.error


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        pytest.param("per_device_train_batch_size", "max_length", id="the heat map"),
        pytest.param("r", "optim", id="ranks against optimizers"),
        pytest.param("method", "gradient_checkpointing", id="methods against checkpointing"),
    ],
)
def test_any_two_choices_are_compared(page, rows, columns):
    app = page("compare", rows=rows, columns=columns)
    assert app.table[0].value.columns[0] == rows


@pytest.mark.parametrize("lesson", list(LESSONS))
def test_every_lesson_shows_something_and_names_a_source(page, lesson):
    app = page("learn", lesson=lesson)
    assert not app.error
    words = " ".join([*app.caption.values, *app.markdown.values, *(str(table.value.to_dict()) for table in app.table)])
    assert "http" in words or "papers" in words
