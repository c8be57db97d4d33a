"""Advice for a model that cannot be estimated: a plan that takes little, with reasons, and never by accident."""

import json
import subprocess
import sys

import pytest

from advisor import Situation, by_rule
from catalog import gpus, models
from specs import METHODS

WHY = "x: training step cannot be traced."


def situation(**changes):
    values = {"model": models.find("Qwen/Qwen3-8B"), "gpu": gpus.find("RTX 4090"), **changes}
    return Situation(**values)


@pytest.mark.parametrize("rules", ["evidence", "classic"])
def test_the_plan_takes_as_little_as_the_rules_allow(rules):
    found = by_rule(situation(), WHY, rules=rules)
    assert (found.plan.method, found.plan.per_device_train_batch_size) == ("qlora", 1)
    assert found.plan.gradient_checkpointing
    assert found.memory == f"Memory unknown: {WHY}"
    for advice in found.advice:
        assert advice.value == getattr(found.plan, advice.field)
        assert advice.accepts(advice.value)
        assert advice.reason


def test_what_the_person_set_is_kept():
    found = by_rule(situation(pins={"method": "lora", "per_device_train_batch_size": 4}), WHY)
    assert (found.plan.method, found.plan.per_device_train_batch_size) == ("lora", 4)
    (method,) = (advice for advice in found.advice if advice.field == "method")
    assert method.reason == "You set this."
    assert METHODS[method.value].label == "LoRA"


def test_the_command_line_asks_for_an_explicit_word(tmp_path):
    config = {"model_type": "xlm", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 300, "emb_dim": 64}))
    command = [sys.executable, "-m", "advisor", "--model", str(tmp_path), "--pin", "gradient_checkpointing=false"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert asked.returncode == 2
    assert asked.stderr.startswith("memory: is unknown: xlm: training step cannot be traced")
    assert asked.stderr.endswith("Add --memory-unknown to be advised by rule.\n")
    assert len(asked.stderr.splitlines()) == 1
    told = subprocess.run([*command, "--memory-unknown", "--json"], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stderr.startswith("Memory unknown: xlm")
    assert json.loads(told.stdout)["memory_unknown"].startswith("xlm: training step cannot be traced")
