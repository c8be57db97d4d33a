"""The exported script trains other adapters than LoRA as a run does: the same losses, an adapter that loads."""

import json
import os
import runpy
import shlex
import socket
import subprocess
import sys
import threading

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from advisor.export import exported
from specs.launch import device_environment
from tests.trainer.waiting import PATIENCE
from trainer.runs.session import Session
from trainer.worker.train import train

pytestmark = pytest.mark.filterwarnings("ignore")

PLANS = [
    pytest.param({"method": "adalora", "init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 1}, id="AdaLoRA"),
    pytest.param({"method": "ia3", "target_modules": ("k_proj", "down_proj")}, id="IA3"),
    pytest.param({"method": "vera", "r": 8, "dtype": "bfloat16"}, id="VeRA in two dtypes"),
    pytest.param({"method": "ln-tuning", "dtype": "bfloat16"}, id="norms in two dtypes"),
    pytest.param({"method": "prompt-tuning", "num_virtual_tokens": 6}, id="prompt tuning"),
    pytest.param({"method": "prefix-tuning"}, id="prefix tuning"),
    pytest.param({"method": "lora", "rank_pattern": {r"layers\.1\..*q_proj": 9}}, id="ranks by layer"),
]


@pytest.mark.parametrize("values", PLANS)
def test_the_script_has_the_losses_of_a_run(
    store, chat_data, place, tiny_model, plan_of, tmp_path, monkeypatch, capsys, values
):
    plan = plan_of(
        **{"max_steps": 5, "save_steps": 2, "learning_rate": 1e-2, "gradient_accumulation_steps": 2} | values
    )
    run = store.create(plan, chat_data, place=place)
    train(Session(store.claim_next(place.device), store, threading.Event()))
    script, output = tmp_path / "train.py", tmp_path / "output"
    script.write_text(exported(plan, "script").main[1], encoding="utf-8")
    arguments = ["--data", chat_data.path, "--model", str(tiny_model), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    capsys.readouterr()
    runpy.run_path(str(script), run_name="__main__")
    history = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses == pytest.approx([metric.loss for metric in store.metrics(run.id)], rel=1e-3)
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), output)


@pytest.mark.slow
def test_two_nodes_that_meet_have_the_losses_of_one_process(
    store, trained_here, chat_data, tiny_model, plan_of, tmp_path
):
    settings = {"method": "lora", "max_steps": 4}
    alone = trained_here(plan_of(per_device_train_batch_size=4, **settings), chat_data)
    made = exported(plan_of(num_gpus=2, sharding="ddp", **settings), "script", nodes=2)
    (tmp_path / "train.py").write_text(made.main[1], encoding="utf-8")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        endpoint = "{}:{}".format(*found.getsockname())
    _, *words = shlex.split(made.command.replace("HOST:29500", endpoint), comments=True)
    arguments = [sys.executable, *words, "--data", chat_data.path, "--model", str(tiny_model)]
    nodes = [
        subprocess.Popen(
            [*arguments, "--output", str(tmp_path / name)],
            cwd=tmp_path, env=device_environment("cpu", os.environ), stdout=subprocess.PIPE, text=True,
        )
        for name in ("one", "other")
    ]  # fmt: skip
    try:
        said = [node.communicate(timeout=2 * PATIENCE)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0]
    histories = [json.loads(words.strip().splitlines()[-1]) for words in said]
    curves = [[entry["loss"] for entry in history if "loss" in entry] for history in histories]
    assert max(curves) == pytest.approx([metric.loss for metric in store.metrics(alone.id)], rel=1e-3)
