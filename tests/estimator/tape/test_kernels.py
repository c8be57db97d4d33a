import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from catalog import gpus, models
from estimator import pricing
from estimator.tape.kernels import WITHOUT_SDPA, fallback_warning, kernel_choice, score_bytes
from specs import GIB, FinetunePlan

GROUPED, DENSE = "meta-llama/Llama-3.1-8B", "meta-llama/Llama-2-7b-hf"


def plan(method="qlora", **values):
    return FinetunePlan.for_method(method, "m", **values)


HALF = {"dtype": "float16"}
FLOAT = {"dtype": "float32"}
KBIT = {"prepare_kbit": True}


@pytest.mark.parametrize(
    ("model", "card", "values", "masked", "kernel"),
    [
        pytest.param(GROUPED, "RTX 4090", {}, False, "flash", id="the usual case"),
        pytest.param(GROUPED, "RTX 4090", {}, True, "mem_efficient", id="a padding mask"),
        pytest.param(GROUPED, "H100 SXM5 80 GB", {}, False, "cudnn", id="cuDNN first on Hopper"),
        pytest.param(GROUPED, "B200", {}, True, "cudnn", id="cuDNN takes masks"),
        pytest.param("google/gemma-7b", "H100 SXM5 80 GB", {}, False, "flash", id="a head too large for cuDNN"),
        pytest.param(GROUPED, "T4", HALF, False, "math", id="T4 and grouped-query attention"),
        pytest.param(GROUPED, "T4", HALF, True, "mem_efficient", id="T4 with a mask repeats keys and values"),
        pytest.param(DENSE, "T4", HALF, False, "mem_efficient", id="T4 without grouping"),
        pytest.param(DENSE, "T4", {}, False, "math", id="T4 and bfloat16"),
        pytest.param(GROUPED, "RTX 4090", FLOAT, False, "math", id="float32 and grouping"),
        pytest.param(GROUPED, "RTX 4090", KBIT, False, "math", id="kbit preparation without autocast"),
        pytest.param(GROUPED, "RTX 4090", {**KBIT, "bf16": True}, False, "flash", id="kbit preparation with autocast"),
        pytest.param("google/gemma-2-2b", "RTX 4090", {}, False, "eager", id="soft-capping has no SDPA"),
        pytest.param(GROUPED, "RTX 4090", {"attn_implementation": "eager"}, False, "eager", id="eager as asked"),
        pytest.param(
            GROUPED, "RTX 4090", {"attn_implementation": "flash_attention_2"}, True, "flash", id="the package"
        ),
        pytest.param("deepseek-ai/DeepSeek-V2-Lite", "RTX 4090", {}, False, "mem_efficient", id="latent attention"),
        pytest.param("deepseek-ai/DeepSeek-V2-Lite", "H100 SXM5 80 GB", {}, False, "cudnn", id="latent, Hopper"),
        pytest.param(GROUPED, "MI300X", {}, False, "flash", id="AOTriton on CDNA"),
        pytest.param(GROUPED, "RX 7900 XTX", {}, False, "math", id="AOTriton is experimental on RDNA"),
        pytest.param(GROUPED, "Apple unified memory 64 GB", {}, False, "math", id="Metal"),
    ],
)
def test_the_kernel_follows_from_card_dtype_grouping_mask_and_head(model, card, values, masked, kernel):
    choice = kernel_choice(models.find(model), plan(**values), gpus.find(card), masked=masked)
    assert choice.kernel == kernel, choice.reason


def test_without_a_card_every_kernel_is_available():
    assert kernel_choice(models.find(GROUPED), plan(), None, masked=False).kernel == "flash"


def test_a_silent_fallback_brings_a_warning_with_its_bytes_and_a_way_out():
    model, t4 = models.find(GROUPED), gpus.find("T4")
    half = plan(dtype="float16", max_length=2048)
    text = fallback_warning(kernel_choice(model, half, t4, masked=False), model, half)
    assert score_bytes(1, 2048, 32) == GIB // 2
    assert text is not None
    assert "16.0 GiB over 32 layers" in text
    assert "compute capability 8.0" in text
    assert "gradient_checkpointing" in text
    lighter = dataclasses.replace(half, gradient_checkpointing=True)
    assert "512 MiB over 1 layer)" in str(
        fallback_warning(kernel_choice(model, lighter, t4, masked=False), model, lighter)
    )


def test_float16_is_the_way_out_of_bfloat16_on_an_old_card():
    choice = kernel_choice(models.find(DENSE), plan(), gpus.find("T4"), masked=False)
    assert choice.way_out == "Use float16 on this card"


@given(st.sampled_from(models.names()), st.sampled_from(gpus.names()), st.booleans(), st.booleans())
def test_every_model_on_every_card_has_a_kernel_and_every_math_kernel_has_a_way_out(model, card, masked, autocast):
    spec = models.find(model)
    choice = kernel_choice(spec, plan(bf16=autocast), gpus.find(card), masked=masked)
    assert choice.reason
    assert bool(choice.way_out) == (choice.kernel == "math")
    assert (fallback_warning(choice, spec, plan()) is None) == (choice.kernel != "math")
    assert choice.tape_kernel != "cudnn"


def test_the_architectures_without_sdpa_match_the_installed_transformers():
    without = {
        name
        for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        if not MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[name]]._supports_sdpa
    }
    assert without == WITHOUT_SDPA


def test_the_price_of_a_plan_carries_the_warning():
    model = models.find("Qwen/Qwen2.5-0.5B")
    half = plan(dtype="float16", max_length=512)
    found = pricing.price(model, half, gpus.find("T4"))
    assert any("math kernel" in text for text in found.warnings)
    assert not any("math kernel" in text for text in pricing.price(model, half, gpus.find("L4")).warnings)
