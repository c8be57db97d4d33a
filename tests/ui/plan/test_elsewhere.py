"""A run on another machine: offered beside Start, and on its page since when that machine cannot be reached."""

import time

from specs import FinetunePlan
from tests.ui.conftest import MODEL, other_way
from trainer.data.source import DataSource
from trainer.runs import places
from trainer.runs.contract import LOST_CONNECTION, TAKEN, Place
from trainer.runs.store import Store


def test_a_named_place_is_offered_and_one_that_cannot_be_reached_starts_nothing(page, runs_folder):
    places.keep(Store(runs_folder).folder, "box", places.where("ssh://127.0.0.1:1"))
    app = other_way(page(), "Elsewhere")
    assert app.selectbox(key="where").value == "box"
    app.button(key="check place").click().run()
    assert [error.value for error in app.error if "cannot be reached" in error.value]
    app.button(key="start there").click().run()
    assert [error.value for error in app.error if "cannot be reached" in error.value]
    assert not Store(runs_folder).runs()


def test_a_run_elsewhere_says_where_and_since_when_it_cannot_be_reached(page, runs_folder, monkeypatch):
    monkeypatch.setattr("trainer.runs.store.LOST_SECONDS", 3600.0)  # nobody sends heartbeats for it here
    store = Store(runs_folder)
    plan = FinetunePlan.for_method("lora", MODEL, max_steps=10)
    run = store.create(plan, DataSource(path="none"), place=Place(device="cpu@ssh://me@box"))
    store.claim_next(run.place.device)
    store.add_details(run.id, **{LOST_CONNECTION: time.time(), TAKEN: 1})
    app = page("runs", run=run.id)
    since = time.strftime("%H:%M", time.localtime(store.run(run.id).connection_lost_at))
    assert [warning.value for warning in app.warning] == [f"Connection lost since {since}, the run goes on there."]
    assert any(caption.value.replace("\\", "").startswith("On ssh://me@box. ") for caption in app.caption)
