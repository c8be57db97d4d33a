"""A race on the pages: offered beside Start with what it takes, watched, and its plans compared."""

import dataclasses

import pytest

from specs import FinetunePlan
from tests.ui.conftest import MODEL, other_way
from trainer.data.source import DataSource
from trainer.runs.contract import Metric, Phase, State
from trainer.runs.storage import trials
from trainer.runs.store import Store
from trainer.runs.varied import race_of
from ui.drawing import error_bars
from ui.runs.facts import ablations, phases, quantities, racing, run_data, standing

PLAN = FinetunePlan.for_method("lora", MODEL, learning_rate=2e-4, eval_split=0.1, max_steps=10)
LOSSES = [(3.0,), (2.5, 2.25), (2.0, 2.5), (4.0,)]


@pytest.fixture
def ablated(runs_folder):
    """An ablation of two ranks by two sets of modules, trained with two seeds, or with all but the last."""

    def ablated(*, decided: bool):
        store = Store(runs_folder)
        (runs_folder / "data.jsonl").write_text('{"prompt": "Hi?", "completion": "Hello."}\n')
        grid = race_of(PLAN, ["r=4,16", "target_modules=q_proj+v_proj,all-linear"], repeats=2)
        run = store.create(PLAN, DataSource(path=str(runs_folder / "data.jsonl")), race=grid)
        store.claim_next("cpu")
        store.enter(run.id, State.RUNNING, started_at=1.0, phase=Phase.RACING)
        losses = {trial: (2.0 + trial / 10,) for trial in range(8 if decided else 7)}
        store.set_race(run.id, dataclasses.replace(grid, losses=losses, seconds={0: 30.0}, now=7))
        if decided:
            store.decide_race(run.id, 0)
            store.enter(run.id, State.STOPPED, phase=Phase.DONE)
        return store.run(run.id)

    return ablated


@pytest.mark.parametrize("decided", [False, True])
def test_an_ablation_is_shown_with_error_bars_and_as_a_table_to_save(page, ablated, decided):
    run = ablated(decided=decided)
    app = page("runs", run=run.id)
    assert not app.exception
    assert any(header.value == "Ablation" for header in app.header)
    known = ablations.found(run, run.race)
    assert ablations.table(known)["Held-out loss"][:3] == ["2.0500 ± 0.0707", "2.2500 ± 0.0707", "2.4500 ± 0.0707"]
    assert ablations.table(known)["Trained"][3] == ("2 of 2" if decided else "1 of 2")
    drawn = error_bars.figure(ablations.points(known, run.race.varied), across="r", up="loss").data
    assert [series.name for series in drawn] == ["target_modules q_proj+v_proj", "target_modules all-linear"]
    assert list(drawn[0].y) == pytest.approx([2.05, 2.45])
    assert list(drawn[0].error_y.array) == pytest.approx([0.0707, 0.0707], abs=1e-4)
    values = ablations.values(known)
    assert (values["loss_1"][0], values["loss_2"][0], values["seconds_each"][0]) == (2.0, 2.1, 30.0)
    told = ablations.told(run, run.race)
    assert ("is what this run has trained" in told) == decided
    assert "r 4, target_modules q_proj+v_proj 2.0500" in told


def test_an_ablation_is_offered_beside_start_with_what_it_takes(page, runs_folder):
    store = Store(runs_folder)
    store.create(PLAN, DataSource(path="none"))
    store.claim_next("cpu")  # holds the device, so that no worker starts
    app = other_way(page(), "Ablation")
    told = next(caption.value.replace("\\", "") for caption in app.caption if "trainings" in caption.value)
    assert told.startswith("6 plans with 3 seeds each are 18 trainings, each as long as one run.")
    app.button(key="ablation").click().run()
    race = store.runs()[0].race
    assert (race.varied, race.repeats, len(race.changes)) == (("r", "target_modules"), 3, 18)
    assert {change["r"] for change in race.changes} == {4, 16, 64}


