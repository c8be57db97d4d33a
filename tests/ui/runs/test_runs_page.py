"""The runs page: history, one run, comparison, what can be done in each state."""

from specs import FinetunePlan
from trainer.data.source import DataSource
from trainer.runs import combinations
from trainer.runs.contract import State
from trainer.runs.export import RESULT
from trainer.runs.store import Store


def test_without_runs_the_page_says_what_to_do(page):
    assert "Plan page" in page("runs").info[0].value


def test_a_finished_run_shows_numbers_answers_and_its_own_plan(page, finished):
    run = finished([3.0, 2.0, 1.0], r=4)
    app = page("runs", run=run.id)
    assert [metric.value for metric in app.metric if metric.label == "Loss"] == ["1.000"]
    assert any("\\<b\\>Because" in text.value for text in app.markdown)
    assert any("-4.8%" in str(metric.delta) for metric in app.metric)
    table = app.table[0].value
    assert table.set_index("Setting")["Value"]["`r`"] == "4"


def test_an_unknown_run_in_the_address_shows_the_history(page, finished):
    run = finished([1.0])
    app = page("runs", run="20200101-000000-0000")
    assert app.button(key=f"open {run.id}").label.startswith("SmolLM2")


def test_two_runs_are_compared_by_what_differs(page, finished):
    first, second = finished([3.0, 2.0], r=4), finished([3.0, 1.0], r=8)
    app = page("runs", run=[first.id, second.id])
    assert list(app.table[0].value["Setting"]) == ["`r`"]


def test_a_waiting_run_can_be_stopped_and_is_not_resumed_without_its_data(page, runs_folder):
    store = Store(runs_folder)
    plan = FinetunePlan.for_method("qlora", "no/such-model")
    busy, waiting = (store.create(plan, DataSource(path="none.jsonl")) for _ in range(2))
    store.claim_next("cpu")
    app = page("runs", run=waiting.id)
    app.button(key="stop").click().run()
    assert not app.exception
    assert store.run(waiting.id).state is State.STOPPED
    for button in ("resume", "extend"):
        app.button(key=button).click().run()
        assert [error.value.replace("\\", "") for error in app.error] == [
            "none.jsonl: is not a file. Put it back, or start a new run with other data."
        ]
    assert store.run(waiting.id).state is State.STOPPED
    store.enter(busy.id, State.FAILED)


def test_the_view_is_kept_in_the_address(page, finished):
    run = finished([3.0, 2.0, 1.0])
    app = page("runs", run=run.id, smoothing="0.9", log="true")
    assert app.slider(key="smoothing").value == 0.9
    assert app.toggle(key="log").value is True


def test_what_the_curves_show_is_said_with_rule_and_remedy(page, finished):
    run = finished([2.0] * 80, learning_rate=2e-4)
    app = page("runs", run=run.id)
    (said,) = [warning.value for warning in app.warning]
    assert said.startswith("**Learning rate too low.**")
    assert "0.0002" in said.replace("\\", "")
    assert "Rule: The means of the last two windows" in said
    assert [button.label for button in app.button if button.key == "retry_learning rate too low"] == ["Apply and retry"]


def test_apply_and_retry_opens_a_linked_run(page, finished, runs_folder):
    store = Store(runs_folder)
    run = finished([2.0] * 80)
    store.create(run.plan, run.data)
    store.claim_next("cpu")  # holds the device, so that no worker starts
    app = page("runs", run=run.id)
    app.button(key="retry_learning rate too low").click().run()
    assert not app.exception
    (again,) = [other for other in store.runs() if other.place.parent_id == run.id]
    assert again.id in app.query_params["run"]
    assert any(run.id in caption.value.replace("\\", "") for caption in app.caption)


def test_identical_plans_are_said_to_be_identical(page, finished):
    app = page("runs", run=[finished([3.0, 2.0]).id, finished([3.0, 1.0]).id])
    assert any("plans are identical" in caption.value for caption in app.caption)


def test_a_chat_that_a_run_forbids_says_so(page, finished, runs_folder):
    run = finished([1.0])
    store = Store(runs_folder)
    (store.run_folder(run.id) / RESULT).mkdir()
    busy = store.create(run.plan, run.data)
    store.claim_next("cpu")
    app = page("runs", run=run.id)
    app.chat_input(key="asked").set_value("Why?").run()
    assert not app.exception
    assert f"which run {busy.id} is using" in app.error[0].value.replace("\\", "")


def test_a_combination_says_what_it_is_made_of_and_offers_no_training(page, finished, runs_folder):
    runs, store = [finished([2.0]), finished([1.0])], Store(runs_folder)
    store.describe(runs[0].id, name="*Letters*")
    result = runs_folder / "sum"
    result.mkdir()
    (result / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 8, "target_modules": ["q_proj"]}')
    made = combinations.added(store, [store.run(run.id) for run in runs], [0.5, 0.25], "cat", result)
    store.delete(runs[1].id)
    app = page("runs", run=made.id)
    words = f"0.5 x [\\*Letters\\*](/runs?run={runs[0].id}) + 0.25 x {runs[1].id} (deleted)"
    assert words in [one.value.replace("\\-", "-") for one in app.markdown]
    assert [tab.label for tab in app.tabs] == ["Evaluation", "Chat", "Plan", "Share", "Log"]
    keys = {button.key for button in app.button}
    assert not keys & {"extend", "resume", "again", "stop"}
    assert "merge" in keys
    assert "Duplicate: run it once more" not in app.menu_button(key=f"menu {made.id}").options
    (row,) = [html.proto.body for html in page("runs").get("html") if "combines 2 adapters" in html.proto.body]
    assert "last loss" not in row


def test_other_adapters_of_the_same_base_answer_in_a_conversation(page, finished, runs_folder):
    one, other, whole = finished([2.0]), finished([1.0]), finished([1.0], bnb_4bit_quant_type="fp4")
    for run in (one, other, whole):
        (runs_folder / run.id / RESULT).mkdir()
        (runs_folder / run.id / RESULT / "adapter_config.json").write_text('{"r": 8, "target_modules": ["q_proj"]}')
    Store(runs_folder).describe(other.id, name="[Letters]")
    app = page("runs", run=one.id)
    router = "Router: weighs 2 adapters for each token"
    assert app.selectbox(key=f"voice {one.id}").options == ["Tuned model", "Base model", "[Letters]", router]
    assert not [box for box in page("runs", run=whole.id).selectbox if "voice" in (box.key or "")]
