"""A run again with other settings: linked, once, and refused in a sentence where the settings are wrong."""

import pytest

from specs import PlanError
from trainer.runs.contract import Place, State
from trainer.runs.retry import changed, retry


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        pytest.param(["learning_rate=1e-4", "r=8"], {"learning_rate": 1e-4, "r": 8}, id="numbers"),
        pytest.param(["gradient_checkpointing=true"], {"gradient_checkpointing": True}, id="true and false"),
        pytest.param(["optim=sgd"], {"optim": "sgd"}, id="words"),
        pytest.param(["target_modules=q_proj,v_proj"], {"target_modules": ("q_proj", "v_proj")}, id="names"),
        pytest.param(["target_modules=all-linear"], {"target_modules": "all-linear"}, id="one name"),
        pytest.param(["method=lora"], {"method": "lora", "load_in_4bit": False}, id="a method brings its preset"),
    ],
)
def test_settings_are_changed_as_written(plan_of, texts, expected):
    plan = changed(plan_of(), texts)
    assert {name: getattr(plan, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        pytest.param([], "at least one field", id="nothing"),
        pytest.param(["r"], "field=value", id="no value"),
        pytest.param(["rank=8"], "is not a field of a plan", id="unknown field"),
        pytest.param(["r=many"], "r: must be", id="not a number"),
        pytest.param(["method=magic"], "must be one of", id="unknown method"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(plan_of, texts, said):
    with pytest.raises(PlanError, match=said):
        changed(plan_of(), texts)


def test_a_retry_is_linked_and_made_once_until_it_is_over(store, plan_of, chat_data):
    store.create(plan_of(), chat_data)
    store.claim_next("cpu")  # holds the device, so that no worker starts
    failed = store.create(plan_of(), chat_data, {"used_bytes": 9}, place=Place(token="click"))  # noqa: S106 - no password
    plan = changed(failed.plan, ["max_length=32"])
    again = retry(store, failed, plan, {"used_bytes": 5})
    assert (again.state, again.place.parent_id, again.plan, again.data) == (State.QUEUED, failed.id, plan, failed.data)
    assert again.estimate == {"used_bytes": 5}
    assert retry(store, failed, plan).id == again.id
    assert retry(store, failed, changed(plan, ["r=2"])).id != again.id
    store.request_stop(again.id)
    assert retry(store, failed, plan).id != again.id
