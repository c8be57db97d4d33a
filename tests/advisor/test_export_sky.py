"""SkyPilot reads what is exported for it, and its command is what a shell and the script take."""

import importlib.util
import json
import shlex
from pathlib import Path

import pytest
import yaml

from advisor.export import exported
from catalog import gpus
from catalog.machine import processor
from specs import FinetunePlan, PlanError
from specs.dataset import DataFile, TrainingData

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
KEYS = json.loads((Path(__file__).parents[1] / "golden" / "export_keys.json").read_text(encoding="utf-8"))["sky"]


def task(gpu="L4", model=MODEL, name="data.jsonl", **fields):
    plan = FinetunePlan.for_method("qlora", model, **fields)
    data = TrainingData(name=name, file=DataFile(kind="jsonl"))
    return yaml.safe_load(exported(plan, "sky", data=data, gpu=gpu and gpus.find(gpu)).main[1])


@pytest.mark.parametrize(
    ("gpu", "number", "nodes", "accelerators"),
    [
        pytest.param("L4", 1, None, "L4:1", id="by name"),
        pytest.param("24 GB", 2, None, "nvidia:24GB+:2", id="by memory"),
        pytest.param("RTX 4080 SUPER", 1, None, "nvidia:16GB+:1", id="a card without a name there"),
        pytest.param("H100 SXM5", 16, 2, "H100:8", id="two machines"),
        pytest.param(None, 1, None, None, id="no card named"),
    ],
)
def test_a_task_asks_for_the_cards_of_its_plan(gpu, number, nodes, accelerators):
    found = task(gpu, num_gpus=number, sharding="ddp" if number > 1 else "none")
    assert set(found) <= set(KEYS["keys"])
    assert set(found.get("resources", {})) <= set(KEYS["resources"])
    assert found.get("num_nodes") == nodes
    assert found.get("resources", {}).get("accelerators") == accelerators
    assert ('head -n 1)":29500' in found["run"]) == (nodes == 2)
    if importlib.util.find_spec("sky"):
        importlib.import_module("sky").Task.from_yaml_config(found)


@pytest.mark.parametrize(("number", "nodes"), [(2, 1), (16, 2)])
@pytest.mark.parametrize("sharding", ["fsdp", "zero3"])
def test_a_divided_model_is_started_by_accelerate_with_its_configuration(sharding, number, nodes):
    plan = FinetunePlan.for_method("lora", MODEL, num_gpus=number, sharding=sharding)
    found = exported(plan, "sky", gpu=gpus.find("H100 SXM5"))
    words = shlex.split(yaml.safe_load(found.main[1])["run"])
    assert words[:4] == ["accelerate", "launch", "--config_file", "accelerate.yaml"]
    assert ("--main_process_ip" in words) == (nodes > 1)
    told = yaml.safe_load(found.files["accelerate.yaml"])
    assert (told["num_machines"], told["num_processes"]) == (nodes, number)


def test_a_plan_for_the_processor_asks_for_no_card():
    plan = FinetunePlan.for_method("lora", MODEL)
    assert "resources" not in yaml.safe_load(exported(plan, "sky", gpu=processor().gpu).main[1])


@pytest.mark.parametrize("name", ["a b.jsonl", "-x.jsonl", "it's $HOME.jsonl", 'a";ls;"\n.jsonl'])
def test_any_name_of_a_file_reaches_the_script_whole(name):
    words = shlex.split(task(name=name)["run"])
    assert words == ["python", "train.py", f"--data={name}", "--output=output"]


def test_a_model_that_is_a_folder_goes_along():
    found = task(model="/models/mine")
    [(there, here)] = found["file_mounts"].items()
    assert here == "/models/mine"
    assert f"--model={there}" in shlex.split(found["run"])


@pytest.mark.parametrize(
    ("gpu", "number", "said"),
    [
        pytest.param("Radeon RX 7900 XTX", 1, "must be a card that clouds rent", id="none rents it"),
        pytest.param("L4", 11, "Choose 10", id="cards that fill no machines"),
    ],
)
def test_what_no_cloud_has_is_refused_in_one_sentence(gpu, number, said):
    with pytest.raises(PlanError, match=said) as told:
        task(gpu, num_gpus=number, sharding="ddp" if number > 1 else "none")
    assert len(str(told.value)) <= 300
