"""The list of runs keeps them in order: found, named, archived, deleted and brought back; names are never Markdown."""

import dataclasses

import pytest

from trainer.runs.contract import State
from trainer.runs.storage import shelf as kept
from trainer.runs.store import Store
from ui.runs import list_view
from ui.runs.facts import run_data, shelf

HOSTILE = "[x](http://evil) **b** <b>c</b> :red[d]"


def pick(app, run, deed):
    """Choose from the menu of a run."""
    menu = app.menu_button(key=f"menu {run.id}")
    return menu.click(next(label for label in menu.options if label.startswith(deed))).run()


def test_a_run_is_named_in_its_row_and_its_name_is_never_markdown(page, finished, runs_folder):
    run = finished([3.0, 2.0])
    app = page("runs")
    pick(app, run, "Name and note")
    app.text_input(key="new name").set_value(HOSTILE)
    app.text_area(key="new note").set_value("half the <i>rate</i>")
    app.button(key="save name").click().run()
    assert not app.exception
    assert Store(runs_folder).run(run.id).name == HOSTILE
    label = app.button(key=f"open {run.id}").label
    assert "\\[x\\]\\(http" in label
    assert "\\*\\*b" in label
    (row,) = [html.proto.body for html in app.get("html") if "last loss" in html.proto.body]
    assert "half the &lt;i&gt;rate" in row
    app.button(key=f"open {run.id}").click().run()
    assert app.title[0].value == label


def test_a_deleted_run_says_its_size_and_comes_back_at_once_or_from_the_trash(page, finished, runs_folder):
    run = finished([3.0])
    store = Store(runs_folder)
    (store.run_folder(run.id) / "weights").write_bytes(b"x" * 3 * 2**20)
    app = page("runs", run=run.id)
    pick(app, run, "Delete")
    assert not app.exception
    assert store.runs() == ()
    assert "(3 MiB)" in app.success[0].value.replace("\\", "").replace("\N{NO-BREAK SPACE}", " ")
    app.button(key=f"undo {run.id}").click().run()
    assert [one.id for one in store.runs()] == [run.id]
    assert not app.success
    store.delete(run.id)
    app.run()
    app.session_state["trash"] = True
    app.run()
    app.button(key=f"back {run.id}").click().run()
    assert [one.id for one in store.runs()] == [run.id]


def test_a_run_at_work_is_not_deleted_and_says_why(page, finished, runs_folder):
    store = Store(runs_folder)
    run = finished([1.0])
    busy = store.create(run.plan, run.data)
    store.claim_next("cpu")
    app = page("runs", run=busy.id)
    pick(app, busy, "Delete")
    assert "can be deleted only once it is over" in app.error[0].value.replace("\\", "")
    store.enter(busy.id, State.FAILED)


def test_an_archived_run_is_listed_when_asked_for(page, finished, runs_folder):
    run = finished([1.0])
    app = page("runs")
    pick(app, run, "Archive")
    assert [button for button in app.button if button.key == f"open {run.id}"] == []
    app.toggle(key="archived").set_value(True).run()
    pick(app, run, "Take out of the archive")
    assert Store(runs_folder).run(run.id).archived_at is None


def test_states_are_filtered_once_runs_have_several(page, finished, runs_folder):
    done = finished([1.0])
    app = page("runs")
    assert not app.pills
    queued = Store(runs_folder).create(done.plan, done.data)
    app.run()
    assert list(app.pills(key="states").options) == ["queued", "finished"]
    app.pills(key="states").select(State.QUEUED).run()
    assert [button.key for button in app.button if button.key.startswith("open ")] == [f"open {queued.id}"]


def test_two_ticked_runs_are_compared(page, finished):
    first, second = finished([3.0], r=4), finished([2.0], r=8)
    app = page("runs")
    assert app.button(key="compare").disabled
    for run in (first, second):
        app.checkbox(key=f"tick {run.id}").check()
    app.run()
    app.button(key="compare").click().run()
    assert set(app.query_params["run"]) == {first.id, second.id}
    assert list(app.table[0].value["Setting"]) == ["`r`"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        pytest.param({}, "cba", id="newest first"),
        pytest.param({"order": "Oldest"}, "abc", id="oldest first"),
        pytest.param({"order": "Lowest loss"}, "bca", id="one without a loss comes last"),
        pytest.param({"order": "Name"}, "abc", id="by name"),
        pytest.param({"words": "smollm2 RATE"}, "b", id="every word occurs, in a note too"),
        pytest.param({"states": [State.FAILED]}, "c", id="a state"),
        pytest.param({"models": ["other"]}, "", id="a model"),
        pytest.param({"archived": True}, "", id="the archive"),
    ],
)
def test_runs_are_found_by_what_is_known_of_them(finished, wanted, found):
    made = finished([1.0])
    runs = [
        dataclasses.replace(made, id=letter, name=f"{letter} run", note=note, state=state)
        for letter, note, state in [
            ("c", "", State.FAILED),
            ("b", "half the rate", State.FINISHED),
            ("a", "", State.FINISHED),
        ]
    ]
    assert "".join(run.id for run in shelf.found(runs, shelf.Wanted(**wanted), {"b": 1.0, "c": 2.0})) == found


def test_a_row_says_what_a_run_is_and_how_it_went(finished):
    run = finished([3.0, 2.0])
    store = run_data.store()
    row = list_view.facts(run, store.loss_curves()[run.id])
    for words in ("finished", "data.jsonl", "data:image/svg", "2.000", "2.1 GiB", "predicted 2.0 GiB, -4.8%"):
        assert words in row
    assert store.size_bytes(run.id) == shelf.size_bytes(run)
    assert kept.TRASH_DAYS == shelf.TRASH_DAYS


def test_disk_space_is_freed_after_a_second_word_and_the_trash_is_gone_from_the_list(page, finished, runs_folder):
    run = finished([3.0])
    store = Store(runs_folder)
    (store.run_folder(run.id) / "weights").write_bytes(b"x" * 3 * 2**20)
    store.delete(run.id)
    finished([2.0])
    app = page("runs")
    app.session_state["space"] = True
    app.run()
    assert "fault" not in " ".join(error.value for error in app.error)
    app.button(key="remove trash").click().run()
    app.button(key="keep kind").click().run()
    assert len(store.deleted()) == 1
    app.button(key="remove trash").click().run()
    label = app.button(key="remove for good").label
    app.button(key="remove for good").click().run()
    assert not app.exception
    assert store.deleted() == ()
    freed = app.success[0].value
    assert freed == f"Freed {label.partition('(')[2].partition(')')[0]}."
    assert not any("Trash" in box.label for box in app.expander)
