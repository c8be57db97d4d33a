"""The family of a model by its type and name."""

import pytest

from catalog import models
from trainer.data.template import chat_template
from trainer.data.template.families import FAMILIES, GENERAL, family


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2_5"),
        ("Qwen/Qwen3-8B", "qwen3"),
        ("Qwen/Qwen3-30B-A3B", "qwen3"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3_instruct_2507"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3_1"),
        ("meta-llama/Llama-3.2-1B-Instruct", "llama3_2"),
        ("meta-llama/Llama-3.1-8B", ""),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "deepseek_r1_distill"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "deepseek_r1_distill"),
        ("google/gemma-2-9b-it", "gemma"),
        ("google/gemma-3-4b-it", "gemma3"),
        ("google/gemma-3-4b-pt", ""),
        ("microsoft/Phi-3.5-mini-instruct", "phi3_5"),
        ("openai/gpt-oss-20b", "gptoss"),
        ("openai-community/gpt2", ""),
        ("EleutherAI/pythia-1b", ""),
    ],
)
def test_shipped_models_have_the_template_of_their_family(name, template):
    found = family(models.find(name).model_type, name)
    assert found is not None
    assert found.template == template


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        pytest.param("llama", "HuggingFaceTB/SmolLM2-135M-Instruct", id="a Llama by its shapes alone"),
        pytest.param("llama", "meta-llama/Llama-2-7b-chat-hf", id="TRL ships none of Llama 2"),
        pytest.param("mistral", "mistralai/Mistral-7B-Instruct-v0.3", id="TRL ships none of Mistral"),
        pytest.param("phi3", "microsoft/phi-4", id="another template than Phi-3"),
    ],
)
def test_a_model_without_a_known_family_gets_none_by_mistake(model_type, name):
    assert family(model_type, name) is None


@pytest.mark.parametrize("name", sorted({entry.template for entry in FAMILIES if entry.template} | {GENERAL}))
def test_every_template_of_the_table_is_one_that_trl_ships(name):
    assert chat_template.of_family(name) is not None
