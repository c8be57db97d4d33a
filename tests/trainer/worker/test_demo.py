"""The model that comes with the set-up, trained by a worker and by the script that the app exports."""

import json
import subprocess
import sys
import time

import pytest

from advisor.export import exported
from specs import GIB, FinetunePlan, paths
from tests.trainer.waiting import over, waited, worker_of
from trainer.data.source import DataSource
from trainer.runs import launcher
from trainer.runs.contract import Place, State

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not paths.demo_model().is_dir(), reason="the demo model is not fetched: run make setup"),
]


def test_the_demo_model_reaches_its_first_step_soon_in_little_memory_and_in_the_exported_script_alike(
    store, monkeypatch, tmp_path
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    plan = FinetunePlan.for_method(
        "qlora",
        "SmolLM2-135M-Instruct",
        dtype="float32",
        r=8,
        lora_dropout=0.05,
        learning_rate=1e-3,
        per_device_train_batch_size=2,
        max_length=128,
        max_steps=10,
    )
    data = DataSource(path=str(paths.demo_data()), prompts=("What is the capital of Italy?",))
    run = store.create(plan, data, place=Place(model_path=str(paths.demo_model())))
    launcher.launch(store, run.id)
    begun = time.monotonic()
    waited(store, run.id, lambda run: run.step >= 1)
    spent = worker_of(run.id).cpu_times()
    # On a machine with nothing else to do, time passes no faster than this worker's threads work.
    assert min(time.monotonic() - begun, spent.user + spent.system) < 30
    done = waited(store, run.id, over)
    assert done.state is State.FINISHED, done.error
    assert done.measured["peak_used_bytes"] < 4 * GIB
    assert done.details["rows"] >= 300
    losses = [metric.loss for metric in store.metrics(run.id)]
    assert min(losses[-3:]) < losses[0]
    assert "Rome" in store.answers(run.id)[0].base
    assert script_losses(plan, tmp_path) == pytest.approx(losses[:2], rel=1e-4)


def script_losses(plan, folder):
    """The losses of the first two steps of the script, which needs nothing of LoRAFit: it runs elsewhere."""
    script = folder / "train.py"
    script.write_text(exported(plan, "script").main[1], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), "--data", str(paths.demo_data()), "--model", str(paths.demo_model()),
         "--output", str(folder / "output"), "--max-steps", "2"],
        capture_output=True, text=True, cwd=folder, check=False,
        env={"PATH": "", "HOME": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / "output" / "adapter_model.safetensors").is_file()
    return [entry["loss"] for entry in json.loads(done.stdout.splitlines()[-1]) if "loss" in entry]
