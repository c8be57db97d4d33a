import json
import math
import re
import time

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from catalog import models, sizes
from catalog.shapes import architectures
from scripts.facts.architectures import architecture, linear_modules, model_types
from specs import CatalogError, LorafitError, ModelSpec
from specs.paths import assets
from trainer.model.layers import layers
from trainer.model.towers import auto_class

ENTRIES = json.loads((assets() / "models.json").read_text(encoding="utf-8"))["models"]
SHIPPED_TYPES = sorted({entry["config"]["model_type"] for entry in ENTRIES})
FOLDER = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 100}
LLAMA = {"model_type": "llama", "intermediate_size": 128, **FOLDER}


def built(config):
    found = AutoConfig.for_model(**config)
    with torch.device("meta"):
        return auto_class(found).from_config(found)


def num_params(model):
    return sum(weight.numel() for weight in model.parameters())


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    transformers.logging.set_verbosity_error()


@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry["name"]) for entry in ENTRIES])
def test_every_shipped_model_builds_to_its_published_count(entry):
    model = built(entry["config"])
    assert num_params(model) == entry["num_params"]
    assert models.shipped(entry["name"]).layers == layers(model)


DIFFERENT = [entry for entry in ENTRIES if "published" in entry]


@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry["name"]) for entry in DIFFERENT])
def test_a_published_number_that_differs_has_a_reason_that_accounts_for_the_whole_difference(entry):
    difference = abs(entry["published"]["params"] - entry["num_params"])
    text = entry["published"]["difference"]
    products = [int(a) * int(b) * int(c or 1) for a, b, c in re.findall(r"(\d+) x (\d+)(?: x (\d+))?", text)]
    stated = {int(number) for number in re.findall(r"\d+", text)} | set(products)
    words = [int(n) * int(m) for n, m in re.findall(r"(\d+) (?:layers x|more position vectors of) (\d+)", text)]
    assert difference in stated | set(words)


def test_there_are_a_hundred_models_each_with_its_sources():
    assert len(ENTRIES) >= 100
    assert len(set(models.names())) == len(models.names())
    for entry in ENTRIES:
        assert len(entry["config_source"]) > 10, entry["name"]
        assert len(entry["count_source"]) > 10, entry["name"]
        assert ("license" in entry) == ("license_source" in entry), entry["name"]


@pytest.mark.parametrize("name", models.names())
def test_every_shipped_name_is_found_complete(name):
    spec = models.find(name)
    assert spec.name == name
    assert spec.num_params
    assert spec.linear_modules
    assert spec.model_type in architectures()
    assert bool(spec.expert_parameters) == spec.is_moe


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param("META-LLAMA/llama-3.1-8b", "meta-llama/Llama-3.1-8B", id="any case"),
        pytest.param("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", id="the part after the slash"),
        pytest.param("  gpt2 ", "openai-community/gpt2", id="blanks around"),
        pytest.param("Llama 2 7B", "meta-llama/Llama-2-7b-hf", id="words"),
        pytest.param("qwen 2.5 7b instruct", "Qwen/Qwen2.5-7B-Instruct", id="words of a fine-tune"),
    ],
)
def test_a_shipped_model_is_found_by(text, name):
    assert models.find(text).name == name


def test_fine_tunes_keep_the_tensors_and_say_what_differs():
    base, tuned = models.find("Qwen/Qwen2.5-7B"), models.find("Qwen/Qwen2.5-7B-Instruct")
    assert (base.num_params, base.max_position_embeddings) == (7_615_616_512, 131_072)
    assert (tuned.num_params, tuned.max_position_embeddings) == (7_615_616_512, 32_768)


def test_finding_a_shipped_model_takes_under_five_milliseconds():
    models.find("gpt2")
    start = time.perf_counter()
    for name in models.names():
        models.find(name)
    assert (time.perf_counter() - start) / len(models.names()) < 0.005


