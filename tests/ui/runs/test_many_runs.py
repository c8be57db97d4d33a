"""The runs page with a thousand runs and a hundred thousand points."""

import math
import sqlite3
import time
import timeit

import pytest
from streamlit.testing.v1 import AppTest

from specs import FinetunePlan
from specs.paths import REPO
from tests.patience import PATIENCE
from trainer.data.source import DataSource
from trainer.runs.diagnosis import diagnoses
from trainer.runs.storage import database
from trainer.runs.store import Store
from ui.drawing.curves import View, figure
from ui.runs.facts import quantities, run_data, standing, tables

RUNS, POINTS = 1000, 100
MOST_SECONDS = 1.0
"""Of the processor: what other processes do meanwhile does not count."""


@pytest.fixture
def crowded(runs_folder):
    """A store as a year of work leaves it; written in bulk, since a thousand real runs take months."""
    store = Store(runs_folder)
    plans = [FinetunePlan.for_method("qlora", "some/model", r=rank).to_json() for rank in range(1, RUNS + 1)]
    ids = [f"20260101-{number:06d}-abcd" for number in range(RUNS)]
    with sqlite3.connect(store.folder / database.FILE) as db:
        db.executemany(
            "INSERT INTO runs (id, state, phase, device, model_path, plan, data, step, created_at, queued_at,"
            " started_at, finished_at) VALUES (?, 'finished', 'done', 'cpu', '', ?,"
            """ '{"path": "d.jsonl", "columns": {}, "prompts": []}', ?, 0, 0, 1, 61)""",
            [(run_id, plan, POINTS) for run_id, plan in zip(ids, plans, strict=True)],
        )
        db.executemany(
            "INSERT INTO metrics (run_id, step, loss, learning_rate, memory_bytes) VALUES (?, ?, ?, 1e-4, 1)",
            [(run_id, step, 1 + math.exp(-step / 30)) for run_id in ids for step in range(1, POINTS + 1)],
        )
    db.close()
    return ids


def test_a_tick_at_five_thousand_points_takes_the_server_under_a_tenth_of_a_second(runs_folder):
    store = Store(runs_folder)
    run = store.create(FinetunePlan.for_method("qlora", "some/model"), DataSource(path="d.jsonl"))
    with sqlite3.connect(store.folder / database.FILE) as db:
        db.executemany(
            "INSERT INTO metrics (run_id, step, loss, learning_rate, grad_norm) VALUES (?, ?, ?, 1e-4, 1.0)",
            [(run.id, step, 1 + math.exp(-step / 900) + math.sin(step)) for step in range(1, 5001)],
        )
    db.close()

    def numbers():
        points = run_data.metrics(store.run(run.id))
        diagnoses(points, "lora")
        standing.figures(run, points)

    def chart():
        series = quantities.curves(run_data.metrics(store.run(run.id)), "loss")
        figure(series, view=View(smoothing=0.6), quantity="loss").to_json()

    for tick in (numbers, chart):
        tick()
        assert min(timeit.repeat(tick, timer=time.process_time, number=1, repeat=10)) < 0.1


def test_a_thousand_runs_are_listed_within_a_second(crowded):
    begun = time.process_time()
    table = tables.history(run_data.store().runs())
    seconds = time.process_time() - begun
    assert table["Run"] == crowded[::-1]
    assert all(20 <= len(line) <= 41 for line in table["Loss"])
    assert table["Last loss"][0] == pytest.approx(1 + math.exp(-POINTS / 30))
    assert seconds < MOST_SECONDS


@pytest.mark.parametrize("opened", [0, 1, 2], ids=["the list", "one run", "a comparison"])
def test_the_page_of_a_thousand_runs_is_drawn_within_a_second(crowded, opened):
    app = AppTest.from_file(str(REPO / "ui/runs/page.py"), default_timeout=PATIENCE)
    app.query_params["run"] = crowded[500 : 500 + opened]
    app.run()  # imports the pages
    begun = time.process_time()
    app.run()
    seconds = time.process_time() - begun
    assert not app.exception
    assert len(app.button) > 20 if opened == 0 else bool(app.dataframe) == (opened == 2)
    assert seconds < MOST_SECONDS
