import dataclasses
import json
import sqlite3
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specs import RunError
from trainer.data.source import DataSource
from trainer.failure import AttemptOverError
from trainer.runs import contract
from trainer.runs import store as storing
from trainer.runs.contract import ACTIVE, TRANSITIONS, Answer, LossCurve, Metric, Phase, Place, State
from trainer.runs.storage import database
from trainer.runs.store import Store

CLICK = "one click"
DATA = DataSource(
    path="/data.jsonl",
    columns={"prompt": "q"},
    prompts=("Why?",),
    thinking="drop",
    split="part",
    evaluation_split="test",
)


def test_a_run_comes_back_as_it_was_created(store, plan_of):
    plan = plan_of(method="lora", target_modules=("q_proj", "v_proj"))
    place = Place(device="cuda:1", model_path="/models/tiny", token=CLICK, parent_id="20260101-000000-abcd")
    made = store.create(plan, DATA, {"used_bytes": 3, "verdict": "fits"}, place=place)
    again = Store(store.folder).run(made.id)
    assert again == made
    assert (again.plan, again.data, again.place) == (plan, DATA, place)
    assert again.estimate == {"used_bytes": 3, "verdict": "fits"}
    assert (again.state, again.phase, again.step, again.attempt) == (State.QUEUED, Phase.WAITING, 0, 0)


def test_the_same_token_never_makes_a_second_run(store, plan_of):
    made = {store.create(plan_of(), DATA, place=Place(token=CLICK)).id for _ in range(3)}
    assert len(made) == len(store.runs()) == 1
    assert store.create(plan_of(), DATA).id != store.create(plan_of(), DATA).id


def test_a_device_is_given_to_one_run_at_a_time(store, plan_of):
    first, second = store.create(plan_of(), DATA), store.create(plan_of(), DATA)
    other = store.create(plan_of(), DATA, place=Place(device="cuda:0"))
    assert store.claim_next("cpu").id == first.id
    assert store.claim_next("cpu") is None
    assert store.claim_next("cuda:0").id == other.id
    store.enter(first.id, State.FAILED, error="x")
    assert store.claim_next("cpu").id == second.id


def test_many_claimers_at_once_get_one_run(store, plan_of):
    for _ in range(3):
        store.create(plan_of(), DATA)
    claimed, ready = [], threading.Barrier(8)

    def claim():
        own = Store(store.folder)
        ready.wait()
        claimed.append(own.claim_next("cpu"))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([run for run in claimed if run is not None]) == 1


def test_a_silent_worker_loses_its_run_and_takes_it_back(store, plan_of, monkeypatch):
    run = store.create(plan_of(), DATA)
    attempt = store.claim_next("cpu").attempt
    store.start_training(run.id)
    monkeypatch.setattr(storing, "LOST_SECONDS", 0.05)
    time.sleep(0.1)
    lost = store.run(run.id)
    assert lost.state is State.LOST
    assert "stopped responding" in lost.error
    assert store.beat(run.id, attempt)
    back = store.run(run.id)
    assert (back.state, back.error) == (State.RUNNING, None)


def test_a_worker_whose_run_was_resumed_by_another_is_told_so(store, plan_of):
    run = store.create(plan_of(), DATA)
    first = store.claim_next("cpu").attempt
    store.enter(run.id, State.LOST)
    store.request_resume(run.id)
    second = store.claim_next("cpu").attempt
    assert not store.beat(run.id, first)
    assert store.beat(run.id, second)