@settings(max_examples=60, deadline=None)
@given(st.floats(min_value=0.02, max_value=2000))
def test_a_reference_shape_has_the_size_asked_for_within_one_percent(billions):
    spec = models.described(sizes.reference_config(billions), name="size", source=sizes.SOURCE)
    assert spec.num_params == pytest.approx(billions * 1e9, rel=0.01)
    assert spec.hidden_size == spec.num_attention_heads * spec.head_dim
    assert "reference" in spec.source


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(sizes.reference_config(7), id="7B"),
        pytest.param(sizes.reference_config(0.1), id="0.1B, tied head"),
        pytest.param({**LLAMA, "attention_bias": True}, id="biases in the attention"),
        pytest.param({**LLAMA, "mlp_bias": True, "head_dim": 32, "num_key_value_heads": 2}, id="biases and head_dim"),
    ],
)
def test_llamas_are_counted_without_building_them(config):
    assert models.described(config, name="x", source="test").num_params == num_params(built(config))


@pytest.mark.parametrize(
    ("text", "billions"),
    [
        pytest.param("7B", 7, id="letter"),
        pytest.param("0.5b", 0.5, id="small letter"),
        pytest.param("7 billion", 7, id="word"),
        pytest.param("250M", 0.25, id="millions"),
        pytest.param("1.5 trillion parameters", 1500, id="trillions"),
        pytest.param("gpt2", None, id="a name"),
        pytest.param("7", None, id="no unit"),
    ],
)
def test_a_size_is_read_from(text, billions):
    assert sizes.billions(text) == billions


def test_the_architectures_are_those_of_the_installed_transformers():
    written = json.loads((assets() / "architectures.json").read_text(encoding="utf-8"))
    assert set(written["architectures"]) == set(model_types())
    assert f"transformers {transformers.__version__} " in written["source"]


@pytest.mark.parametrize("model_type", SHIPPED_TYPES)
def test_an_architecture_has_the_modules_that_transformers_builds(model_type):
    assert architecture(model_type) == architectures()[model_type]


@pytest.mark.slow
def test_every_architecture_has_the_modules_that_transformers_builds():
    written = json.loads((assets() / "architectures.json").read_text(encoding="utf-8"))["architectures"]
    for model_type in model_types():
        assert architecture(model_type) == written[model_type], model_type


@pytest.fixture
def written(tmp_path):
    def write(content):
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / "config.json").write_bytes(text)
        return str(folder)

    return write


def test_a_folder_stands_for_its_config(written):
    spec = models.find(written(LLAMA))
    assert (spec.hidden_size, spec.vocab_size, spec.num_params) == (64, 100, num_params(built(LLAMA)))
    assert spec.linear_modules == ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def test_a_local_config_of_a_shipped_shape_has_its_exact_count(written):
    entry = next(entry for entry in ENTRIES if entry["name"] == "Qwen/Qwen3-30B-A3B")
    spec = models.find(written({**entry["config"], "rope_theta": 1234.0, "max_position_embeddings": 99}))
    assert spec.num_params == entry["num_params"]
    assert spec.expert_parameters == ("experts.gate_up_proj", "experts.down_proj")


def test_a_local_config_of_another_shape_has_no_count_until_it_is_built(written):
    config = {**models.find("Qwen/Qwen2.5-0.5B").config, "vocab_size": 1000}
    spec = models.find(written(config))
    assert spec.num_params is None
    assert "q_proj" in spec.linear_modules


