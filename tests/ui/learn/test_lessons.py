"""The arithmetic behind the lessons, against the libraries that do it for real."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import models
from specs.targets import Layers, Linear
from ui.learn import quantize
from ui.learn.lessons import checkpointing
from ui.learn.lessons.adapter import lora_params
from ui.learn.lessons.targets import modules
from ui.learn.number_formats import FORMATS, decode, encode
from ui.learn.quantize import SCHEMES

WEIGHTS = np.random.default_rng(0).normal(0, 0.02, (64, 512)).astype(np.float32)


@pytest.mark.parametrize("name", ["float16", "float32"])
@given(number=st.floats(-60000, 60000))
def test_a_format_stores_what_numpy_stores(name, number):
    single = float(np.float32(number))
    assert decode(*encode(single, FORMATS[name]), FORMATS[name]) == float(np.dtype(name).type(single))


@given(st.floats(-(2.0**120), 2.0**120, width=32))
def test_bfloat16_is_float32_rounded_to_its_upper_half(number):
    stored = decode(*encode(number, FORMATS["bfloat16"]), FORMATS["bfloat16"])
    bits = int(np.float32(number).view(np.uint32))
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    assert stored == float(np.uint32(rounded).view(np.float32))


@pytest.mark.parametrize(
    ("name", "largest"),
    [("float16", 65504), ("float8_e4m3fn", 448), ("float8_e5m2", 57344), ("bfloat16", 3.3895313892515355e38)],
)
def test_the_largest_numbers_are_the_published_ones(name, largest):
    assert FORMATS[name].largest == largest
    assert decode(*encode(largest, FORMATS[name]), FORMATS[name]) == largest


def test_what_is_too_large_becomes_infinite_or_not_a_number():
    assert decode(*encode(70000, FORMATS["float16"]), FORMATS["float16"]) == math.inf
    assert math.isnan(decode(*encode(1000, FORMATS["float8_e4m3fn"]), FORMATS["float8_e4m3fn"]))


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_every_scheme_keeps_the_shape_and_most_of_the_weights(scheme):
    result = SCHEMES[scheme].apply(WEIGHTS, 64)
    assert result.restored.shape == WEIGHTS.shape
    assert quantize.error(WEIGHTS, result) < 0.2


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_smaller_blocks_take_more_bits(scheme):
    assert SCHEMES[scheme].apply(WEIGHTS, 32).bits_per_weight > SCHEMES[scheme].apply(WEIGHTS, 128).bits_per_weight


def test_nf4_beats_even_steps_on_normal_weights():
    errors = {name: quantize.error(WEIGHTS, SCHEMES[name].apply(WEIGHTS, 64)) for name in ("nf4", "int4", "fp4")}
    assert errors["nf4"] < min(errors["int4"], errors["fp4"])


def test_clipping_by_least_error_is_never_worse_than_none():
    for block in (32, 64, 256):
        least = quantize.error(WEIGHTS, SCHEMES["int4-mse"].apply(WEIGHTS, block))
        assert least <= quantize.error(WEIGHTS, SCHEMES["int4"].apply(WEIGHTS, block)) + 1e-7


def test_constants_cost_what_the_qlora_paper_says():
    assert quantize.constant_bits(64, double=False) == 0.5
    assert round(quantize.constant_bits(64, double=True), 3) == 0.127


@pytest.mark.parametrize("scheme", list(SCHEMES))
@given(shape=st.tuples(st.integers(1, 9), st.integers(1, 70)))
def test_matrices_that_fill_no_block_and_zeros_are_fine(scheme, shape):
    zeros = np.zeros(shape, dtype=np.float32)
    assert np.array_equal(SCHEMES[scheme].apply(zeros, 64).restored, zeros)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bit_values_are_those_of_bitsandbytes(kind):
    functional = pytest.importorskip("bitsandbytes.functional")
    torch = pytest.importorskip("torch")
    theirs, state = functional.quantize_4bit(torch.from_numpy(WEIGHTS), blocksize=64, quant_type=kind)
    restored = functional.dequantize_4bit(theirs, state).numpy()
    ours = SCHEMES[kind].apply(WEIGHTS, 64).restored
    assert np.mean(~np.isclose(ours, restored, atol=1e-6)) < 1e-3


def test_adapter_sizes_are_the_published_ones():
    assert 32 * 2 * lora_params(4096, 4096, 8) == 4_194_304  # Llama-2-7B, r 8 on q_proj and v_proj


def test_the_module_tree_counts_layers():
    linear = Linear(path="model.layers.#.self_attn.q_proj", numbers="0-2", in_features=4, out_features=8)
    head = Linear(path="lm_head", in_features=4, out_features=100, left_out="head")
    model = dataclasses.replace(models.find("gpt2"), layers=Layers(linear=(linear, head)))
    assert modules(model) == {"q_proj": ((8, 4), 3)}


@given(st.integers(2, 80), st.integers(4, 40))
def test_checkpointing_never_raises_the_peak_by_more_than_the_inputs_it_keeps(layers, weight):
    kept = max(checkpointing.profile(layers, weight, recompute=False))
    recomputed = max(checkpointing.profile(layers, weight, recompute=True))
    assert kept == layers * weight
    assert recomputed == layers + weight