WRITES = {
    "a metric": lambda store, run, attempt: store.add_metric(run, Metric(step=9, loss=9.0), attempt=attempt),
    "an event": lambda store, run, attempt: store.add_event(run, "warning", "x", attempt=attempt),
    "answers": lambda store, run, attempt: store.set_answers(run, [], attempt=attempt),
    "a state": lambda store, run, attempt: store.enter(run, State.FINISHED, attempt=attempt),
    "the beginning": lambda store, run, attempt: store.start_training(run, attempt=attempt),
    "a phase": lambda store, run, attempt: store.set_phase(run, Phase.SAVING, attempt=attempt),
    "the steps": lambda store, run, attempt: store.set_total_steps(run, 9, attempt=attempt),
    "measurements": lambda store, run, attempt: store.add_measured(run, attempt=attempt, x=1),
    "details": lambda store, run, attempt: store.add_details(run, attempt=attempt, x=1),
    "its process": lambda store, run, attempt: store.started(run, attempt, "1 2", 0),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("end", ["resumed by another", "queued again", State.STOPPED, State.FAILED, State.FINISHED])
def test_a_worker_whose_attempt_is_over_writes_nothing(store, plan_of, write, end):
    run = store.create(plan_of(), DATA)
    attempt = store.claim_next("cpu").attempt
    store.start_training(run.id, attempt=attempt)
    store.enter(run.id, end if isinstance(end, State) else State.LOST)
    if not isinstance(end, State):
        store.request_resume(run.id)
    if end == "resumed by another":
        store.claim_next("cpu")
    before = store.run(run.id), store.events(run.id), store.metrics(run.id)
    with pytest.raises(AttemptOverError):
        write(store, run.id, attempt)
    assert (store.run(run.id), store.events(run.id), store.metrics(run.id)) == before
    assert not store.beat(run.id, attempt)


def test_a_silent_worker_whose_device_was_given_away_does_not_come_back(store, plan_of, monkeypatch):
    run = store.create(plan_of(), DATA)
    attempt = store.claim_next("cpu").attempt
    second = store.create(plan_of(), DATA)
    monkeypatch.setattr(storing, "LOST_SECONDS", 0.05)
    time.sleep(0.1)
    assert store.claim_next("cpu").id == second.id
    assert not store.beat(run.id, attempt)
    assert store.run(run.id).state is State.LOST


@pytest.mark.parametrize("seconds", [-86_400, 86_400])
def test_a_clock_that_jumps_loses_no_run_and_hides_no_loss(store, plan_of, monkeypatch, seconds):
    run = store.create(plan_of(), DATA)
    attempt = store.claim_next("cpu").attempt
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + seconds)
    assert store.run(run.id).state is State.PREPARING
    assert store.beat(run.id, attempt)
    monkeypatch.setattr(storing, "LOST_SECONDS", 0.05)
    time.sleep(0.1)
    assert store.run(run.id).state is State.LOST


def test_a_worker_from_before_the_machine_was_started_again_is_lost(store, plan_of):
    run = store.create(plan_of(), DATA)
    store.claim_next("cpu")
    store.enter(run.id, State.RUNNING, beat_at=time.monotonic() + 86_400)
    assert store.run(run.id).state is State.LOST


def test_a_run_that_was_active_in_the_format_before_counts_as_silent(tmp_path, plan_of):
    with sqlite3.connect(tmp_path / database.FILE) as old:
        old.executescript(";".join(database.MIGRATIONS[:2]) + ";PRAGMA user_version = 2;")
        old.execute(
            "INSERT INTO runs (id, state, phase, device, model_path, plan, data, created_at, queued_at, heartbeat_at)"
            " VALUES ('20261101-120000-abcd', 'running', 'training', 'cpu', '', ?, ?, 1.0, 1.0, 1.0)",
            (json.dumps(plan_of().to_dict()), json.dumps({"path": "rows.jsonl", "columns": {}, "prompts": []})),
        )
    old.close()
    (run,) = Store(tmp_path).runs()
    assert run.state is State.LOST


def test_stop_ends_a_waiting_run_at_once_and_asks_a_working_one(store, plan_of):
    waiting = store.create(plan_of(), DATA)
    assert store.request_stop(waiting.id).state is State.STOPPED
    working = store.create(plan_of(), DATA)
    store.claim_next("cpu")
    asked = store.request_stop(working.id)
    assert (asked.state, asked.stop_requested) == (State.STOPPING, True)
    assert not store.start_training(working.id)
    assert store.request_stop(working.id).state is State.STOPPING


