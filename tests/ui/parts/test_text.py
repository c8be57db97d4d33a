"""Words for values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ui.parts import text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0, "0 s"), (0.4, "under 1 s"), (5, "5 s"), (59.4, "59 s"), (59.7, "1 min 0 s"), (80, "1 min 20 s")),
        *((3_599.4, "59 min 59 s"), (3_599.7, "1 h 0 min"), (4_800, "1 h 20 min"), (4_850, "1 h 21 min")),
        *((86_369, "23 h 59 min"), (86_394, "1 d 0 h"), (100_000, "1 d 4 h"), (float("inf"), "unknown")),
    ],
)
def test_a_duration_has_two_units(seconds, words):
    assert text.duration(seconds) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [(999, "999"), (135e6, "135 M"), (8.03e9, "8.03 B"), (2e12, "2 T"), (999_900, "1 M"), (1e16, "10,000 T")],
)
def test_a_count_has_three_digits(number, words):
    assert text.count(number) == words


@pytest.mark.parametrize(
    ("setting", "words"),
    [(True, "yes"), (None, "none"), (2e-4, "2e-4"), (0.05, "0.05"), (("a", "b"), "a, b"), (16, "16"), (0.0, "0")],
)
def test_a_setting_is_shown_as_people_write_it(setting, words):
    assert text.value(setting) == words


@given(st.text())
def test_escaping_leaves_no_live_markdown(words):
    shown = text.plain(words)
    unescaped = shown
    for sign in r"\`*_{}[]()#+-.!|<>~$:&":
        unescaped = unescaped.replace(f"\\{sign}", "")
    assert not set(unescaped) & set("`*_[]<>$")


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        pytest.param(1.7, 1.9, "1.7 to 1.9 GiB", id="one unit is named once"),
        pytest.param(0.5, 1.5, "512 MiB to 1.5 GiB", id="two units"),
    ],
)
def test_a_range_of_sizes_names_its_units(low, high, words):
    assert text.size_range(int(low * 2**30), int(high * 2**30)).replace("\N{NO-BREAK SPACE}", " ") == words
