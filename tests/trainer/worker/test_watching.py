"""What is done with evaluations, with the order of rows, and with places that metrics are sent to."""

import importlib.util
import json
import threading

import pytest
from safetensors.torch import load_file

from specs import PlanError
from trainer.data.source import DataSource
from trainer.results import checkpoints
from trainer.runs.contract import State
from trainer.runs.export import RESULT
from trainer.runs.session import Session
from trainer.worker.loop.checkpointing import LengthOrder
from trainer.worker.train import train

pytestmark = [
    # PEFT 0.21 reads a property that transformers 5.23 has renamed.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]


@pytest.fixture
def words(tmp_path):
    """Rows of very different lengths, each question on its own."""
    path = tmp_path / "words.jsonl"
    rows = [{"prompt": f"Count to {n}?", "completion": " ".join(map(str, range(n)))} for n in range(1, 25)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return DataSource(path=str(path), prompts=("Count?",))


def worked(store, place):
    """The run whose turn it is, trained in this process."""
    run = store.claim_next(place.device)
    assert train(Session(run, store, threading.Event())) is State.FINISHED
    store.enter(run.id, State.FINISHED)
    return store.run(run.id)


def test_a_run_that_no_longer_improves_stops_early_and_keeps_its_best_weights(store, plan_of, words, place):
    plan = plan_of(
        learning_rate=0.3,
        lr_scheduler_type="constant",
        max_steps=60,
        save_steps=2,
        eval_split=0.25,
        early_stopping_patience=3,
        load_best_model_at_end=True,
    )
    store.create(plan, words, place=place)
    run = worked(store, place)
    evaluated = {entry.step: entry.eval_loss for entry in store.metrics(run.id) if entry.eval_loss is not None}
    best = min(evaluated, key=evaluated.get)
    assert run.step == best + 3 * plan.save_steps < plan.max_steps
    told = [event.text for event in store.events(run.id) if event.kind == "warning"]
    reason = f"the evaluation loss no longer fell below {evaluated[best]:.4f}, reached at step {best}."
    assert told == [f"Stopped early at step {run.step}: {reason}"]
    folder = store.run_folder(run.id)
    kept = load_file(folder / RESULT / "adapter_model.safetensors")
    expected = load_file(checkpoints.folder_of(folder, best) / "adapter_model.safetensors")
    assert all(kept[name].equal(expected[name]) for name in expected)
    assert len(list((folder / checkpoints.CHECKPOINTS).iterdir())) == checkpoints.KEPT + 1
    assert run.step != best


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_a_run_goes_on_with_the_rows_that_it_would_have_seen(store, plan_of, words, place, strategy):
    values = {"lr_scheduler_type": "constant", "warmup_steps": 0.0, "train_sampling_strategy": strategy}
    store.create(plan_of(max_steps=18, **values), words, place=place)
    whole = worked(store, place)
    store.create(plan_of(max_steps=15, **values), words, place=place)  # 12 steps are one epoch
    part = worked(store, place)
    store.extend(part.id, 3)
    part = worked(store, place)
    losses = [[entry.loss for entry in store.metrics(run.id)] for run in (whole, part)]
    assert len(losses[0]) == 18
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_rows_of_like_length_come_together_and_each_comes_once():
    lengths = [(7 * row) % 64 + 1 for row in range(640)]
    order = LengthOrder(8, lengths, seed=1)
    first, again = list(order), list(order)
    assert sorted(first) == list(range(640))
    assert first != again
    order.set_epoch(0)
    assert list(order) == first

    def padding(rows):
        batches = [[lengths[row] for row in rows[start : start + 8]] for start in range(0, len(rows), 8)]
        return sum(8 * max(batch) - sum(batch) for batch in batches)

    assert padding(first) < 0.2 * padding(range(640))


@pytest.mark.parametrize("place_of_metrics", ["wandb", "trackio"])
def test_metrics_go_nowhere_that_is_not_installed(store, plan_of, words, place, place_of_metrics):
    if importlib.util.find_spec(place_of_metrics):
        pytest.skip(f"{place_of_metrics} is installed here")
    store.create(plan_of(report_to=place_of_metrics), words, place=place)
    run = store.claim_next(place.device)
    with pytest.raises(PlanError, match=f"needs a package that is not installed, got {place_of_metrics}. Run pip"):
        train(Session(run, store, threading.Event()))
