"""What checkpoints hold besides weights: read back exactly, and without running anything."""

import json
import math
import pickle
import random
import threading
import zipfile

import numpy
import pytest
import torch
from bitsandbytes.optim import AdamW8bit
from safetensors.torch import save_file

from specs import RunError
from tests.trainer.waiting import losses_of
from trainer.results import checkpoints
from trainer.runs.contract import State
from trainer.runs.session import Session
from trainer.worker.loop import states
from trainer.worker.train import train

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def same(one, other):
    """Whether two states are equal in values and types."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, numpy.ndarray):
        return one.dtype == other.dtype and numpy.array_equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or (math.isnan(one) and math.isnan(other)))


def adamw(kind):
    weight = torch.nn.Parameter(torch.ones(64, 64))
    optimizer = kind([{"params": [weight], "lr": 1e-3}])
    weight.grad = torch.ones(64, 64)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(lambda: adamw(torch.optim.AdamW).state_dict(), id="AdamW"),
        pytest.param(lambda: adamw(AdamW8bit).state_dict(), id="bitsandbytes in 8 bit, whose states share tables"),
        pytest.param(lambda: {"python": random.getstate(), "numpy": numpy.random.get_state()}, id="random numbers"),
        pytest.param(
            lambda: {1: None, "1": (math.inf, math.nan, -0.0), 2.5: [], "x": torch.tensor(3, dtype=torch.bfloat16)},
            id="keys that are numbers, and values that JSON has not",
        ),
    ],
)
def test_a_state_comes_back_as_it_was(tmp_path, state):
    state = state()
    states.save(state, tmp_path / "state.safetensors")
    assert same(state, states.load(tmp_path / "state.safetensors"))


def test_what_could_run_code_is_not_stored(tmp_path):
    with pytest.raises(TypeError, match="cannot store a builtin_function_or_method"):
        states.save({"lambda": print}, tmp_path / "state.safetensors")


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param(None, id="no state"),
        pytest.param({"state": "{"}, id="no JSON"),
        pytest.param({"state": '["tensor", "other"]'}, id="a tensor that is missing"),
        pytest.param({"state": '["dict", [["list"], 1]]'}, id="a key that cannot be one"),
        pytest.param({"state": "[" * 10**6}, id="JSON without end"),
    ],
)
def test_a_file_that_is_no_state_is_told_in_a_sentence(tmp_path, metadata):
    path = tmp_path / "checkpoint-4" / checkpoints.OPTIMIZER
    path.parent.mkdir()
    save_file({"0": torch.ones(1)}, path, metadata=metadata)
    with pytest.raises(RunError, match=r"holds no state of a run.*Delete checkpoint-4 and resume"):
        states.load(path)


class Bomb:
    """What a hostile pickle does when it is read."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was read",))


def is_pickle(path):
    """Whether a file is a pickle, or one of torch's archives around one."""
    with path.open("rb") as stream:
        begin = stream.read(2)
    # PROTO of protocol 2 and later, https://docs.python.org/3/library/pickletools.html.
    return zipfile.is_zipfile(path) or (begin[:1] == pickle.PROTO and begin[1] <= pickle.HIGHEST_PROTOCOL)


def test_a_run_keeps_no_pickle_and_reads_none(store, plan_of, chat_data, place):
    store.create(plan_of(max_steps=4, lora_dropout=0.1), chat_data, place=place)
    run = store.claim_next(place.device)
    assert train(Session(run, store, threading.Event())) is State.FINISHED
    store.enter(run.id, State.FINISHED)
    folder = store.run_folder(run.id)
    newest = checkpoints.newest(folder)
    assert not [path for path in folder.rglob("*") if path.is_file() and is_pickle(path)]
    for name in (
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "scaler.pt",
        "training_args.bin",
        "adapter_model.bin",
    ):
        (newest / name).write_bytes(pickle.dumps(Bomb()))
    store.extend(run.id, 2)
    run = store.claim_next(place.device)
    assert train(Session(run, store, threading.Event())) is State.FINISHED
    assert len(losses_of(store, run.id)) == 6


BEFORE = {
    checkpoints.OPTIMIZER: "optimizer.pt",
    checkpoints.SCHEDULER: "scheduler.pt",
    "rng_state_0.safetensors": "rng_state.pth",
}


def test_a_checkpoint_of_the_first_version_goes_on_with_its_states(store, plan_of, chat_data, place):
    losses = []
    for is_old in (False, True):
        made = store.create(plan_of(max_steps=3, lora_dropout=0.1), chat_data, place=place)
        run = store.claim_next(place.device)
        train(Session(run, store, threading.Event()))
        store.enter(run.id, State.FINISHED)
        newest = checkpoints.newest(store.run_folder(run.id))
        if is_old:
            for name, before in BEFORE.items():
                torch.save(states.load(newest / name), newest / before)
                (newest / name).unlink()
        assert checkpoints.newest(store.run_folder(run.id)) == newest
        store.extend(run.id, 3)
        run = store.claim_next(place.device)
        assert train(Session(run, store, threading.Event())) is State.FINISHED
        store.enter(run.id, State.FINISHED)
        losses.append(losses_of(store, made.id))
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


@pytest.mark.parametrize("name", BEFORE.values())
def test_a_hostile_pickle_in_place_of_a_state_runs_nothing(tmp_path, name):
    torch.save({"state": Bomb()}, tmp_path / name)
    with pytest.raises(RunError, match="holds no state of a run"):
        states.load(tmp_path / name)


def test_a_run_whose_checkpoint_is_at_its_last_step_trains_nothing(store, plan_of, chat_data, place):
    store.create(plan_of(max_steps=5, save_steps=2), chat_data, place=place)
    run = store.claim_next(place.device)
    train(Session(run, store, threading.Event()))
    folder = store.run_folder(run.id)
    weights = (checkpoints.newest(folder) / "adapter_model.safetensors").read_bytes()
    store.enter(run.id, State.LOST)
    for _ in range(2):
        store.request_resume(run.id)
        run = store.claim_next(place.device)
        assert train(Session(run, store, threading.Event())) is State.FINISHED
        store.enter(run.id, State.LOST)
    assert [metric.step for metric in store.metrics(run.id)] == [1, 2, 3, 4, 5]
    assert checkpoints.newest(folder).name == "checkpoint-5"
    assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() == weights
    assert json.loads((checkpoints.newest(folder) / checkpoints.STATE).read_text())["global_step"] == 5
