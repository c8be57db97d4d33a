import os
import signal
import threading

import psutil
import pytest
from safetensors.torch import load_file

from tests.patience import PATIENCE
from tests.trainer.waiting import losses_of, waited, worker_of
from trainer.results import checkpoints
from trainer.runs import launcher, peaks
from trainer.runs.contract import State
from trainer.runs.export import RESULT
from trainer.runs.session import Session
from trainer.worker.train import train

SHARDED = {"num_gpus": 2, "sharding": "fsdp"}


def ended(run):
    """A run that waits longer than 15 s for its two processes to import is lost for that time only."""
    return run.state in {State.FINISHED, State.STOPPED, State.FAILED}


def begun(store, run, step):
    return waited(store, run.id, lambda found: found.step >= step or ended(found))


def continued_alone(store, run, *, stop_after=None):
    """The state in which a run ends that this process goes on with alone, stopped once it has done some steps."""
    before = store.run(run.id)
    store.request_resume(run.id, plan=before.plan.over(1))
    resumed = store.claim_next("cpu")
    stop, over = threading.Event(), threading.Event()

    def watch():
        while not over.wait(0.02):
            store.beat(run.id, resumed.attempt)
            if stop_after is not None and store.run(run.id).step >= before.step + stop_after:
                stop.set()

    threading.Thread(target=watch, daemon=True).start()
    state = train(Session(resumed, store, stop))
    over.set()
    store.enter(run.id, state, attempt=resumed.attempt)
    return state


def weights_of(store, run, name):
    return load_file(store.run_folder(run.id) / RESULT / name)


def assert_same_weights(found, expected):
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert found[name].numpy() == pytest.approx(weight.numpy(), abs=1e-5), name


@pytest.mark.slow
def test_a_sharded_run_whose_process_is_killed_goes_on_to_the_adapter_of_one_process(
    store, plan_of, chat_data, place, trained_here
):
    common = {"bnb_4bit_quant_storage": "float32", "max_steps": 60, "save_steps": 2}
    alone = trained_here(plan_of(per_device_train_batch_size=4, **common), chat_data)
    run = store.create(plan_of(**SHARDED, **common), chat_data, place=place)
    launcher.launch(store, run.id)
    begun(store, run, 3)
    processes = worker_of(run.id).children(recursive=True)
    ranks = {process.environ()["RANK"]: process for process in processes if "RANK" in process.environ()}
    os.kill(ranks["1"].pid, signal.SIGKILL)
    failed = waited(store, run.id, ended)
    assert (failed.state, failed.error_kind) == (State.FAILED, "process_gone"), failed.error
    assert not [one for one in psutil.wait_procs(processes, timeout=PATIENCE)[1] if one.status() != "zombie"]
    assert checkpoints.newest(store.run_folder(run.id)) is not None
    assert continued_alone(store, run, stop_after=3) is State.STOPPED
    store.request_resume(run.id, plan=store.run(run.id).plan.over(2, "fsdp"))
    launcher.launch(store, run.id)
    begun(store, run, store.run(run.id).step + 3)
    store.request_stop(run.id)
    stopped = waited(store, run.id, ended)
    assert (stopped.state, stopped.error) == (State.STOPPED, None)
    assert len(stopped.measured["peak_used_bytes_of_each"]) == 2
    assert continued_alone(store, run) is State.FINISHED
    done = store.run(run.id)
    assert (done.step, done.plan.gradient_accumulation_steps, done.error) == (60, 2, None)
    assert losses_of(store, run.id) == pytest.approx(losses_of(store, alone.id), rel=1e-3)
    assert_same_weights(*(weights_of(store, one, "adapter_model.safetensors") for one in (run, alone)))
    assert len(store.answers(run.id)) == 1


@pytest.mark.slow
def test_a_sharded_model_is_trained_in_full_and_saved_whole(store, plan_of, chat_data, place, trained_here):
    common = {"method": "full", "max_steps": 3, "save_steps": 2}
    alone = trained_here(plan_of(per_device_train_batch_size=4, **common), chat_data)
    run = store.create(plan_of(**SHARDED, **common), chat_data, place=place)
    launcher.launch(store, run.id)
    done = waited(store, run.id, ended)
    assert (done.state, done.error) == (State.FINISHED, None)
    assert losses_of(store, run.id) == pytest.approx(losses_of(store, alone.id), rel=1e-3)
    assert "; predicted" not in peaks.of_each(done)
    assert "(process 0), " in peaks.of_each(done)
    assert_same_weights(*(weights_of(store, one, "model.safetensors") for one in (run, alone)))
    assert len(store.answers(run.id)) == 1
