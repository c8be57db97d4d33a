"""What a running run says of its end: from its own steps, with evaluations, checkpoints and answers."""

import pytest

from trainer.worker.loop.pace import Pace

FORECAST = {"seconds_per_step": 1.0, "parts": {"training": 100.0, "answering": 10.0, "saving": 1.0}}


def walked(steps, *, seconds=2.0, first=9.0, gap=0.5, pause=4.0, save_steps=10, forecast=FORECAST):
    """Return the pace of a run whose first step took longer, and that paused after every ``save_steps`` steps."""
    pace, now = Pace(forecast, save_steps), 0.0
    for step in range(steps):
        if step:
            now += pause if step % save_steps == 0 else gap
        pace.begin(step, now)
        now += seconds if step else first
        pace.end(now)
    return pace


@pytest.mark.parametrize("done", [0, 1, 3])
def test_from_the_first_steps_alone_nothing_is_said(done):
    """The first one takes several times as long as the others; one or two after it tell little."""
    assert walked(done).left(done, 100) is None


def test_a_run_of_few_steps_knows_at_its_last_one_what_is_left():
    assert walked(1).left(1, 1) == pytest.approx(90.0)


@pytest.mark.parametrize("done", [4, 9, 25, 60])
def test_after_four_steps_the_end_is_known_to_within_five_percent(done):
    """Of 100 steps of 2 s, 0.5 s between them, 4 s at each of the pauses; answers take twice the forecast, as steps."""
    rest = (100 - done) * 2.0 + sum(4.0 if step % 10 == 0 else 0.5 for step in range(done, 100)) + 20.0
    assert walked(done).left(done, 100) == pytest.approx(rest, rel=0.05)


def test_a_run_without_a_forecast_says_when_its_steps_end():
    assert walked(30, forecast={}).left(100, 100) == 0.0


def test_the_first_step_counts_for_itself():
    assert walked(6).parts()["first_step"] == 9.0
    assert walked(6).parts()["seconds_per_step"] == 2.0
