"""Compare, accuracy and the lessons."""

import pytest

from ui.learn.lessons import LESSONS


@pytest.mark.parametrize("view", ["Side by side", "Batch and length", "One step", "Where the bytes are"])
def test_every_comparison_opens(page, view):
    app = page("compare", show=view)
    assert not app.error


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        pytest.param("method", "max_length", id="methods against lengths"),
        pytest.param("r", "optim", id="ranks against optimizers"),
        pytest.param("method", "gradient_checkpointing", id="methods against checkpointing"),
    ],
)
def test_any_two_settings_are_compared(page, rows, columns):
    app = page("compare", rows=rows, columns=columns)
    assert app.table[0].value.columns[0] == rows


def test_the_tensors_at_the_peak_are_listed(page):
    table = page("compare", show="One step").table[0].value
    assert set(table.columns) == {"Part", "Tensors", "Each", "Total"}
    assert "Weights" in set(table["Part"])


def test_models_of_all_sizes_say_how_many_devices_they_take(page):
    table = page("compare", show="Devices needed").table[0].value
    first, last = table.iloc[0], table.iloc[-1]
    assert "405B" in last["Model"]
    numbers = [int(cell.split("]")[0].strip("[").replace(",", "")) for cell in last[1:]]
    assert numbers == sorted(numbers, reverse=True)
    assert "num_gpus=1&" in first["H100 SXM5 80 GB"]


@pytest.mark.parametrize("lesson", list(LESSONS))
def test_every_lesson_shows_something_and_names_a_source(page, lesson):
    app = page("learn", lesson=lesson)
    assert not app.error
    words = " ".join([*app.caption.values, *app.markdown.values, *(str(table.value.to_dict()) for table in app.table)])
    assert "http" in words or "papers" in words