@pytest.mark.parametrize("state", [State.QUEUED, *sorted(ACTIVE)])
def test_a_run_that_is_not_over_cannot_be_resumed(store, plan_of, state):
    run = in_state(store, plan_of(), state)
    with pytest.raises(RunError, match="can be resumed"):
        store.request_resume(run.id)


@pytest.mark.parametrize("state", sorted(contract.RESUMABLE))
def test_a_run_that_ended_early_is_queued_again(store, plan_of, state):
    run = store.request_resume(in_state(store, plan_of(), state).id)
    assert (run.state, run.error, run.stop_requested) == (State.QUEUED, None, False)


def test_a_finished_run_goes_on_with_a_longer_plan_only(store, plan_of):
    run = in_state(store, plan_of(), State.FINISHED)
    with pytest.raises(RunError, match="Train more steps"):
        store.request_resume(run.id)
    assert store.request_resume(run.id, plan=plan_of(max_steps=12)).plan.max_steps == 12


def in_state(store, plan, state):
    """A run that reached a state by the transition map."""
    paths = {State.QUEUED: [State.QUEUED]}
    while state not in paths:
        for known, path in list(paths.items()):
            for to in TRANSITIONS[known]:
                paths.setdefault(to, [*path, to])
    run = store.create(plan, DATA)
    for step in paths[state][1:]:
        store.enter(run.id, step, heartbeat_at=time.time())
    return store.run(run.id)


@settings(max_examples=30, deadline=None)
@given(targets=st.lists(st.sampled_from(State), max_size=8))
def test_no_sequence_of_requests_leaves_the_transition_map(tmp_path_factory, targets):
    store = Store(tmp_path_factory.mktemp("store"))
    run = store.create(plan_for_properties(), DATA)
    state = State.QUEUED
    for to in targets:
        if to in TRANSITIONS[state]:
            store.enter(run.id, to, heartbeat_at=time.time())
            state = to
        else:
            with pytest.raises(RunError, match=f"cannot become {to} from {state}"):
                store.enter(run.id, to)
    assert store.run(run.id).state is state


def plan_for_properties():
    from tests.trainer.conftest import tiny_plan  # noqa: PLC0415 - hypothesis allows no function fixture here

    return tiny_plan()


def test_metrics_of_one_step_are_merged_and_come_in_order(store, plan_of):
    run = store.create(plan_of(), DATA)
    store.add_metric(run.id, Metric(step=2, loss=1.5, learning_rate=1e-4))
    store.add_metric(run.id, Metric(step=1, loss=2.0))
    store.add_metric(run.id, Metric(step=2, eval_loss=1.7))
    assert store.metrics(run.id) == (
        Metric(step=1, loss=2.0),
        Metric(step=2, loss=1.5, eval_loss=1.7, learning_rate=1e-4),
    )
    assert store.metrics(run.id, after_step=1)[0].step == 2
    assert store.run(run.id).step == 2


def test_answers_events_and_measurements_are_kept(store, plan_of):
    run = store.create(plan_of(), DATA)
    store.set_answers(run.id, [Answer(prompt="a", base="b", tuned="c")])
    store.set_answers(run.id, [Answer(prompt="<b>", base="'", tuned='"')])
    store.add_event(run.id, "warning", "2 rows skipped")
    store.add_measured(run.id, baseline_bytes=1)
    store.add_measured(run.id, peak_used_bytes=2)
    store.add_details(run.id, libraries={"torch": "2"})
    again = store.run(run.id)
    assert store.answers(run.id) == (Answer(prompt="<b>", base="'", tuned='"'),)
    assert [event.text for event in store.events(run.id)] == ["Queued.", "2 rows skipped"]
    assert again.measured == {"baseline_bytes": 1, "peak_used_bytes": 2}
    assert again.details == {"libraries": {"torch": "2"}}


