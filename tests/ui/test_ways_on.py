"""What the page offers after a run, and links that change one thing."""

import dataclasses
import math

from trainer.contract import Metric, State
from ui import links, mending, running


def test_a_link_into_the_plan_keeps_what_was_chosen():
    link = links.to_plan("**LoRA**", {"model": "a b", "run": ["1", "2"]}, method="QLoRA (4-bit)")
    assert link == "[**LoRA**](/?model=a+b&run=1&run=2&method=QLoRA+%284-bit%29)"


def test_new_points_are_read_on_and_late_evaluations_are_seen(finished):
    run = finished([3.0, 2.0, 1.0])
    assert [point.loss for point in running.metrics(run)] == [3.0, 2.0, 1.0]
    store = running.store()
    store.add_metric(run.id, Metric(step=3, eval_loss=0.5))
    store.add_metric(run.id, Metric(step=4, loss=0.9))
    points = running.metrics(store.run(run.id))
    assert (points[2].loss, points[2].eval_loss, points[3].loss) == (1.0, 0.5, 0.9)


def failed(run, kind):
    """The run as if it had ended so."""
    return dataclasses.replace(run, state=State.FAILED, error_kind=kind, error="x")


def test_a_run_out_of_memory_has_ways_on_that_save_memory(finished):
    run = failed(finished([1.0], max_length=1024, per_device_train_batch_size=8), mending.OUT_OF_MEMORY)
    ways = mending.ways_on(run, ())
    assert len({way.name for way in ways}) == len(ways) > 1
    assert all("iB" in way.words and way.plan != run.plan for way in ways)
    assert mending.shortage(run) == "predicted 2.0 GiB, held when it ended 2.1 GiB"


def test_a_model_that_the_catalog_lacks_has_no_ways_on(finished):
    run = failed(finished([1.0]), mending.OUT_OF_MEMORY)
    run = dataclasses.replace(run, plan=dataclasses.replace(run.plan, model_name_or_path="nobody/knows-this"))
    assert mending.ways_on(run, ()) == []


def test_a_lost_loss_and_a_flat_one_have_their_remedies(finished):
    run = finished([2.0] * 80, learning_rate=2e-4)
    (flat,) = mending.ways_on(run, running.metrics(run))
    (lost,) = mending.ways_on(failed(run, mending.NOT_FINITE), running.metrics(run))
    assert (flat.plan.learning_rate, lost.plan.learning_rate) == (6e-4, 6.7e-5)
    assert "learning rate too low" in flat.words


def test_a_retry_carries_the_prediction_for_its_own_plan(finished):
    run = finished([1.0])
    running.store().create(run.plan, run.data)
    running.store().claim_next("cpu")  # holds the device, so that no worker starts
    plan = dataclasses.replace(run.plan, max_length=run.plan.max_length // 2)
    again = running.store().run(mending.retry(run, plan))
    assert (again.place.parent_id, again.state) == (run.id, State.QUEUED)
    assert again.estimate["used_bytes"] not in {0, run.estimate["used_bytes"]}
    assert running.changes(run, again) == [f"max_length {run.plan.max_length} → {plan.max_length}"]
    assert mending.retry(run, plan) == again.id


def test_metrics_leave_as_csv(finished):
    assert running.metrics_file(finished([3.0, 2.0])).splitlines()[0].startswith("step,")


def test_the_table_of_runs_leaves_as_csv_without_pictures(finished):
    run = finished([3.0, 2.0], r=4)
    lines = running.table_file(running.history([run])).splitlines()
    assert lines[0] == "Run,State,Model,Method,Last loss,Steps,Plan,Predicted,Peak,Time"
    assert lines[1].startswith(f"{run.id},finished,")
    assert "r 4, " in lines[1]


def test_perplexity_and_gib_are_derived_where_they_are_drawn(finished):
    points = running.metrics(finished([0.0, 1.0]))
    assert running.curve(points, "perplexity", "p").values == [1.0, math.e]
    assert running.curve(points, "memory_bytes", "m").values == [1.0, 1.0]
    assert [found.name for found in running.curves(points, "loss")] == ["loss"]
