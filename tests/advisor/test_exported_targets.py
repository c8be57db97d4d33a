"""Every export of a plan trains the weights that a run of LoRAFit trains."""

import ast
from dataclasses import replace

import peft
import pytest
import torch
import transformers
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, Gemma3Config

from advisor.export import exported
from catalog import models
from specs import FinetunePlan, ModelSpec, PlanError
from tests.trainer import towers
from trainer.model.build import base_model, with_adapter
from trainer.model.layers import layers
from trainer.model.towers import auto_class

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99}
MIXTURES = {
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 32},
    "deepseek_v3": {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 32},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    "llama": {},
}
FULL = FinetunePlan.for_method("full", "m")


def config_of(model_type):
    return AutoConfig.for_model(model_type, **SIZES, num_key_value_heads=2, head_dim=16, **MIXTURES[model_type])


def built(config):
    return base_model(FULL, config, device="meta")


def known(config):
    found = ModelSpec.from_config(config.to_dict(), name="m").with_layers(layers(built(config)))
    return replace(found, auto_class=auto_class(config).__name__)


def trained(model):
    return {name: weight.shape for name, weight in model.named_parameters() if weight.requires_grad}


def of_snippet(text):
    names = {}
    exec(compile(text.partition("training_args")[0], "snippet.py", "exec"), names)  # noqa: S102 - our own export
    return names["peft_config"]


def of_trl(text):
    said = yaml.safe_load(text)
    return LoraConfig(
        r=said["lora_r"],
        target_modules=said["lora_target_modules"],
        target_parameters=said.get("lora_target_parameters"),
        task_type="CAUSAL_LM",
    )


def of_axolotl(text):
    said = yaml.safe_load(text)
    names = "all-linear" if said.get("lora_target_linear") else said["lora_target_modules"]
    experts = said.get("lora_target_parameters")
    return LoraConfig(r=said["lora_r"], target_modules=names, target_parameters=experts, task_type="CAUSAL_LM")


def of_llama_factory(text):
    said = yaml.safe_load(text)
    names = said["lora_target"].split(",")
    return LoraConfig(
        r=said["lora_rank"], target_modules="all-linear" if names == ["all"] else names, task_type="CAUSAL_LM"
    )


READERS = {"snippet": of_snippet, "trl": of_trl, "axolotl": of_axolotl, "llamafactory": of_llama_factory}


@pytest.mark.parametrize("model_type", list(MIXTURES))
@pytest.mark.parametrize("form", list(READERS))
def test_an_export_trains_the_weights_that_a_run_trains(model_type, form):
    config = config_of(model_type)
    found, plan = layers(built(config)), FinetunePlan.for_method("lora", "m", r=4)
    peft_config = READERS[form](exported(plan, form, model=known(config)).main[1])
    told = trained(get_peft_model(built(config), peft_config))
    assert told == trained(with_adapter(built(config), plan))
    assert sum(shape.numel() for shape in told.values()) == found.lora_params(plan)


@pytest.mark.parametrize("form", ["snippet", "trl", "axolotl"])
def test_experts_that_are_asked_for_are_in_the_export(form):
    config = config_of("qwen3_moe")
    found = layers(built(config))
    plan = FinetunePlan.for_method("lora", "m", r=4, target_parameters=found.parameters)
    peft_config = READERS[form](exported(plan, form, model=known(config)).main[1])
    assert trained(get_peft_model(built(config), peft_config)) == trained(with_adapter(built(config), plan))


def test_a_tool_that_cannot_be_told_of_experts_says_so():
    plan = FinetunePlan.for_method("lora", "m", target_parameters=("experts.down_proj",))
    with pytest.raises(PlanError, match="target_parameters"):
        exported(plan, "llamafactory")


def test_a_model_that_sees_is_trained_where_text_passes_or_the_tool_is_refused():
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config={**SIZES, "num_key_value_heads": 2, "head_dim": 16}, vision_config={**vision, "image_size": 28}
    )
    plan = FinetunePlan.for_method("lora", "m", r=4)
    peft_config = of_snippet(exported(plan, "snippet", model=known(config)).main[1])
    told = trained(get_peft_model(built(config), peft_config))
    assert told == trained(with_adapter(built(config), plan))
    assert not [name for name in told if "vision" in name]
    with pytest.raises(PlanError, match="text does not reach"):
        exported(plan, "trl", model=known(config))


@pytest.mark.parametrize("model_type", sorted(towers.CONFIGS))
def test_the_script_loads_a_model_with_towers_as_a_run_does_and_adapts_the_same_layers(model_type):
    config = AutoConfig.for_model(model_type, **towers.CONFIGS[model_type])
    spec = models.described({**towers.CONFIGS[model_type], "model_type": model_type}, name="m", source="")
    plan = FinetunePlan.for_method("lora", "m", r=4)
    ours = base_model(FULL, config, device="meta")
    tree = ast.parse(exported(plan, "script", model=spec.with_layers(layers(ours))).main[1])
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    (loaded_by,) = {
        call.func.value.id
        for call in calls
        if call.func.attr == "from_pretrained" and any(word.arg == "dtype" for word in call.keywords)
    }
    with torch.device("meta"):
        theirs = getattr(transformers, loaded_by).from_config(config, dtype=torch.bfloat16)
    assert type(theirs) is type(ours)
    (said,) = (node.value for node in ast.walk(tree) if isinstance(node, ast.Assign) and is_config(node))
    told = trained(get_peft_model(theirs, eval(ast.unparse(said), vars(peft))))  # noqa: S307 - our own export
    assert told == trained(with_adapter(ours, plan))


def is_config(node):
    return isinstance(node.targets[0], ast.Name) and node.targets[0].id == "peft_config"
