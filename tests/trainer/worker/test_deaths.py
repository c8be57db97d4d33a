"""Workers that fall silent, cannot write, or die: real ones, with real signals and limits."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from specs.paths import REPO
from tests.patience import PATIENCE
from tests.trainer.waiting import losses_of, over, waited, worker_of
from trainer.runs import deaths, launcher, processes
from trainer.runs import store as storing
from trainer.runs.contract import LOST_SECONDS, State
from trainer.runs.session import Session
from trainer.runs.storage import database
from trainer.runs.store import Store
from trainer.worker import __main__ as worker


@pytest.mark.parametrize(
    ("status", "out_of_memory", "kind", "words"),
    [
        pytest.param(-9, True, "out_of_memory", "the system killed the worker because", id="killed for memory"),
        pytest.param(None, True, "out_of_memory", "the system killed the worker because", id="nobody waited for it"),
        pytest.param(-9, False, "killed", r"somebody or some program ended it \(SIGKILL\)", id="killed by somebody"),
        pytest.param(-15, False, "killed", r"ended it \(SIGTERM\)", id="ended before it could save"),
        pytest.param(-11, True, "crashed", r"crashed \(SIGSEGV\) .*, got 'TypeError: it broke'", id="crashed"),
        pytest.param(-40, False, "crashed", r"crashed \(signal 40\)", id="a signal without a name"),
        pytest.param(1, False, "crashed", "exited with status 1 .*, got 'TypeError: it broke'", id="an exception"),
        pytest.param(None, False, "lost", "stopped responding", id="silent"),
    ],
)
def test_a_death_is_named(tmp_path, status, out_of_memory, kind, words):
    log = tmp_path / "worker.log"
    log.write_text("first\nTypeError: it broke\n\n")
    found, sentence = deaths.named(status, out_of_memory=out_of_memory, log=log)
    assert found == kind
    assert re.search(words, sentence), sentence


def test_a_log_that_is_missing_or_of_one_long_line_still_makes_a_short_sentence(tmp_path):
    log = tmp_path / "worker.log"
    assert "without giving a reason. See its log." in deaths.named(-6, out_of_memory=False, log=log)[1]
    log.write_bytes(b"\xff" * 10**6)
    assert len(deaths.named(-6, out_of_memory=False, log=log)[1]) <= 300


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        pytest.param({"proc/self/cgroup": "0::/a/b\n", "cgroup/a/b/memory.events": "oom 9\noom_kill 3\n"}, 3, id="v2"),
        pytest.param(
            {"proc/self/cgroup": "0::/a\n", "cgroup/memory.events": "oom_kill 4\n"}, 4, id="v2 in a container"
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/a\n0::/\n",
                "cgroup/memory/a/memory.oom_control": "under_oom 0\noom_kill 5\n",
            },
            5,
            id="v1",
        ),
        pytest.param({"proc/vmstat": "nr_free_pages 1\noom_kill 6\n"}, 6, id="no control group"),
        pytest.param({"proc/vmstat": "nr_free_pages 1\n"}, 0, id="a system that does not tell"),
    ],
)
def test_kills_for_memory_are_counted_where_the_system_counts_them(tmp_path, files, kills):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert deaths.oom_kills(tmp_path / "proc", tmp_path / "cgroup") == kills


def test_a_process_is_known_by_its_number_and_start():
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    known = processes.identity(sleeper.pid)
    assert processes.lives(known)
    assert not processes.lives(f"{sleeper.pid} 1")  # its number, given out again
    sleeper.kill()
    until = time.monotonic() + PATIENCE
    while processes.lives(known) and time.monotonic() < until:
        time.sleep(0.01)
    assert not processes.lives(known)  # a zombie by now
    sleeper.wait()
    assert processes.identity(sleeper.pid) is None
    assert not processes.lives(known)


def test_a_process_that_stays_is_ended_with_its_children(monkeypatch):
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    parent = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + PATIENCE
    while not (children := psutil.Process(parent.pid).children()) and time.monotonic() < until:
        time.sleep(0.01)
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.1)
    processes.end(processes.identity(parent.pid))
    parent.wait()
    psutil.wait_procs(children, timeout=PATIENCE)
    assert not children[0].is_running()
    processes.end(processes.identity(os.getpid()))  # a worker that starts its own run again leaves itself alone


def test_a_worker_that_cannot_start_is_named_at_once(store, plan_of, chat_data, place):
    run = store.create(plan_of(), chat_data, place=place)
    launcher.launch(store, run.id)
    worker_of(run.id).send_signal(signal.SIGABRT)
    failed = waited(store, run.id, over)
    assert (failed.state, failed.error_kind) == (State.FAILED, "crashed")
    assert "crashed (SIGABRT)" in failed.error
    assert [event.text for event in store.events(run.id) if event.kind == "error"] == [failed.error]


def test_a_run_that_just_ended_takes_no_heartbeat_and_ends_no_worker(store, plan_of, chat_data, place, monkeypatch):
    """The worker has yet to start the next run when its own is over."""
    store.create(plan_of(), chat_data, place=place)
    run = store.claim_next(place.device)
    store.start_training(run.id)
    ended, real = [], Store.enter

    def enter(*args, **fields):
        real(*args, **fields)
        time.sleep(0.3)  # a moment in which the heartbeat thread may run

    monkeypatch.setattr(Store, "enter", enter)
    monkeypatch.setattr(worker, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(worker, "HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr(worker.os, "_exit", ended.append)
    with worker._Attempt(Session(run, store, threading.Event())) as ours:
        ours.finish(State.FINISHED)
    assert (ended, store.run(run.id).state) == ([], State.FINISHED)


def test_a_worker_that_ends_without_starting_the_next_run_is_followed(store, plan_of, chat_data, place, monkeypatch):
    monkeypatch.setattr(launcher, "worker_arguments", lambda *_: ["-c", "import time; time.sleep(0.5)"])
    first, second = (store.create(plan_of(), chat_data, place=place) for _ in range(2))
    launcher.launch(store, first.id)
    store.start_training(first.id)
    store.enter(first.id, State.FINISHED)
    until = time.monotonic() + PATIENCE
    while store.run(second.id).state is State.QUEUED and time.monotonic() < until:
        time.sleep(0.05)
    assert store.run(second.id).attempt == 1


@pytest.mark.slow
def test_a_worker_whose_store_cannot_be_written_waits_and_goes_on(store, plan_of, chat_data, place, monkeypatch):
    monkeypatch.setattr(storing, "LOST_SECONDS", 5.0)
    run = store.create(plan_of(max_steps=4000, save_steps=10_000), chat_data, place=place)
    launcher.launch(store, run.id)
    waited(store, run.id, lambda run: run.step >= 2)
    worker = worker_of(run.id)
    worker.rlimit(psutil.RLIMIT_FSIZE, (0, psutil.RLIM_INFINITY))  # every write fails, as on a full disk
    assert waited(store, run.id, over).state is State.LOST
    silent_at = store.run(run.id).step
    time.sleep(1)
    assert store.run(run.id).step == silent_at
    monkeypatch.undo()  # on a busy machine, a worker that goes on may be silent for 5 seconds
    worker.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    until = time.monotonic() + PATIENCE
    while store.run(run.id).state is State.LOST and time.monotonic() < until:
        time.sleep(0.05)
    back = waited(store, run.id, lambda now: now.step > silent_at + 2)
    assert (back.state, back.error) == (State.RUNNING, None)
    store.request_stop(run.id)
    stopped = waited(store, run.id, over)
    assert stopped.state is State.STOPPED
    assert [metric.step for metric in store.metrics(run.id)] == list(range(1, stopped.step + 1))


@pytest.mark.slow
def test_a_worker_that_can_never_write_again_ends_itself(store, plan_of, chat_data, place):
    store.create(plan_of(max_steps=4000, save_steps=10_000), chat_data, place=place)
    run = store.claim_next(place.device)
    code = (
        "import sys; from trainer.runs import session; from trainer.worker import __main__ as worker;"
        "session.RENEWAL_SECONDS = worker.RENEWAL_SECONDS = 3.0; sys.exit(worker.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *launcher.worker_arguments(store, run)[2:]]
    worker = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    waited(store, run.id, lambda run: run.step >= 2)
    psutil.Process(worker.pid).rlimit(psutil.RLIMIT_FSIZE, (0, psutil.RLIM_INFINITY))
    assert worker.wait(60) != 0


@pytest.mark.slow
def test_resume_ends_a_worker_that_was_only_silent(store, plan_of, chat_data, place, monkeypatch):
    monkeypatch.setattr(storing, "LOST_SECONDS", 5.0)
    monkeypatch.setattr(processes, "GRACE_SECONDS", 1.0)
    run = store.create(plan_of(max_steps=40, save_steps=5), chat_data, place=place)
    launcher.launch(store, run.id)
    waited(store, run.id, lambda run: run.step >= 6)
    old = worker_of(run.id)
    with closing(sqlite3.connect(store.folder / database.FILE)) as held:
        held.execute("BEGIN IMMEDIATE")  # a worker that is suspended while it writes would keep the database locked
        old.suspend()
    lost = waited(store, run.id, over)
    assert (lost.state, lost.error_kind) == (State.LOST, "lost")
    assert processes.lives(lost.process)
    monkeypatch.setattr(storing, "LOST_SECONDS", LOST_SECONDS)  # the next worker may be silent on a busy machine
    store.request_resume(run.id)
    launcher.launch(store, run.id)
    assert not processes.lives(lost.process)
    done = waited(store, run.id, over)
    assert (done.state, done.attempt, done.step) == (State.FINISHED, 2, 40)
    assert len(losses_of(store, run.id)) == 40


GROUP = Path("/sys/fs/cgroup/memory") / f"lorafit-test-{os.getpid()}"
"""A control group of the old kind: it can be made inside another one without giving up that one's processes."""

