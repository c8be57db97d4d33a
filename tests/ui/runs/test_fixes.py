"""What the page offers after a run, and links that change one thing."""

import dataclasses
import json
import math

import pytest

from specs import PlanError
from trainer.data.source import DataSource
from trainer.runs.contract import Metric, Phase, State
from ui.parts import links, text, writing
from ui.runs.facts import quantities, remedies, run_data, standing, tables, titles


def test_a_link_into_the_plan_keeps_what_was_chosen():
    link = links.to_plan("**LoRA**", {"model": "a b", "run": ["1", "2"]}, method="QLoRA (4-bit)")
    assert link == "[**LoRA**](/?model=a+b&run=1&run=2&method=QLoRA+%284-bit%29)"


def test_new_points_are_read_on_and_late_evaluations_are_seen(finished):
    run = finished([3.0, 2.0, 1.0])
    assert [point.loss for point in run_data.metrics(run)] == [3.0, 2.0, 1.0]
    store = run_data.store()
    store.add_metric(run.id, Metric(step=3, eval_loss=0.5))
    store.add_metric(run.id, Metric(step=4, loss=0.9))
    points = run_data.metrics(store.run(run.id))
    assert (points[2].loss, points[2].eval_loss, points[3].loss) == (1.0, 0.5, 0.9)


def failed(run, kind):
    """The run as if it had ended so."""
    return dataclasses.replace(run, state=State.FAILED, error_kind=kind, error="x")


def test_a_run_out_of_memory_has_fixes_that_save_memory(finished):
    run = failed(finished([1.0], max_length=1024, per_device_train_batch_size=8), remedies.OUT_OF_MEMORY)
    fixes = remedies.fixes(run, ())
    assert len({fix.name for fix in fixes}) == len(fixes) > 1
    assert all("iB" in fix.words and fix.plan != run.plan for fix in fixes)
    assert remedies.shortage(run) == "2.0 GiB predicted, 2.1 GiB in use at the end"


def on(run, path, rows):
    """The run as if it had these rows."""
    path.write_text("\n".join(map(json.dumps, rows)))
    return dataclasses.replace(run, data=DataSource(path=str(path)))


def test_a_fix_counts_the_rows_that_it_truncates(finished, tmp_path):
    run = failed(finished([1.0], max_length=1024, per_device_train_batch_size=8), remedies.OUT_OF_MEMORY)
    rows = [{"prompt": "Hi?", "completion": "word " * (900 if number < 3 else 20)} for number in range(40)]
    (shorter,) = (fix for fix in remedies.fixes(on(run, tmp_path / "a.jsonl", rows), ()) if fix.name == "max_length")
    assert "3 of 40 rows are truncated" in shorter.words


def test_the_prediction_of_a_retry_counts_both_answers_of_a_pair(finished, tmp_path):
    run, answer = finished([1.0], max_length=512, per_device_train_batch_size=2), "word " * 600
    answers = on(run, tmp_path / "a.jsonl", [{"prompt": "Hi?", "completion": answer}] * 3)
    pairs = on(run, tmp_path / "b.jsonl", [{"prompt": "Hi?", "chosen": answer, "rejected": "No."}] * 3)
    twice = dataclasses.replace(run.plan, per_device_train_batch_size=4)
    # The memory that is free on a CPU is another one from moment to moment.
    found = [remedies.predicted(pairs, run.plan), remedies.predicted(answers, twice)]
    alike = [dataclasses.replace(one, capacity_bytes=0) for one in found]
    assert alike[0] == alike[1]
    assert remedies.predicted(pairs, run.plan).used_bytes > remedies.predicted(answers, run.plan).used_bytes


def test_a_model_missing_from_the_catalog_has_no_fixes(finished):
    run = failed(finished([1.0]), remedies.OUT_OF_MEMORY)
    run = dataclasses.replace(run, plan=dataclasses.replace(run.plan, model_name_or_path="nobody/knows-this"))
    assert remedies.fixes(run, ()) == []


def test_a_loss_that_is_not_finite_and_a_flat_one_have_their_fixes(finished):
    run = finished([2.0] * 80, learning_rate=2e-4)
    (flat,) = remedies.fixes(run, run_data.metrics(run))
    (lost,) = remedies.fixes(failed(run, remedies.NOT_FINITE), run_data.metrics(run))
    assert (flat.plan.learning_rate, lost.plan.learning_rate) == (6e-4, 6.7e-5)
    assert flat.words.startswith("Learning rate too low: ")


def test_a_retry_that_cannot_be_trained_here_is_refused_before_it_exists(finished):
    run = finished([1.0])
    with pytest.raises(PlanError, match="target_modules"):
        remedies.retry(run, dataclasses.replace(run.plan, target_modules=("q_prroj",)))
    assert len(run_data.store().runs()) == 1