@pytest.mark.parametrize("model_type", ["deepseek_v2", "deepseek_v3"])
@pytest.mark.parametrize("q_lora_rank", [None, 24])
def test_latent_attention_has_the_query_projections_it_is_built_with(written, model_type, q_lora_rank):
    latent = {"kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
    experts = {"n_routed_experts": 8, "moe_intermediate_size": 32, "n_group": 2, "topk_group": 1}
    config = {**LLAMA, "model_type": model_type, "q_lora_rank": q_lora_rank, **latent, **experts}
    assert set(models.find(written(config)).linear_modules) == set(linear_modules(built(config)))


def test_a_config_that_does_not_say_ties_its_head_as_its_type_does(written):
    assert models.find(written({**LLAMA, "model_type": "gemma"})).tie_word_embeddings is True
    assert models.find(written(LLAMA)).tie_word_embeddings is False


def test_a_model_with_a_vision_tower_is_counted_whole(written):
    entry = next(entry for entry in ENTRIES if entry["name"] == "google/gemma-3-4b-it")
    spec = models.find(written(entry["config"]))
    assert (spec.model_type, spec.num_params, spec.hidden_size) == ("gemma3", 4_300_079_472, 2560)
    assert "reads images or sound" in spec.notes[0]
    assert models.find(written(entry["config"]["text_config"])).model_type == "gemma3_text"


def test_a_text_tower_may_leave_out_the_defaults_of_its_type(written):
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    spec = models.find(written({"model_type": "gemma3", "text_config": {**text, "sliding_window": 1024}}))
    assert (spec.num_attention_heads, spec.vocab_size) == (8, 262_208)
    assert spec.text_config["sliding_window"] == 1024


BROKEN = [
    pytest.param(b"{", "is not valid JSON", id="torn file"),
    pytest.param(b"\xff\xfe\x00", "is not valid JSON", id="not text"),
    pytest.param(b"[" * 100_000, "is not valid JSON", id="nesting bomb"),
    pytest.param(b"[1]", "must hold one JSON object", id="a list"),
    pytest.param(b" " * (2**23 + 1), "longer than a config.json can be (8 MiB)", id="longer than 8 MiB"),
    pytest.param({**LLAMA, "hidden_size": math.nan}, "must be a whole number", id="NaN"),
    pytest.param({**LLAMA, "hidden_size": math.inf}, "must be a whole number", id="an infinite width"),
    pytest.param({**LLAMA, "hidden_size": -1}, "must lie between", id="negative width"),
    pytest.param({**LLAMA, "hidden_size": 10**12}, "must lie between", id="huge width"),
    pytest.param({**LLAMA, "hidden_size": "64"}, "must be a whole number", id="text for a number"),
    pytest.param({"model_type": "llama"}, "is missing", id="missing fields"),
    pytest.param({**LLAMA, "model_type": "lama"}, "nearest: ", id="unknown type"),
    pytest.param({**LLAMA, "model_type": ["llama"]}, "must name the architecture", id="a list as type"),
    pytest.param({"model_type": "mamba", "hidden_size": 64}, "with heads", id="no heads"),
    pytest.param({**LLAMA, "text_config": 7}, "must be a JSON object", id="text_config that is not an object"),
    pytest.param(
        {**LLAMA, "model_type": "yuan", "auto_map": {"AutoModel": "x.Y"}}, "needs its own code", id="its own code"
    ),
    pytest.param(
        {**LLAMA, "quantization_config": {"quant_method": "quanto"}}, "already quantized", id="quantized checkpoint"
    ),
]


@pytest.mark.parametrize(("content", "part"), BROKEN)
def test_a_config_that_cannot_be_used_is_refused_in_one_sentence(written, content, part):
    with pytest.raises(LorafitError, match=re.escape(part)) as refused:
        models.find(written(content))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@given(
    st.dictionaries(
        st.sampled_from([*LLAMA, "num_key_value_heads", "head_dim", "text_config", "quantization_config", "auto_map"]),
        st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), st.lists),
    )
)
def test_any_config_gives_a_model_or_one_sentence(changes):
    try:
        spec = models.described({**LLAMA, **changes}, name="x", source="test")
    except LorafitError as refused:
        assert "\n" not in str(refused)  # noqa: PT017 - both ends are right, a traceback is not
    else:
        assert isinstance(spec, ModelSpec)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        pytest.param("llama-9b", "nearest: ", id="near a shipped name"),
        pytest.param("qwen 3", "nearest: ", id="words of several models"),
        pytest.param("", "is not in the catalog", id="nothing"),
        pytest.param("x\0y", "is not in the catalog", id="a zero byte"),
        pytest.param("a" * 10_000, "is not in the catalog", id="longer than a path"),
        pytest.param("../../etc/passwd\n", "is not", id="a path that is not a model"),
        pytest.param("/dev/zero", "has no config.json", id="a device"),
        pytest.param("0.001B", "must lie between", id="too small"),
        pytest.param("9000T", "must lie between", id="too large"),
    ],
)
def test_a_name_of_no_model_is_refused_with_a_way_out(text, part):
    with pytest.raises(CatalogError, match=part):
        models.find(text)


def test_a_folder_without_a_config_says_so(tmp_path):
    with pytest.raises(CatalogError, match="has no config"):
        models.find(str(tmp_path))
