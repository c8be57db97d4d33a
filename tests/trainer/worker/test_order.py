"""Which rows each step read: as the trainer really read them, also after a resume, and told where gradients explode."""

import json
import re
import threading

import pytest

from tests.trainer.classified import source_of
from trainer.__main__ import main
from trainer.runs.contract import Metric, State
from trainer.runs.session import Session
from trainer.runs.storage import order
from trainer.worker import train as training

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

ROWS = [{"prompt": f"Row {number}.{' one' * (number % 5)}", "completion": "two"} for number in range(1, 24)]


@pytest.fixture
def read(monkeypatch, tiny_tokenizer):
    """The rows that trainers were given, by step, as they stand in their batches."""
    seen = {}
    made = training.trainer_of

    def observed(*arguments):
        trainer = made(*arguments)
        step_of = trainer.training_step

        def training_step(model, inputs, *rest):
            texts = tiny_tokenizer.batch_decode(inputs["input_ids"])
            numbers = [int(found) for text in texts for found in re.findall(r"Row (\d+)\.", text)]
            seen.setdefault(trainer.state.global_step + 1, []).extend(numbers)
            return step_of(model, inputs, *rest)

        trainer.training_step = training_step
        return trainer

    monkeypatch.setattr(training, "trainer_of", observed)
    return seen


def trained(store, run, device):
    claimed = store.claim_next(device)
    assert claimed.id == run.id
    assert training.train(Session(claimed, store, threading.Event())) is State.FINISHED
    store.enter(run.id, State.FINISHED)


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_the_rows_of_each_step_are_those_that_the_trainer_read_also_after_a_resume(
    store, place, plan_of, tmp_path, read, strategy, monkeypatch, capsys
):
    data = source_of(tmp_path / "rows.jsonl", ROWS)
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "train_sampling_strategy": strategy}
    plan = plan_of(method="lora", max_steps=8, save_steps=4, eval_split=0.1, **settings)
    run = store.create(plan, data, place=place)
    trained(store, run, place.device)
    store.extend(run.id, 14)
    trained(store, run, place.device)
    folder = store.run_folder(run.id)
    assert list(read) == [*range(1, 23)]
    for step, numbers in read.items():
        assert order.rows_of(folder, step) == sorted(numbers)
    assert {len(numbers) for numbers in read.values()} == {4, 1}  # 21 rows are learned: the sixth step has the last
    assert order.rows_of(folder, 99) == []
    _is_told_where_gradients_explode(store, run, read, monkeypatch, capsys)


def test_the_rows_of_each_step_are_known_where_several_are_packed_into_one(store, place, plan_of, tmp_path, read):
    data = source_of(tmp_path / "rows.jsonl", ROWS)
    plan = plan_of(method="lora", max_steps=4, packing=True, eval_split=0, max_length=64)
    run = store.create(plan, data, place=place)
    trained(store, run, place.device)
    for step, numbers in read.items():
        assert order.rows_of(store.run_folder(run.id), step) == sorted(numbers)
    assert max(map(len, read.values())) > plan.per_device_train_batch_size
    assert not list(store.run_folder(run.id).glob("checkpoints/*/README.md")), "which would name the model's folder"


def _is_told_where_gradients_explode(store, run, read, monkeypatch, capsys):
    monkeypatch.setenv("LORAFIT_RUNS", str(store.folder))
    store.add_metric(run.id, Metric(step=20, grad_norm=1e5))
    assert main(["show", run.id]) == 0
    said = capsys.readouterr().out
    assert " at step 20; usually it is " in said
    for number in read[20]:
        assert f"    row {number} of step 20: Row {number}." in said
    assert main(["show", run.id, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["diagnoses"][0]
    assert found["rows"] == sorted(read[20])


def test_passes_that_ended_long_ago_are_forgotten_and_a_damaged_one_tells_nothing(tmp_path):
    for first in (1, 11, 21, 31):
        order.note(tmp_path, first, [[step] for step in range(first, first + 10)], kept_steps=5)
    assert [order.rows_of(tmp_path, step) for step in (5, 20, 21, 40, 41)] == [[], [], [21], [40], []]
    (tmp_path / order.FOLDER / "31.safetensors").write_bytes(b"no")
    assert order.rows_of(tmp_path, 40) == []
