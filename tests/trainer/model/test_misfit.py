"""What is said of a configuration that transformers builds no model from: which field, in our own words."""

import re

import pytest

from specs import FinetunePlan, SpecError
from trainer.model.build import base_model

pytestmark = pytest.mark.filterwarnings("ignore")

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 400,
    "max_position_embeddings": 256,
}
LLAMA = {"model_type": "llama", **SIZES}
GEMMA = {"model_type": "gemma3_text", "head_dim": 16, "sliding_window": 8, **SIZES}
DOTS = {"model_type": "dots1", **SIZES}
WORDS_OF_LIBRARIES = re.compile(r"Error|NoneType|object has no|Validation|validator|`|unsupported|argument")


@pytest.mark.parametrize(
    ("config", "named", "got"),
    [
        pytest.param({**LLAMA, "hidden_act": "squash"}, "hidden_act", "squash", id="an activation that there is not"),
        pytest.param({**LLAMA, "hidden_act": 3}, "hidden_act", "3", id="a number for a name"),
        pytest.param({**LLAMA, "hidden_size": "wide"}, "hidden_size", "wide", id="a name for a number"),
        pytest.param({**LLAMA, "rope_parameters": "x"}, "rope_parameters", "x", id="a name for a table"),
        pytest.param({**LLAMA, "rope_parameters": {"rope_type": "odd"}}, "rope_type", "odd", id="inside a table"),
        pytest.param({**LLAMA, "rope_scaling": {"type": "yarn"}}, "rope_scaling", "yarn", id="a table cut short"),
        pytest.param({**GEMMA, "layer_types": ["full"] * 3}, "layer_types", "full", id="kinds of layers unknown"),
        pytest.param({**GEMMA, "layer_types": "full"}, "layer_types", "full", id="one kind for a list"),
        pytest.param({**LLAMA, "pad_token_id": 500}, "pad_token_id", "500", id="a token past the vocabulary"),
        pytest.param({**LLAMA, "dtype": "float8"}, "dtype", "float8", id="a dtype that there is not"),
        pytest.param({**LLAMA, "attention_bias": "yes"}, "attention_bias", "yes", id="a word for a truth"),
        pytest.param(DOTS, "n_routed_experts", "is missing", id="read later, through what a module keeps"),
    ],
)
def test_the_field_at_fault_is_named(config, named, got):
    with pytest.raises(SpecError) as refused:
        base_model(FinetunePlan.for_method("full", "odd"), config, device="meta")
    said = str(refused.value)
    assert said.startswith(f"{config['model_type']}: {named}: ")
    assert got in said
    assert said.endswith("Use the model's own config.json.")
    assert not WORDS_OF_LIBRARIES.search(said)


def test_what_no_field_explains_is_said_of_the_whole():
    with pytest.raises(SpecError, match=r"llama: is a configuration that transformers builds no model from\. Use"):
        base_model(FinetunePlan.for_method("full", "odd"), {**LLAMA, "id2label": [1]}, device="meta")
