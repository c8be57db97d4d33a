import os
import signal

import psutil
import pytest

from tests.trainer.waiting import over, waited
from trainer.runs import launcher
from trainer.runs.contract import Place, State
from trainer.runs.store import Store

pytest.importorskip("submitit")


@pytest.mark.slow
def test_a_killed_job_is_told_and_the_run_is_resumed_by_another_job(store, plan_of, chat_data, tiny_model, tmp_path):
    shared = tmp_path / "shared folder"
    place = Place(device=f"cpu@slurm://{str(shared).replace(' ', '%20')}?cluster=local", model_path=str(tiny_model))
    run = store.create(plan_of(max_steps=40, save_steps=5), chat_data, place=place)
    launcher.launch(store, run.id)
    waited(store, run.id, lambda run: run.step >= 6)
    # As Slurm ends a job: all of its processes at once.
    there = Store(shared / f"job-{run.id}").run(run.id)
    worker = psutil.Process(int(there.process.split()[0]))
    for one in (worker.parent(), worker):
        os.kill(one.pid, signal.SIGKILL)
    killed = waited(store, run.id, over)
    assert killed.state is State.FAILED
    assert "job ended as" in killed.error

    store.request_resume(run.id)
    launcher.launch(store, run.id)
    finished = waited(store, run.id, over)
    assert finished.state is State.FINISHED, finished.error
    assert [metric.step for metric in store.metrics(run.id)] == list(range(1, 41))
    assert (store.run_folder(run.id) / "adapter" / "adapter_model.safetensors").is_file()
    assert not (store.run_folder(run.id) / "job").exists()
