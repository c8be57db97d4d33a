"""What is in memory before a step, compared with real models."""

import logging

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from estimator.tape.conditions import Conditions
from estimator.tape.recipe import recipe
from estimator.tracer.model import quantization_constants
from estimator.tracer.trace import trace
from specs import FinetunePlan
from tests.estimator.small import CONFIGS, model
from trainer.model.build import build

NAMES = ("llama", "qwen2 with biases and a tied head", "gpt2 with Conv1D")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name in NAMES:
        config = dict(CONFIGS[name])
        folder = tmp_path_factory.mktemp("model")
        whole = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
        whole.to(torch.bfloat16).save_pretrained(folder)
        made[name] = folder
    return made


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"method": "full"}, id="full"),
        pytest.param({"method": "lora", "r": 5}, id="LoRA"),
        pytest.param({"method": "qlora", "r": 32, "adapter_dtype": "bfloat16"}, id="QLoRA"),
        pytest.param({"method": "qlora", "bnb_4bit_use_double_quant": False}, id="single quantization"),
        pytest.param({"method": "qlora", "prepare_kbit": True}, id="norms in 32-bit"),
        pytest.param({"method": "dora"}, id="DoRA"),
    ],
)
def test_a_tape_holds_the_bytes_of_the_real_model(folders, name, values):
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    chosen = dict(values)
    plan = FinetunePlan.for_method(chosen.pop("method"), name, **chosen)
    tape = trace(recipe(model(name), plan, Conditions()), lambda _: None)
    real = build(plan, folders[name], device="cpu")
    parameters = {id(parameter): parameter for parameter in real.parameters()}.values()
    # The first forward pass casts the biases of quantized layers.
    real(input_ids=torch.zeros(1, 8, dtype=torch.long))
    constants = {id(tensor): tensor for module in real.modules() for tensor in quantization_constants(module)}
    assert held(tape, plan, parameters=True) == sum(map(num_bytes, parameters))
    assert held(tape, plan, "quantization_constants") == sum(map(num_bytes, constants.values()))
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    assert sum(entry.elements(plan.r) * entry.count for entry in tape.residents if entry.trainable) == trained


def num_bytes(tensor):
    return tensor.numel() * tensor.element_size()


def held(tape, plan, component=None, *, parameters=False):
    return sum(
        entry.elements(plan.r) * entry.itemsize * entry.count
        for entry in tape.residents
        if (entry.is_parameter if parameters else entry.component == component)
    )
