"""The Hub's own configurations are read as transformers reads them; each case is rebuilt from a public report."""

import json
import math
from pathlib import Path

import pytest
from transformers import AutoConfig, NemotronHConfig

from catalog import models
from specs import CatalogError, SpecError
from trainer.model.build import model_config

CASES = Path(__file__).parent / "cases"
"""One configuration each; where they come from is in the README of the folder."""

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


def found(name, tmp_path, **changes):
    folder = tmp_path / name
    folder.mkdir()
    config = json.loads((CASES / f"{name}.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
    return models.find(str(folder))


def described(**changes):
    return models.described({**LLAMA, **changes}, name="x", source="a test")


def test_code_beside_a_model_that_transformers_has_is_ignored_and_said(tmp_path):
    spec = found("phi4_mini_automap", tmp_path)
    assert (spec.model_type, spec.hidden_size) == ("phi3", 3072)
    assert spec.notes == ("auto_map is ignored: transformers' own phi3 is used, and no code of the model is run.",)


def test_infinity_is_read_and_reaches_transformers_as_a_number(tmp_path):
    spec = found("nemotron_infinity", tmp_path)
    assert (spec.num_hidden_layers, spec.num_attention_heads) == (56, 40)
    assert spec.config["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
    json.dumps(spec.config, allow_nan=False)
    assert model_config(spec.config).time_step_limit[1] == math.inf


def test_what_transformers_itself_saves_is_read(tmp_path):
    NemotronHConfig(time_step_limit=(0.0, math.inf)).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    assert "__float__" in text
    spec = models.find(str(tmp_path))
    assert model_config(spec.config).time_step_limit == AutoConfig.from_pretrained(tmp_path).time_step_limit


def test_layers_listed_one_by_one_are_counted(tmp_path):
    assert found("nemotron_infinity", tmp_path, num_hidden_layers=None).num_hidden_layers == 56


def test_a_size_for_each_layer_is_read_as_its_largest(tmp_path):
    assert found("gemma3n_e2b", tmp_path).intermediate_size == 8192
    assert described(num_key_value_heads=[4, 2]).num_key_value_heads == 4


@pytest.mark.parametrize("value", [[], [128, "x"], [[128]], [128, -1], [0, 0], 10**400, math.nan])
def test_anything_but_sizes_is_refused(value):
    with pytest.raises(SpecError, match="intermediate_size"):
        described(intermediate_size=value)


@pytest.mark.parametrize(
    "experts",
    [
        pytest.param({"num_local_experts": 8}, id="Mixtral, gpt-oss, Granite"),
        pytest.param({"num_experts": 8}, id="Qwen"),
        pytest.param({"n_routed_experts": 8}, id="DeepSeek, GLM"),
        pytest.param({"moe_num_experts": 8}, id="ERNIE, Step"),
        pytest.param({"moe_num_experts": [8, 8]}, id="ERNIE with images"),
        pytest.param({"ffn_config": {"moe_num_experts": 8}}, id="DBRX"),
    ],
)
def test_experts_are_found_under_every_name(experts):
    assert described(**experts).num_experts == 8


def test_a_quantized_tower_is_seen_and_refused_by_its_format(tmp_path):
    with pytest.raises(CatalogError, match="compressed-tensors"):
        found("kimi_nested_quant", tmp_path)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("llama31_bnb4bit", "in 4 bit by bitsandbytes and are trained as they are"),
        ("gptoss20b_mxfp4", "stored in MXFP4: they are expanded to 16 bit in RAM"),
    ],
)
def test_weights_that_are_quantized_already_are_accepted_and_it_is_said_how(tmp_path, name, note):
    assert note in found(name, tmp_path).notes[0]


def test_a_mixture_that_bitsandbytes_has_quantized_is_refused():
    with pytest.raises(CatalogError, match="a mixture whose experts are already quantized"):
        described(num_experts=8, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})


@pytest.mark.parametrize(("method", "packages"), [("gptq", "gptqmodel optimum"), ("awq", "gptqmodel")])
def test_what_needs_a_package_says_how_to_install_it(method, packages):
    with pytest.raises(CatalogError, match=f"Run pip install {packages}, or"):
        described(quantization_config={"quant_method": method})


def test_quantization_is_seen_in_the_file_that_modelopt_writes_beside(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}', encoding="utf-8")
    with pytest.raises(CatalogError, match="modelopt"):
        models.find(str(tmp_path))


def test_modelopt_may_quantize_keys_and_values_alone(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": null}}', encoding="utf-8")
    assert models.find(str(tmp_path)).notes == ()


@pytest.mark.parametrize("said", ["nf4", {}, [1], {"quant_method": "bitsandbytes"}, {"bits": 4}])
def test_a_quantization_that_says_no_format_is_refused_for_that(said):
    with pytest.raises(CatalogError, match="quantization_config: must say how the weights are stored: quant_method"):
        models.described({**LLAMA, "quantization_config": said}, name="m", source="")


def test_a_long_file_is_read(tmp_path):
    scales = {f"scale_{number}": 0.5 for number in range(60_000)}
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "scales": scales}), encoding="utf-8")
    assert (tmp_path / "config.json").stat().st_size > 2**20
    assert models.find(str(tmp_path)).hidden_size == 64


def test_a_model_of_several_towers_is_refused_without_the_sizes_of_its_text_model():
    flat = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 1000}
    with pytest.raises(CatalogError, match="text_config: is missing, and llava reads the sizes"):
        models.described({"model_type": "llava", **flat}, name="flat", source="test")
    read = models.described({"model_type": "qwen2_5_vl", **flat}, name="flat", source="test")
    assert (read.hidden_size, read.num_hidden_layers) == (256, 2)
