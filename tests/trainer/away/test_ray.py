import os
import signal
import time

import psutil
import pytest

from specs import RunError
from tests.trainer.away.sshd import free_port
from tests.trainer.waiting import over, waited
from trainer.away.executor import UnreachableError
from trainer.away.ray import executor
from trainer.runs import launcher
from trainer.runs.contract import Place, State
from trainer.runs.places import where
from trainer.runs.store import Store

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs Ray: pip install 'ray[default]'")


@pytest.fixture
def cluster():
    """A head node that runs no jobs, and one that does; without the head it gives up after two seconds."""
    found = cluster_utils.Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": True,
            "dashboard_port": free_port(),
            "_system_config": {"gcs_rpc_server_reconnect_timeout_s": 2},
        },
    )
    found.add_node(num_cpus=1)
    yield found
    found.shutdown()


def keeper_and_worker(shared, run_id: str) -> list[psutil.Process]:
    worker = psutil.Process(int(Store(shared / f"job-{run_id}").run(run_id).process.split()[0]))
    return [worker.parent(), worker]


@pytest.mark.slow
def test_a_killed_job_is_resumed_and_a_run_outlives_the_head_node(
    store, plan_of, chat_data, tiny_model, tmp_path, cluster
):
    shared = tmp_path / "shared"
    place = Place(device=f"cpu@ray://{cluster.webui_url}{shared}", model_path=str(tiny_model))
    run = store.create(plan_of(max_steps=300, save_steps=5), chat_data, place=place)
    launcher.launch(store, run.id)
    waited(store, run.id, lambda run: run.step >= 6)
    for one in keeper_and_worker(shared, run.id):
        os.kill(one.pid, signal.SIGKILL)
    killed = waited(store, run.id, over)
    assert killed.state is State.FAILED
    assert "job ended as FAILED" in killed.error

    store.request_resume(run.id)
    launcher.launch(store, run.id)
    waited(store, run.id, lambda run: run.step > killed.step)
    cluster.remove_node(cluster.head_node, allow_graceful=False)
    lost = waited(store, run.id, lambda run: run.connection_lost_at is not None)
    assert lost.is_active
    finished = waited(store, run.id, over)
    assert finished.state is State.FINISHED, finished.error
    assert [metric.step for metric in store.metrics(run.id)] == list(range(1, 301))
    assert (store.run_folder(run.id) / "adapter" / "adapter_model.safetensors").is_file()
    texts = [event.text for event in store.events(run.id)]
    assert any(text.startswith(f"Connection to {where(place.away).short} lost: does not answer") for text in texts)


def test_a_cluster_that_cannot_be_asked_is_told_in_one_sentence(tmp_path, monkeypatch):
    place = where(f"ray://127.0.0.1:{free_port()}{tmp_path}")
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="does not answer") as told:
        executor(place).check()
    assert len(str(told.value)) <= 300
    assert time.monotonic() - began < 60
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(RunError, match="while the variable RAY_ADDRESS is set"):
        executor(place)
