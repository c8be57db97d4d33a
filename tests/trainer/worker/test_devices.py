import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from specs.paths import REPO
from tests.patience import PATIENCE
from tests.trainer.waiting import losses_of, over, waited, worker_of
from trainer.commands.showing import show
from trainer.failure import kind_and_sentence
from trainer.results import checkpoints
from trainer.runs import crash_notes, launcher
from trainer.runs.contract import LOST_SECONDS, Place, State, cards, spread
from trainer.runs.export import RESULT
from trainer.runs.store import Store


@pytest.mark.parametrize(
    ("device", "num_gpus", "expected"),
    [
        pytest.param("cuda:1", 2, "cuda:1,2", id="from the first card on"),
        pytest.param("cuda:0", 1, "cuda:0", id="one card"),
        pytest.param("cuda:0,3", 2, "cuda:0,3", id="cards by name"),
        pytest.param("cpu", 2, "cpu", id="a CPU is one place"),
    ],
)
def test_a_run_gets_as_many_cards_as_its_plan_has(device, num_gpus, expected):
    assert spread(device, num_gpus) == expected
    assert len(cards(expected)) == (1 if device == "cpu" else num_gpus)


def test_runs_that_share_a_card_wait_for_each_other_in_order(store: Store, plan_of, chat_data):
    both = store.create(plan_of(num_gpus=2, sharding="ddp"), chat_data, place=Place(device="cuda:0"))
    one = store.create(plan_of(), chat_data, place=Place(device="cuda:1"))
    assert both.place.device == "cuda:0,1"
    assert store.claim_next("cuda:1") is None
    assert store.claim_next("cuda:0,1").id == both.id
    assert store.claim_next("cuda:1") is None
    store.enter(both.id, State.FAILED)
    assert store.claim_next("cuda:1").id == one.id


def test_the_command_that_starts_several_processes_is_shown(store, plan_of, chat_data, capsys):
    run = store.create(plan_of(num_gpus=2, sharding="ddp"), chat_data)
    show(run, store)
    expected = f"torch.distributed.run --standalone --nproc-per-node=2 -m trainer.worker {store.folder} {run.id} 0"
    assert expected in capsys.readouterr().out


def test_a_process_that_only_lost_another_one_leaves_no_word(tmp_path):
    crash_notes.leave(tmp_path, 2, *kind_and_sentence(RuntimeError("gloo: Connection closed by peer [127.0.0.1]:1")))
    assert crash_notes.read(tmp_path) is None
    kind, sentence = kind_and_sentence(torch.OutOfMemoryError("CUDA out of memory."))
    crash_notes.leave(tmp_path, 1, kind, sentence)
    assert crash_notes.awaited(tmp_path) == ("out_of_memory", sentence)
    crash_notes.forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


def processes_of(run_id: str) -> list[psutil.Process]:
    """The agent that torchrun is, and the processes that it started."""
    agent = worker_of(run_id)
    return [agent, *agent.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    left = psutil.wait_procs(processes, timeout=PATIENCE)[1]
    return not [process for process in left if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_at_the_same_effective_batch_through_stop_and_resume(
    store, plan_of, chat_data, place, trained_here
):
    alone = trained_here(plan_of(per_device_train_batch_size=4, max_steps=12, save_steps=5), chat_data)
    shared = plan_of(num_gpus=2, sharding="ddp", max_steps=12, save_steps=5)
    run = store.create(shared, chat_data, place=place)
    launcher.launch(store, run.id)
    waited(store, run.id, lambda run: run.step >= 3)
    processes = processes_of(run.id)
    store.request_stop(run.id)
    stopped = waited(store, run.id, over)
    assert (stopped.state, stopped.error) == (State.STOPPED, None)
    assert gone(processes)
    newest = checkpoints.newest(store.run_folder(run.id))
    assert newest.name == f"checkpoint-{stopped.step}"
    assert {path.name for path in newest.glob("rng_state_*")} == {"rng_state_0.safetensors", "rng_state_1.safetensors"}
    store.request_resume(run.id)
    launcher.launch(store, run.id)
    done = waited(store, run.id, over)
    assert (done.state, done.step) == (State.FINISHED, 12)
    assert (store.run_folder(run.id) / RESULT / "adapter_model.safetensors").is_file()
    assert len(store.answers(run.id)) == 1
    assert losses_of(store, run.id) == pytest.approx(losses_of(store, alone.id), rel=1e-3)


PARTING = """
import faulthandler, os, torch
from torch.nn.parallel import DistributedDataParallel
from trainer.worker import distributed

torch.set_num_threads(1)
os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}

def parted():
    distributed.join("cpu")
    model = DistributedDataParallel(torch.nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    distributed.leave()
    return model

for number in range(200):
    faulthandler.dump_traceback_later(120, exit=True)
    model = parted()
    del model
"""


def test_a_process_that_leaves_the_others_never_waits_for_itself():
    """Gloo's threads and DDP's reducer once waited for each other, about once in a hundred partings."""
    done = subprocess.run([sys.executable, "-c", PARTING], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_the_reason_of_the_process_that_failed_is_the_reason_of_the_run(store, plan_of, chat_data, place):
    run = store.create(plan_of(num_gpus=2, sharding="ddp", max_steps=4000), chat_data, place=place)
    launcher.launch(store, run.id)
    waited(store, run.id, lambda run: run.step >= 1)
    processes = processes_of(run.id)
    crash_notes.leave(store.run_folder(run.id), 1, "out_of_memory", "memory: the second card has less.")
    failed = waited(store, run.id, over)
    assert (failed.error_kind, failed.error) == ("out_of_memory", "memory: the second card has less.")
    assert gone(processes)


@pytest.mark.slow
def test_a_killed_process_of_several_fails_the_run_and_leaves_none_behind(store, plan_of, chat_data, place):
    run = store.create(plan_of(num_gpus=2, sharding="ddp", max_steps=4000, save_steps=2), chat_data, place=place)
    launcher.launch(store, run.id)
    waited(store, run.id, lambda run: run.step >= 3)
    processes = processes_of(run.id)
    ranks = {process.environ()["RANK"]: process for process in processes[1:] if "RANK" in process.environ()}
    begun = time.monotonic()
    os.kill(ranks["1"].pid, signal.SIGKILL)
    failed = waited(store, run.id, over)
    assert time.monotonic() - begun < 4 * LOST_SECONDS  # a busy machine is late, not minutes late
    assert (failed.state, failed.error_kind) == (State.FAILED, "process_gone"), failed.error
    assert "one of its processes was killed" in failed.error
    assert gone(processes)
    assert checkpoints.newest(store.run_folder(run.id)) is not None
    assert failed.is_resumable
