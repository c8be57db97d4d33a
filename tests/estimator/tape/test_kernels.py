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


def headed(head_dim, *, grouped=False):
    """Return a model of 8 heads of a size."""
    kv_heads = 2 if grouped else 8
    return dataclasses.replace(
        models.find(DENSE), num_attention_heads=8, num_key_value_heads=kv_heads, head_dim=head_dim
    )


@pytest.mark.parametrize(
    ("model", "card", "values", "kernel"),
    [
        pytest.param(headed(128), "H100 SXM5 80 GB", {}, "cudnn", id="the largest head of cuDNN"),
        pytest.param(headed(136), "H100 SXM5 80 GB", {}, "flash", id="a larger one"),
        pytest.param(headed(100), "H100 SXM5 80 GB", {}, "flash", id="no multiple of 8 for cuDNN"),
        pytest.param(headed(128), "H100 SXM5 80 GB", FLOAT, "mem_efficient", id="32 bit on Hopper"),
        pytest.param(headed(128), "B200", {}, "cudnn", id="cuDNN first on Blackwell"),
        pytest.param(headed(128), "GeForce RTX 5090", {}, "flash", id="but not on consumer Blackwell"),
        pytest.param(headed(192), "RTX 4090", {}, "flash", id="the largest trained with little shared memory"),
        pytest.param(headed(200), "RTX 4090", {}, "mem_efficient", id="larger, 8.9"),
        pytest.param(headed(200), "GeForce RTX 3090", {}, "mem_efficient", id="larger, 8.6"),
        pytest.param(headed(200), "GeForce RTX 5090", {}, "mem_efficient", id="larger, 12.0"),
        pytest.param(headed(200), "A100 SXM4 80 GB", {}, "flash", id="larger, 8.0 has enough"),
        pytest.param(headed(224), "RTX 4090", {}, "mem_efficient", id="the last that cannot be trained"),
        pytest.param(headed(232), "RTX 4090", {}, "flash", id="beyond those"),
        pytest.param(headed(256), "A100 SXM4 80 GB", {}, "flash", id="the largest of flash"),
        pytest.param(headed(264), "A100 SXM4 80 GB", {}, "mem_efficient", id="larger than flash takes"),
        pytest.param(headed(264, grouped=True), "A100 SXM4 80 GB", {}, "mem_efficient", id="repeated, so not grouped"),
        pytest.param(headed(260), "A100 SXM4 80 GB", {}, "math", id="no multiple of 8 in 16 bit"),
        pytest.param(headed(260), "A100 SXM4 80 GB", FLOAT, "mem_efficient", id="a multiple of 4 in 32 bit"),
        pytest.param(headed(258), "A100 SXM4 80 GB", FLOAT, "math", id="no multiple of 4 in 32 bit"),
        pytest.param(headed(128), "Tesla T4", FLOAT, "mem_efficient", id="32 bit on an old card"),
        pytest.param(headed(264), "MI300X", {}, "mem_efficient", id="a large head on CDNA"),
        pytest.param(headed(256), "MI300X", {}, "flash", id="the largest head of AOTriton"),
        pytest.param(headed(128, grouped=True), "MI300X", FLOAT, "math", id="32 bit and grouping on CDNA"),
    ],
)
def test_the_size_of_a_head_rules_kernels_out(model, card, values, kernel):
    choice = kernel_choice(model, plan(**values), gpus.find(card), masked=False)
    assert choice.kernel == kernel, choice.reason


@pytest.mark.parametrize(
    ("model", "card", "values", "reason", "way_out"),
    [
        pytest.param(headed(64), "T4", {}, "before compute capability 8.0", "Use float16", id="bfloat16 on a T4"),
        pytest.param(
            headed(64, grouped=True), "T4", FLOAT, "no grouped-query", "Turn gradient_ch", id="32 bit on a T4"
        ),
        pytest.param(headed(64, grouped=True), "L4", FLOAT, "16-bit inputs only", "Turn bf16 on", id="32 bit on an L4"),
        pytest.param(headed(260), "L4", {}, "a multiple of 8", "Turn gradient_checkpointing on", id="an odd head"),
    ],
)
def test_the_math_kernel_has_its_reason_and_the_way_out(model, card, values, reason, way_out):
    choice = kernel_choice(model, plan(**values), gpus.find(card), masked=False)
    assert choice.kernel == "math"
    assert reason in choice.reason
    assert choice.way_out.startswith(way_out)


def test_where_one_layer_lives_at_a_time_only_the_length_is_left_to_shorten():
    model, card = headed(260), gpus.find("L4")
    found = [
        fallback_warning(kernel_choice(model, each, card, masked=False), model, each)
        for each in (plan(gradient_checkpointing=on) for on in (True, False))
    ]
    assert str(found[0]).endswith(" Shorten max_length.")
    assert "Turn gradient_checkpointing on" in str(found[1])


def test_cudnn_keeps_what_flash_does_and_masked_what_the_efficient_kernel_does():
    card = gpus.find("B200")
    kept = [kernel_choice(models.find(GROUPED), plan(), card, masked=masked).tape_kernel for masked in (False, True)]
    assert kept == ["flash", "mem_efficient"]


def test_scores_are_kept_in_32_bit_for_each_head():
    assert score_bytes(2, 3, 5) == 4 * 2 * 5 * 9


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