def test_a_store_of_the_first_format_opens_and_keeps_its_runs(tmp_path, plan_of):
    plan = {**plan_of().to_dict(), "loss": "fused"}  # a choice of that time, with which no run ever began
    with sqlite3.connect(tmp_path / database.FILE) as old:
        old.executescript(database.MIGRATIONS[0] + "PRAGMA user_version = 1;")
        old.execute(
            "INSERT INTO runs (id, state, phase, device, model_path, plan, data, created_at, queued_at)"
            " VALUES ('20261101-120000-abcd', 'failed', 'loading', 'cpu', '', ?, ?, 1.0, 1.0)",
            (json.dumps(plan), json.dumps({"path": "rows.jsonl", "columns": {}, "prompts": []})),
        )
    old.close()
    (run,) = Store(tmp_path).runs()
    assert (run.id, run.state, run.data.path) == ("20261101-120000-abcd", State.FAILED, "rows.jsonl")
    assert run.plan == dataclasses.replace(plan_of(), loss="chunked")


@pytest.mark.parametrize("hostile", ["../../etc", "a/b", "", "20260101-000000-abcd/..", "x' OR 1=1 --"])
def test_no_id_leads_out_of_the_runs_folder(store, hostile):
    with pytest.raises(RunError, match="must be the id of a stored run"):
        store.run_folder(hostile)
    with pytest.raises(RunError, match="must be the id of a stored run"):
        store.run(hostile)


def test_a_store_of_a_newer_version_is_left_alone(store):
    with sqlite3.connect(store.folder / database.FILE) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(RunError, match="Update LoRAFit"):
        Store(store.folder)


def test_eight_stores_opened_at_once_make_one_database(tmp_path):
    made, ready = [], threading.Barrier(8)

    def open_store():
        ready.wait()
        made.append(Store(tmp_path / "runs").runs())

    threads = [threading.Thread(target=open_store) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [()] * 8


def test_every_state_is_reachable_and_every_active_one_can_be_lost():
    assert set(TRANSITIONS) == set(State)
    assert {to for reached in TRANSITIONS.values() for to in reached} == set(State)
    assert all(State.LOST in TRANSITIONS[state] for state in ACTIVE)


def test_the_course_of_every_run_comes_in_one_query(store, plan_of):
    short, long, none = (store.create(plan_of(), DATA) for _ in range(3))
    for step, loss in enumerate([3.0, 2.0, 1.0], 1):
        store.add_metric(short.id, Metric(step=step, loss=loss))
    for step in range(1, 61):
        store.add_metric(long.id, Metric(step=step, loss=float(step)))
    store.add_metric(long.id, Metric(step=61, eval_loss=9.0))
    lines = store.loss_curves(points=10)
    assert lines[short.id] == LossCurve(losses=(3.0, 2.0, 1.0), last=1.0)
    assert lines[long.id].last == 60.0
    assert 10 <= len(lines[long.id].losses) <= 11
    assert list(lines[long.id].losses) == sorted(lines[long.id].losses)
    assert none.id not in lines


def test_a_run_is_not_older_for_its_pauses(store, plan_of, chat_data, monkeypatch):
    clock = [1_000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    run = store.create(plan_of(), chat_data)

    def worked(seconds, ending, *, step):
        attempt = store.claim_next("cpu").attempt
        store.start_training(run.id, attempt=attempt)
        clock[0] += seconds
        store.add_metric(run.id, Metric(step=step, loss=1.0, at=clock[0]))
        if ending is State.LOST:
            clock[0] += 10_000  # nobody looked
        store.enter(run.id, ending)
        clock[0] += 100_000
        if ending is not State.FINISHED:
            store.request_resume(run.id)

    worked(10, State.STOPPED, step=1)
    worked(20, State.LOST, step=2)
    worked(30, State.FINISHED, step=3)
    assert store.worked_seconds(run.id) == 60


def test_a_measure_that_is_no_number_is_left_out_and_stops_nothing(store, plan_of, chat_data):
    run = store.create(plan_of(), chat_data)
    store.add_measured(run.id, evaluation={"step": 2, "f1": float("nan"), "accuracy": 0.5}, peak=float("inf"))
    assert store.run(run.id).measured == {"evaluation": {"step": 2, "accuracy": 0.5}}
