"""The Accuracy page shows time as it shows memory: published runs, and runs on this machine."""

import dataclasses

from estimator.accuracy.timing import description
from estimator.duration.published import ERROR_LEFT_OUT, ERROR_WITH_RUNS
from trainer.runs.store import Store
from ui.accuracy import timing


def test_published_runs_are_shown_with_their_time_and_the_error_of_the_method(page):
    app = page("accuracy", proof="Time")
    told = " ".join(block.value for block in app.markdown)
    assert all(f"{error:.0%}" in told.replace(" %", "%") for error in (ERROR_WITH_RUNS, ERROR_LEFT_OUT))
    assert len(timing.runs()) == 49
    assert description(timing.runs()[0]) == "qwen-1.8b, lora, 1 x 256 tokens"


def test_a_run_on_this_machine_is_shown_beside_its_forecast(page, runs_folder, finished):
    told = page("accuracy", proof="Time")
    assert any("timed yet" in caption.value for caption in told.caption)
    store, run = Store(runs_folder), finished([2.0, 1.0])
    store.add_measured(run.id, time={"seconds_per_step": 2.0})
    with_forecast = dataclasses.replace(store.run(run.id), estimate={"time": {"seconds_per_step": 1.8}})
    assert timing.pair(with_forecast) == (1.8, 2.0)
    assert timing.pair(store.run(run.id)) is None, "a run without a forecast"