@pytest.fixture
def raced(runs_folder):
    """A race of four rates that was compared once or twice, as its worker leaves it."""

    def raced(*, decided: bool):
        store = Store(runs_folder)
        (runs_folder / "data.jsonl").write_text('{"prompt": "Hi?", "completion": "Hello."}\n')
        race = race_of(PLAN, ["learning_rate=1e-4,2e-4,4e-4,8e-4"])
        run = store.create(PLAN, DataSource(path=str(runs_folder / "data.jsonl")), race=race)
        store.claim_next("cpu")
        store.enter(run.id, State.RUNNING, started_at=1.0, phase=Phase.RACING)
        found = [losses if decided else losses[:1] for losses in LOSSES]
        for trial, losses in enumerate(found):
            trials.folder_of(store.run_folder(run.id), trial).mkdir(parents=True)
            for step, loss in zip((4, 8), losses, strict=False):
                trials.add_metric(store.run_folder(run.id), trial, Metric(step=step, loss=loss, eval_loss=loss))
        store.set_race(run.id, dataclasses.replace(race, losses=dict(enumerate(found)), steps={1: 10}, now=1))
        if decided:
            store.decide_race(run.id, 1)
            for trial in (0, 2, 3):
                store.keep_trial(run.id, trial)
            store.enter(run.id, State.STOPPED, phase=Phase.DONE)
        return store.run(run.id)

    return raced


def test_a_race_is_watched_while_it_is_held(page, raced):
    run = raced(decided=False)
    app = page("runs", run=run.id)
    assert any(header.value == "Race" for header in app.header)
    table = racing.table(run, run.race)
    assert table["Held-out loss after 40%"] == ["3.0000", "2.5000", "2.0000", "4.0000"]
    assert [words.replace("\\", "") for words in table["Outcome"]] == [
        "dropped after 40%",
        "training, step 4",
        "waiting",
        "dropped after 40%",
    ]
    assert [curve.values for curve in racing.curves(run, run.race)] == [[3.0], [2.5], [2.0], [4.0]]
    assert "●&nbsp;racing" in phases.strip(run)
    assert standing.progress(run) == pytest.approx(1.6 / 2.6)
    assert "wins appears here once the race is decided" in quantities.nothing_drawn(run, (), "loss")


def test_a_race_moves_with_every_step_of_the_plan_that_trains(raced):
    run = raced(decided=False)
    folder = run_data.store().run_folder(run.id)
    trials.add_metric(folder, 1, Metric(step=6, loss=2.375, tokens_per_second=80.0, eta_seconds=20.0))
    assert standing.progress(run) == pytest.approx(1.8 / 2.6)
    assert "69% is done" in racing.sentence(run, run.race)
    told = {label: shown for label, shown, _ in standing.figures(run, ())}
    # Of 26 steps 18 are done, and a step takes 5 s.
    assert (told["Loss"], told["Tokens/s"], told["Time left"]) == ("2.375", "80", "40 s")
    assert [curve.values for curve in racing.curves(run, run.race, "loss")] == [[3.0], [2.5, 2.375], [2.0], [4.0]]


def test_once_decided_its_plans_are_runs_to_compare(page, raced):
    run = raced(decided=True)
    assert (run.plan.learning_rate, run.step, run.total_steps) == (2e-4, 8, 10)
    others = run_data.known(racing.compared(run)[1:])
    assert [other.plan.learning_rate for other in others] == [1e-4, 4e-4, 8e-4]
    assert all(other.archived_at for other in others)
    app = page("runs", run=run.id)
    assert any("Compare these runs" in caption.value for caption in app.caption)
    assert [curve.values for curve in racing.curves(run, run.race)] == [[3.0], [2.5, 2.25], [2.0, 2.5], [4.0]]
    dropped = page("runs", run=others[0].id)
    assert any("Was dropped in the race of" in caption.value for caption in dropped.caption)
    assert not page("runs", run=racing.compared(run)).error


def test_a_race_of_rates_is_offered_beside_start_with_what_it_takes(page, runs_folder):
    store = Store(runs_folder)
    store.create(PLAN, DataSource(path="none"))
    store.claim_next("cpu")  # holds the device, so that no worker starts
    app = other_way(page(), "Race rates")
    told = next(caption.value.replace("\\", "") for caption in app.caption if "as long as one run" in caption.value)
    assert told.startswith("4 plans take 2.6 times as long as one run")
    app.button(key="race").click().run()
    run = store.runs()[0]
    assert [change["learning_rate"] / run.plan.learning_rate for change in run.race.changes] == pytest.approx(
        [0.5, 1, 2, 4]
    )
    assert run.race.own == 1
    assert run.plan.eval_split > 0
