import dataclasses
import json

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from specs import FinetunePlan, PlanError
from specs.targets import Layers, Linear
from trainer.model.build import prepared_base, with_adapter
from trainer.model.layers import layers

SAMPLE = [
    "bamba",
    "bloom",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "ernie4_5_moe",
    "falcon",
    "falcon_h1",
    "gemma3",
    "gemma4_text",
    "glm4_moe",
    "gpt2",
    "gpt_oss",
    "granitemoehybrid",
    "granitemoeshared",
    "hunyuan_v1_moe",
    "jamba",
    "lfm2",
    "llama",
    "llama4_text",
    "minimax",
    "mixtral",
    "nemotron_h",
    "olmoe",
    "phi3",
    "phimoe",
    "qwen2_moe",
    "qwen3_5",
    "qwen3_moe",
    "qwen3_next",
    "zamba2",
]
SMALL = {"num_hidden_layers": 4}


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    transformers.logging.set_verbosity_error()


def built(model_type):
    """Return the model of a type's default configuration on meta, with four layers where it can be cut."""
    for fewer in (SMALL, {}, {"head_dim": 128}):
        try:
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **fewer))
        except Exception as error:  # noqa: BLE001 - a default that builds no model: there is nothing to compare
            said = error
    return pytest.skip(f"transformers builds no {model_type} from its defaults: {said}")


def adapted(model):
    """Return the paths of the linear layers that PEFT has wrapped."""
    found = (path for path, module in model.named_modules() if type(module).__name__ == "Linear" and path)
    wrapped = (path for path in found if hasattr(model.get_submodule(path), "lora_A"))
    return {path.removeprefix("base_model.model.") for path in wrapped}


def trained(model):
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("model_type", SAMPLE)
def test_what_is_resolved_is_what_peft_adapts_and_the_count_is_that_of_its_weights(model_type, method):
    _agrees(model_type, FinetunePlan.for_method(method, "m", bias="lora_only" if method == "dora" else "none"))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(SAMPLE)))
def test_the_same_holds_for_every_other_model_of_transformers(model_type):
    _agrees(model_type, FinetunePlan.for_method("lora", "m"))


def _agrees(model_type, plan):
    model = built(model_type)
    found = layers(model)
    if not found.names:
        pytest.skip(f"{model_type} has no layer for an adapter")
    wrapped = with_adapter(prepared_base(model, plan), plan)
    assert adapted(wrapped) == {path for path, _ in found.adapted(plan)}
    assert trained(wrapped) == found.lora_params(plan)
    assert Layers.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    "model_type", ["qwen3_moe", "deepseek_v2", "gpt_oss", "llama4_text", "mixtral", "granitemoeshared", "nemotron_h"]
)
def test_experts_that_are_asked_for_are_adapted_and_counted(model_type):
    model = built(model_type)
    found = layers(model)
    plan = FinetunePlan.for_method("lora", "m", target_parameters=found.parameters)
    assert trained(with_adapter(prepared_base(model, plan), plan)) == found.lora_params(plan)
    without = found.lora_params(dataclasses.replace(plan, target_parameters=()))
    assert found.lora_params(plan) - without == sum(
        plan.r * len(stack.paths) * stack.num_experts * (stack.in_features + stack.out_features)
        for stack in found.stacked
    )


@pytest.mark.parametrize(
    ("model_type", "names"),
    [
        pytest.param("qwen3_moe", "q_proj k_proj v_proj o_proj", id="no router, no experts"),
        pytest.param("deepseek_v3", "q_a_proj q_b_proj kv_a_proj_with_mqa kv_b_proj o_proj", id="what PEFT would move"),
        pytest.param(
            "qwen2_moe", "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj", id="the shared expert, not its gate"
        ),
        pytest.param("falcon_h1", "q_proj k_proj v_proj o_proj in_proj gate_proj up_proj down_proj", id="no out_proj"),
        pytest.param("llama4_text", "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj", id="no router class"),
    ],
)
def test_all_linear_stands_for(model_type, names):
    assert set(layers(built(model_type)).names) == set(names.split())


def test_text_reaches_only_the_language_model_of_one_that_sees():
    model = built("gemma3")
    plan = FinetunePlan.for_method("lora", "m")
    assert adapted(with_adapter(prepared_base(model, plan), plan))
    assert not [path for path in adapted(model) if "vision" in path]


@pytest.mark.parametrize(
    ("model_type", "values", "message"),
    [
        pytest.param("deepseek_v2", {"target_modules": ("down_proj",)}, r"moved by PEFT .*got down_proj", id="moved"),
        pytest.param("falcon_h1", {"target_modules": ("out_proj",)}, "read past its adapter", id="bypassed"),
        pytest.param("llama4_text", {"target_modules": ("router",)}, "chooses the experts", id="router"),
        pytest.param("llama", {"target_parameters": ("experts.w1",)}, "must be empty for a model without", id="dense"),
        pytest.param("mixtral", {"target_parameters": ("experts.w1",)}, r"Nearest: experts\.", id="unknown stack"),
    ],
)
def test_what_gets_no_adapter_is_refused_in_a_sentence(model_type, values, message):
    model = built(model_type)
    with pytest.raises(PlanError, match=message):
        with_adapter(model, FinetunePlan.for_method("lora", "m", **values))


def test_a_router_is_trained_only_if_it_is_named():
    found = layers(built("qwen2_moe"))
    plan = FinetunePlan.for_method("lora", "m", target_modules=("q_proj", "shared_expert_gate"))
    assert "shared_expert_gate" not in found.names
    assert found.resolved(plan).modules == ("q_proj", "shared_expert_gate")


@pytest.mark.parametrize(
    ("numbers", "count"), [("", 1), ("0-47", 48), ("0,2-3", 3)], ids=["once", "every layer", "some layers"]
)
def test_a_layer_stands_for_as_many_as_its_numbers_say(numbers, count):
    layer = Linear(path="model.layers.#.q_proj", numbers=numbers, in_features=2, out_features=3)
    assert len(set(layer.paths)) == count
