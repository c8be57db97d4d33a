"""The runs page: history, one run, comparison, what can be done in each state."""

from specs import FinetunePlan
from trainer.contract import DataSource, State
from trainer.store import Store


def test_without_runs_the_page_says_what_to_do(page):
    assert "Plan page" in page("runs").info[0].value


def test_a_finished_run_shows_numbers_answers_and_its_own_plan(page, finished):
    run = finished([3.0, 2.0, 1.0], r=4)
    app = page("runs", run=run.id)
    assert [metric.value for metric in app.metric if metric.label == "Loss"] == ["1.000"]
    assert any("\\<b\\>Because" in text.value for text in app.markdown)
    assert any("+5.0%" in str(metric.delta) for metric in app.metric)
    table = app.table[0].value
    assert table.set_index("Setting")["Value"]["`r`"] == "4"


def test_an_unknown_run_in_the_address_shows_the_history(page, finished):
    finished([1.0])
    app = page("runs", run="20200101-000000-0000")
    assert app.dataframe


def test_two_runs_are_compared_by_what_differs(page, finished):
    first, second = finished([3.0, 2.0], r=4), finished([3.0, 1.0], r=8)
    app = page("runs", run=[first.id, second.id])
    assert list(app.table[0].value["Setting"]) == ["`r`"]


def test_a_waiting_run_can_be_stopped_and_then_resumed(page, runs_folder):
    store = Store(runs_folder)
    plan = FinetunePlan.for_method("qlora", "no/such-model")
    busy, waiting = (store.create(plan, DataSource(path="none.jsonl")) for _ in range(2))
    store.claim_next("cpu")
    app = page("runs", run=waiting.id)
    app.button(key="stop").click().run()
    assert not app.exception
    assert store.run(waiting.id).state is State.STOPPED
    assert app.button(key="resume")
    store.enter(busy.id, State.FAILED)


def test_the_view_is_kept_in_the_address(page, finished):
    run = finished([3.0, 2.0, 1.0])
    app = page("runs", run=run.id, smoothing="0.9", log="true")
    assert app.slider(key="smoothing").value == 0.9
    assert app.toggle(key="log").value is True
