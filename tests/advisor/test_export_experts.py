"""What exports say and do of a mixture's experts, which transformers alone leaves in 16 bit."""

from dataclasses import replace

import pytest
import yaml

from advisor.export import exported
from catalog import models
from specs import FinetunePlan

SAID = "Experts stay in 16 bit here"


def written(name, method="qlora", *, stacks_experts=True, **values):
    plan = FinetunePlan.for_method(method, "Qwen/Qwen3-30B-A3B", **values)
    model = replace(models.find(plan.model_name_or_path), layers=None)
    return exported(plan, name, model=model if stacks_experts else replace(model, expert_parameters=())).main[1]


@pytest.mark.parametrize("name", ["script", "trl", "llamafactory", "snippet"])
def test_a_tool_that_leaves_experts_in_16_bit_says_so(name):
    assert SAID in written(name)
    assert SAID not in written(name, "lora")
    assert SAID not in written(name, stacks_experts=False)


def test_axolotl_is_told_to_quantize_experts_where_it_can():
    told = written("axolotl", target_modules=("q_proj", "v_proj"))
    assert yaml.safe_load(told)["quantize_moe_experts"] is True
    assert SAID not in told
    # Axolotl refuses it together with lora_target_linear.
    everything = written("axolotl", target_modules="all-linear")
    assert "quantize_moe_experts" not in yaml.safe_load(everything)
    assert SAID in everything
    assert "quantize_moe_experts" not in written("axolotl", stacks_experts=False)