def test_a_retry_carries_the_prediction_for_its_own_plan(finished):
    run = finished([1.0])
    run_data.store().create(run.plan, run.data)
    run_data.store().claim_next("cpu")  # holds the device, so that no worker starts
    plan = dataclasses.replace(run.plan, max_length=run.plan.max_length // 2)
    again = run_data.store().run(remedies.retry(run, plan))
    assert (again.place.parent_id, again.state) == (run.id, State.QUEUED)
    assert again.estimate["used_bytes"] not in {0, run.estimate["used_bytes"]}
    assert tables.changes(run, again) == [f"max_length {run.plan.max_length} → {plan.max_length}"]
    assert remedies.retry(run, plan) == again.id


def test_metrics_leave_as_csv(finished):
    assert run_data.metrics_file(finished([3.0, 2.0])).splitlines()[0].startswith("step,")


def test_the_table_of_runs_leaves_as_csv_without_pictures(finished):
    run = finished([3.0, 2.0], r=4)
    lines = writing.as_csv(tables.sheet("runs", [run])).decode().splitlines()
    assert lines[0] == "Run,Name,Note,Date,State,Model,Method,Data,Last loss,Steps,Plan,Predicted,Peak,Time"
    assert lines[1].startswith(f"{run.id},,,20")
    assert ",finished,SmolLM2" in lines[1]
    assert "r 4, " in lines[1]


def test_perplexity_and_gib_are_derived_where_they_are_drawn(finished):
    run = finished([0.0, 1.0])
    run_data.store().add_metric(run.id, Metric(step=2, eval_loss=1.0))
    points = run_data.metrics(run)
    assert quantities.curve(points, "perplexity", "p").values == [math.e], "never of the loss of a training batch"
    assert quantities.curve(points, "memory_bytes", "m").values == [1.0, 1.0]
    assert [found.name for found in quantities.curves(points, "loss")] == ["loss", "eval loss"]


@pytest.mark.parametrize(
    ("silent_seconds", "words"),
    [
        pytest.param(1, "updated just now", id="on time"),
        pytest.param(70, "updated 1 min 10 s ago", id="silent"),
        pytest.param(None, "not started yet", id="no heartbeat"),
    ],
)
def test_the_last_update_is_told_in_words(finished, silent_seconds, words):
    beaten = None if silent_seconds is None else 1000.0 - silent_seconds
    run = dataclasses.replace(finished([1.0]), heartbeat_at=beaten)
    assert standing.last_update(run, now=1000.0) == words


@pytest.mark.parametrize(
    ("state", "phase", "speed", "left"),
    [
        pytest.param(State.RUNNING, Phase.TRAINING, "50", "1 min 30 s", id="training"),
        pytest.param(State.QUEUED, Phase.WAITING, "–", "–", id="waiting again"),
        pytest.param(State.RUNNING, Phase.EVALUATING, "–", "–", id="answering"),
        pytest.param(State.STOPPED, Phase.DONE, "67", None, id="stopped"),
    ],
)
def test_speed_and_time_left_are_told_only_while_they_are_true(finished, state, phase, speed, left):
    run, store = finished([3.0]), run_data.store()
    for step, tokens in ((2, 100.0), (3, 50.0)):
        store.add_metric(run.id, Metric(step=step, loss=1.0, tokens_per_second=tokens, eta_seconds=90.0))
    now = dataclasses.replace(run, state=state, phase=phase)
    told = {label: value for label, value, _ in standing.figures(now, run_data.metrics(run))}
    label = "Mean tokens/s" if now.is_over else "Tokens/s"
    assert (told[label], told.get("Time left")) == (speed, left)


def test_a_run_says_on_what_it_learned(finished):
    run = finished([1.0])
    run_data.store().add_details(run.id, learned=1077)
    assert titles.about_data(run_data.store().run(run.id)) == "Data: data.jsonl, 1,077 rows to learn"
    assert tables.history([run])["Data"] == ["data.jsonl"]


def test_the_phase_after_training_is_called_what_it_is(finished):
    run = dataclasses.replace(finished([1.0]), state=State.RUNNING, phase=Phase.EVALUATING, total_steps=1)
    assert standing.activity(run) == "answering the questions, step 1 of 1"


def test_a_run_called_like_the_column_of_settings_takes_it_from_nobody_and_no_name_is_a_formula(finished):
    runs = [finished([1.0], r=4), finished([1.0], r=8)]
    for run, name in zip(runs, ("Setting", "=1+1"), strict=True):
        run_data.store().describe(run.id, name=name)
    runs = [run_data.store().run(run.id) for run in runs]
    found = tables.differences(runs)
    assert found == {"Setting": ["`r`"], text.plain(runs[0].id): ["4"], r"=1\+1": ["8"]}
    assert ",'=1+1," in writing.as_csv(tables.sheet("runs", runs)).decode()
