"""A run that is started without a page carries the prediction that the page would have made for it."""

import pytest

import lorafit
from catalog import here, machine
from lorafit.predicting import predicted
from specs import FinetunePlan, paths
from trainer.data.source import DataSource
from trainer.runs.contract import Place

DEMO = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def place():
    return Place(device=machine.devices()[0].torch_name, model_path=here.model_folder(DEMO))


def test_a_run_carries_the_memory_and_the_time_of_its_advice(place):
    data = DataSource(path=str(paths.demo_data()))
    found = lorafit.advise(DEMO, data=data, method="lora")
    told = predicted(found.plan, data, place)
    assert told is not None
    assert told["used_bytes"] == found.estimate.used_bytes
    assert found.speed is not None
    assert told["time"]["parts"] == pytest.approx(dict(found.speed.parts))
    assert set(told["components"]) == set(found.estimate.components)


@pytest.mark.parametrize(
    ("plan", "data"),
    [
        pytest.param(FinetunePlan.for_method("lora", "nobody/knows-it"), "demo.jsonl", id="no model"),
        pytest.param(FinetunePlan.for_method("lora", DEMO), "/nowhere/rows.jsonl", id="no data"),
        pytest.param(FinetunePlan.for_method("adalora", DEMO, num_train_epochs=3.0), "demo.jsonl", id="not traced"),
    ],
)
def test_what_cannot_be_told_at_once_is_not(place, plan, data):
    assert predicted(plan, DataSource(path=data), place) is None
