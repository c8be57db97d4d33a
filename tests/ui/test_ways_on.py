"""What the page offers after a run, and links that change one thing."""

from trainer.contract import Metric
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


def test_a_run_out_of_memory_has_ways_on_that_save_memory(finished):
    ways = mending.ways_on(finished([1.0], max_length=1024, per_device_train_batch_size=8))
    assert ways
    assert all(lever.saved_bytes > 0 for lever in ways)


def test_a_model_that_the_catalog_lacks_has_no_ways_on(finished):
    run = finished([1.0])
    object.__setattr__(run.plan, "model_name_or_path", "nobody/knows-this")
    assert mending.ways_on(run) == ()


def test_metrics_leave_as_csv(finished):
    assert running.metrics_file(finished([3.0, 2.0])).splitlines()[0].startswith("step,")
