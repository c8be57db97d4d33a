"""A race: plans trained against each other on one loaded model; the winner's curve is that of a run of its own."""

import dataclasses
import os
import signal
import threading

import pytest

from tests.trainer.waiting import over, waited, worker_of
from trainer.results import checkpoints
from trainer.runs import ablation, launcher
from trainer.runs.contract import Place, State
from trainer.runs.export import RESULT
from trainer.runs.session import Session
from trainer.runs.storage import trials
from trainer.runs.varied import race_of
from trainer.worker.train import train

pytestmark = pytest.mark.slow


@pytest.fixture
def plan(plan_of):
    """Ten steps of a plan that evaluates between the comparisons of a race, whose dropout needs random numbers."""
    return plan_of(max_steps=10, save_steps=3, lora_dropout=0.1, eval_split=0.2, load_best_model_at_end=True)


@pytest.fixture
def raced(store, chat_data, place):
    """Holds a race in this process."""

    def raced(plan, *texts):
        store.create(plan, chat_data, place=place, race=race_of(plan, texts))
        return trained(store)

    return raced


def trained(store):
    """The run that waits, trained to its end in this process, which has imported all it needs."""
    run = store.claim_next("cpu")
    assert train(Session(run, store, threading.Event())) is State.FINISHED
    store.enter(run.id, State.FINISHED, attempt=run.attempt)
    return store.run(run.id)


def curves(store, run, *, until=10):
    """The losses of each step, and those on held-out rows where the plan evaluates."""
    points = [point for point in store.metrics(run.id) if point.step <= until]
    return [point.loss for point in points], [point.eval_loss for point in points if point.step % 3 == 0]


def test_plans_of_different_ranks_and_batches_race_and_every_curve_is_that_of_a_run_of_its_own(
    store, plan, raced, trained_here, chat_data
):
    run = raced(plan, "r=2,4", "per_device_train_batch_size=1,2")
    race = run.race
    assert (run.step, run.total_steps, run.plan) == (10, 10, race.plan_of(race.winner, plan))
    assert sorted(map(len, race.losses.values())) == [1, 1, 2, 2]
    own = trained_here(run.plan, chat_data)
    for mine, alone in zip(curves(store, run), curves(store, own), strict=True):
        assert mine == pytest.approx(alone, rel=1e-5)
    assert run.details["learned"] == own.details["learned"]
    assert (store.run_folder(run.id) / RESULT / "adapter_model.safetensors").is_file()
    assert not (store.run_folder(run.id) / trials.FOLDER).exists()
    dropped = [other for other in store.runs() if other.place.parent_id == run.id]
    assert [other.plan for other in reversed(dropped)] == [
        race.plan_of(trial, plan) for trial in range(4) if trial != race.winner
    ]
    assert all(other.archived_at and other.state is State.STOPPED for other in dropped)
    assert sorted(other.step for other in dropped) == [4, 4, 8]
    last = next(other for other in dropped if other.step == 8)
    assert checkpoints.newest(store.run_folder(last.id)).name == "checkpoint-8"
    alone = trained_here(last.plan, chat_data)
    for mine, whole in zip(curves(store, last), curves(store, alone, until=8), strict=True):
        assert mine == pytest.approx(whole, rel=1e-5)


def test_an_ablation_trains_every_plan_with_every_seed_to_its_end_and_keeps_the_best(
    store, plan, chat_data, place, trained_here
):
    grid = race_of(plan, ["r=2,4"], repeats=2)
    store.create(plan, chat_data, place=place, race=grid)
    run = trained(store)
    race = run.race
    assert sorted(race.losses) == sorted(race.steps) == sorted(race.seconds) == list(range(4))
    assert set(race.steps.values()) == {run.step} == {run.total_steps} == {10}
    found = ablation.results(race, plan)
    best = min(found, key=lambda one: one.mean)
    assert (run.plan.r, run.plan.seed) == (best.values["r"], plan.seed)
    assert all(one.deviation > 0 for one in found)  # seeds differ
    own = trained_here(run.plan, chat_data)
    for mine, alone in zip(curves(store, run), curves(store, own), strict=True):
        assert mine == pytest.approx(alone, rel=1e-5)
    assert (store.run_folder(run.id) / RESULT / "adapter_model.safetensors").is_file()
    assert not [other for other in store.runs() if other.place.parent_id == run.id]
    assert run.details["learned"] == own.details["learned"]


def test_a_plan_that_diverges_is_out_and_the_other_wins(store, plan, raced):
    wild = dataclasses.replace(plan, adapter_dtype="float16", lora_alpha=4_096, optim="sgd", max_grad_norm=0.0)
    run = raced(wild, "learning_rate=1e-4,1")
    assert (run.race.winner, run.plan.learning_rate, run.step) == (0, 1e-4, 10)
    assert run.race.outcome(1, trains=True).startswith("out: ")
    (dropped,) = [other for other in store.runs() if other.place.parent_id == run.id]
    assert (dropped.state, dropped.error_kind) == (State.FAILED, "not_finite")


def test_a_killed_race_goes_on_where_it_was(store, plan, chat_data, place: Place, trained_here):
    race = race_of(plan, ["learning_rate=1e-4,1e-3,1e-2"])
    run = store.create(plan, chat_data, place=place, race=race)
    launcher.launch(store, run.id)
    waited(store, run.id, lambda run: len(run.race.losses) == 2 and store.trial_metrics(run.id, 2))
    os.kill(worker_of(run.id).pid, signal.SIGKILL)
    lost = waited(store, run.id, over)
    assert (lost.state, lost.race.winner) == (State.LOST, None)
    before = [store.trial_metrics(run.id, trial)[:4] for trial in (0, 1)]
    store.request_resume(run.id)
    done = trained(store)
    kept = {other.plan.learning_rate: store.metrics(other.id) for other in store.runs()}
    # Each step says when it was taken: those of the first comparison were taken by the first worker.
    assert [kept[1e-4][:4], kept[1e-3][:4]] == before
    own = trained_here(done.plan, chat_data)
    for mine, alone in zip(curves(store, done), curves(store, own), strict=True):
        assert mine == pytest.approx(alone, rel=1e-5)
