"""Adapters come and go on one loaded model: each begins as on a model of its own, and the base stays as it is."""

import pytest
import torch

from specs import METHODS
from trainer.model.build import build
from trainer.model.loaded import LoadedModel

pytestmark = pytest.mark.slow


ADAPTERS = [name for name, method in METHODS.items() if method.trains_adapter]


def values(model, *, trained: bool) -> dict[str, torch.Tensor]:
    return {
        name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad is trained
    }


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    "settings",
    [
        *(pytest.param({"method": name}, id=name) for name in ADAPTERS),
        pytest.param({"method": "lora", "task_type": "SEQ_CLS", "num_labels": 2}, id="with a head"),
        pytest.param({"method": "lora", "gradient_checkpointing": True}, id="recomputing"),
    ],
)
def test_an_adapter_begins_as_on_a_model_of_its_own_whatever_was_trained_before(settings, plan_of, tiny_model):
    plan = plan_of(**settings)
    if not plan.keeps_base:
        pytest.skip("changes the base model, so that no race has it")
    torch.manual_seed(0)
    own = build(plan, str(tiny_model), device="cpu")
    begun, frozen = values(own, trained=True), values(own, trained=False)
    torch.manual_seed(0)
    loaded = LoadedModel(plan, str(tiny_model), device="cpu")
    first = loaded.adapted(plan)
    assert same(values(first, trained=True), begun)
    with torch.no_grad():
        for weight in first.parameters():
            if weight.requires_grad:
                weight += 1
    again = loaded.adapted(plan)
    assert same(values(again, trained=True), begun)
    assert same(values(again, trained=False), frozen)
