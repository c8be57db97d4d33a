import json

import pytest

from catalog import models
from estimator.tape import layers, library
from specs import FinetunePlan, ModelSpec
from tests.estimator.small import CONFIGS
from trainer.model.build import base_model
from trainer.model.packing import META


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAFIT_CACHE", str(tmp_path))
    layers._kept.cache_clear()
    yield
    layers._kept.cache_clear()


def test_names_and_experts_come_from_the_configuration_and_not_from_its_type(monkeypatch):
    small = ModelSpec.from_config(CONFIGS["qwen3_moe with experts"], name="small")
    found = layers.with_layers(small)
    assert found.linear_modules == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert found.expert_parameters == ("experts.gate_up_proj", "experts.down_proj")
    assert found.is_moe
    monkeypatch.setattr(library, "answered", lambda *_: pytest.fail("asked again"))
    assert layers.with_layers(small) == found


def test_a_damaged_file_is_written_again():
    small = ModelSpec.from_config(CONFIGS["llama"], name="small")
    found = layers.with_layers(small)
    file = layers._file(layers._Question(small.config_json))
    file.write_text(file.read_text().replace("q_proj", "q_porj"))
    layers._kept.cache_clear()
    assert layers.with_layers(small) == found
    assert "q_porj" not in file.read_text()


def test_a_shipped_model_needs_no_build(monkeypatch):
    monkeypatch.setattr(library, "answered", lambda *_: pytest.fail("asked"))
    shipped = models.find("Qwen/Qwen3-30B-A3B")
    assert layers.with_layers(shipped) is shipped
    assert json.loads(json.dumps(shipped.layers.to_dict()))["linear"]


def test_a_model_is_counted_as_it_is_built_and_not_as_a_gated_decoder_of_its_sizes():
    small = ModelSpec.from_config(CONFIGS["qwen3_moe with experts"], name="small")
    found = layers.with_layers(small)
    built = base_model(FinetunePlan.for_method("full", "small"), small.config, device=META)
    assert small.num_params is None
    assert found.num_params == sum(weight.numel() for weight in built.parameters())


@pytest.mark.parametrize("stored", [{"load_in_4bit": True}, {"load_in_8bit": True}, {"quant_method": "gptq"}])
def test_a_checkpoint_that_is_quantized_has_the_layers_of_the_model_it_was_made_from(stored):
    plain = ModelSpec.from_config(CONFIGS["llama"], name="small")
    quantized = {"quant_method": "bitsandbytes", **stored}
    small = ModelSpec.from_config({**CONFIGS["llama"], "quantization_config": quantized}, name="small")
    assert layers.with_layers(small).layers == layers.with_layers(plain).layers
