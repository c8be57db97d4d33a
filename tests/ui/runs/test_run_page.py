"""A run's page: one action at a time, its phases, and figures only of what they are true of."""

import dataclasses
import re

import pytest

from specs import FinetunePlan
from trainer.runs.contract import Metric, Phase, State
from trainer.runs.storage import order
from trainer.runs.store import LOG, Store
from ui.parts import text
from ui.runs.facts import memory, phases, plan_fields, quantities, run_data, standing, tables

ACTIONS = {"stop", "resume", "again"}


def at(run, state, phase=Phase.DONE, **changes):
    return dataclasses.replace(run, state=state, phase=phase, **changes)


def actions(app):
    return {button.key for button in app.button} & ACTIONS


def test_a_page_has_one_action_in_every_state(page, finished, runs_folder):
    run, store = finished([2.0, 1.0]), Store(runs_folder)
    assert actions(page("runs", run=run.id)) == {"again"}
    store.extend(run.id, 5)
    app = page("runs", run=run.id)
    assert actions(app) == {"stop"}
    assert app.button(key="stop").label == "Stop"
    store.claim_next("cpu")
    store.start_training(run.id)
    assert app.run().button(key="stop").label == "Stop and save"
    store.request_stop(run.id)
    app.run()
    assert actions(app) == {"stop"}
    assert app.button(key="stop").disabled
    store.set_phase(run.id, Phase.EVALUATING)
    assert app.run().button(key="stop").label == "Skip the rest"
    assert not app.button(key="stop").disabled
    store.enter(run.id, State.STOPPED, phase=Phase.DONE)
    assert actions(app.run()) == {"resume"}


@pytest.mark.parametrize(
    ("state", "phase", "current", "passed"),
    [
        pytest.param(State.QUEUED, Phase.WAITING, "queued", 0, id="waiting"),
        pytest.param(State.QUEUED, Phase.DONE, "queued", 0, id="waiting to go on"),
        pytest.param(State.PREPARING, Phase.DONE, "loading", 1, id="a worker that was just started"),
        pytest.param(State.RUNNING, Phase.TRAINING, "training 7/12", 3, id="training"),
        pytest.param(State.STOPPING, Phase.EVALUATING, "answering", 5, id="answering"),
        pytest.param(State.FINISHED, Phase.DONE, "done", 6, id="finished"),
        pytest.param(State.STOPPED, Phase.DONE, "stopped", 4, id="stopped while it trained"),
        pytest.param(State.FAILED, Phase.DONE, "failed", 4, id="failed while it trained"),
    ],
)
def test_the_phases_say_where_a_run_is_and_what_is_behind_it(finished, state, phase, current, passed):
    strip = phases.strip(at(finished([1.0]), state, phase, step=7, total_steps=12))
    assert re.search(r"●&nbsp;([^<]+)", strip)[1] == current
    assert strip.count("✓") == passed


def test_no_time_is_left_once_the_last_step_is_done(finished):
    run = finished([1.0])
    run_data.store().add_metric(run.id, Metric(step=1, eta_seconds=0.0))
    now = at(run, State.RUNNING, Phase.TRAINING, total_steps=1)
    assert dict(cell[:2] for cell in standing.figures(now, run_data.metrics(run)))["Time left"] == "–"


@pytest.mark.parametrize(("of_tokens", "offered"), [(True, True), (False, False), (None, False)])
def test_a_perplexity_is_of_tokens_that_were_held_out(finished, of_tokens, offered):
    run, store = finished([2.0, 1.0]), run_data.store()
    store.add_metric(run.id, Metric(step=2, eval_loss=0.0))
    if of_tokens is not None:
        store.add_details(run.id, loss_of_tokens=of_tokens)
    run, points = store.run(run.id), run_data.metrics(run)
    assert ("perplexity" in quantities.drawable(run, points)) == offered
    told = dict(cell[:2] for cell in standing.figures(run, points))
    assert told.get("Perplexity") == ("1" if offered else None)


def test_the_small_charts_are_of_what_was_measured_and_compare_the_memory(finished):
    run = finished([2.0, 1.0])
    run_data.store().add_metric(run.id, Metric(step=2, temperature_celsius=61.0, power_watts=250.0))
    drawn = {chart.title: chart for chart in quantities.small(run, run_data.metrics(run))}
    assert list(drawn) == ["Loss", "Learning rate", "Memory in use", "Card, °C", "Card, W"]
    assert drawn["Memory in use"].line == (2.0, "predicted peak 2.0 GiB")
    assert (drawn["Card, °C"].last, drawn["Card, W"].last) == ("61", "250")


def test_the_peak_is_one_number_in_the_list_beside_the_curve_and_in_files(finished):
    run = finished([2.0, 1.0])
    points = run_data.metrics(run)
    shown, _ = memory.peak_against_predicted(run)
    drawn = {chart.title: chart.last for chart in quantities.small(run, points)}
    assert drawn["Memory in use"] == f"peak {shown}"
    assert tables.history([run])["Peak"] == [shown]
    assert tables.numbers_sheet(run, points).columns["Peak"] == [shown]


def test_curves_leave_as_one_row_for_each_point(finished):
    run = finished([2.0, 1.0])
    columns = tables.curve_table(quantities.curves(run_data.metrics(run), "loss"), "loss")
    assert columns == {"run": ["loss", "loss"], "step": [1, 2], "loss": [2.0, 1.0]}


def test_the_log_hides_progress_bars(finished):
    run = finished([1.0])
    bars = " 10%|#   | 1/10 [00:01<00:09, 1.0it/s]\r 20%|##  | 2/10 [00:02<00:08, 1.0it/s]\n12it [00:03, 4.0it/s]\n"
    (run_data.store().run_folder(run.id) / LOG).write_text(f"loading\n{bars}100% of the rows\nloss 1|2\n")
    assert run_data.log_tail(run) == "loading\n100% of the rows\nloss 1|2\n"


@pytest.mark.parametrize(
    ("values", "shown", "hidden"),
    [
        pytest.param({"method": "full"}, {"optim"}, {"r", "lora_alpha", "bnb_4bit_quant_type"}, id="full"),
        pytest.param({"method": "qlora"}, {"r", "bnb_4bit_quant_type"}, {"init_r", "num_virtual_tokens"}, id="qlora"),
        pytest.param({"method": "lora", "max_steps": 5}, {"max_steps"}, {"num_train_epochs"}, id="a number of steps"),
        pytest.param({"method": "ia3"}, {"target_modules"}, {"r", "use_dora", "sharding"}, id="IA3 on one device"),
    ],
)
def test_the_plan_of_a_run_shows_what_has_an_effect(values, shown, hidden):
    values = dict(values)
    names = set(plan_fields.used(FinetunePlan.for_method(values.pop("method"), "m", **values)))
    assert shown <= names
    assert not hidden & names


def test_the_rows_behind_a_spike_are_named_with_their_beginnings(page, finished):
    run, store = finished([2.0] * 24), run_data.store()
    for step in range(1, 25):
        store.add_metric(run.id, Metric(step=step, grad_norm=90.0 if step == 20 else 1.0))
    order.note(store.run_folder(run.id), 1, [[1]] * 24, kept_steps=0)
    (told,) = [box.value for box in page("runs", run=run.id).warning if "Exploding gradients" in box.value]
    assert text.plain("Row 1: Hi? Hello.") in told