IN_A_GROUP = """
import os, sys, time
from contextlib import closing
from pathlib import Path
from trainer.runs import launcher
from trainer.runs.store import Store
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
store = Store(Path(sys.argv[2]))
launcher.launch(store, sys.argv[3])
while not store.run(sys.argv[3]).is_over:
    time.sleep(0.1)
"""


@pytest.fixture
def small_group():
    """A control group with too little memory for a worker."""
    try:
        GROUP.mkdir()
        (GROUP / "memory.limit_in_bytes").write_text(str(250 * 2**20))
    except OSError as error:
        pytest.skip(f"needs the right to make a control group: {error}")
    yield GROUP
    GROUP.rmdir()


@pytest.mark.slow
def test_a_worker_that_the_kernel_kills_for_memory_says_so(store, plan_of, chat_data, place, small_group):
    run = store.create(plan_of(), chat_data, place=place)
    command = [sys.executable, "-c", IN_A_GROUP, str(small_group), str(store.folder), run.id]
    subprocess.run(command, cwd=REPO, check=True, timeout=120)
    killed = store.run(run.id)
    assert (killed.state, killed.error_kind) == (State.FAILED, "out_of_memory"), killed.error
    assert killed.error.startswith("memory: the system killed the worker because the machine's memory ran out.")


SERVER = """
import sys, time
from contextlib import closing
from pathlib import Path
from trainer.runs import launcher
from trainer.runs.store import Store
store = Store(Path(sys.argv[1]))
print("open", flush=True)
while True:
    launcher.start_waiting(store)
    time.sleep(0.05)
"""


@pytest.mark.slow
def test_servers_that_share_a_folder_and_are_killed_lose_no_run_and_start_none_twice(store, plan_of, chat_data, place):
    runs = [store.create(plan_of(max_steps=20), chat_data, place=place) for _ in range(2)]
    command = [sys.executable, "-c", SERVER, str(store.folder)]
    servers = [subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE) for _ in range(2)]
    assert [server.stdout.readline() for server in servers] == [b"open\n"] * 2
    waited(store, runs[0].id, lambda run: run.step >= 1)
    for server in servers:
        server.kill()
        server.communicate()
    done = [waited(store, run.id, over) for run in runs]
    assert [(run.state, run.attempt, run.step) for run in done] == [(State.FINISHED, 1, 20)] * 2
    began = [store.events(run.id) for run in runs]
    assert [sum(event.text == "Preparing." for event in events) for events in began] == [1, 1]
