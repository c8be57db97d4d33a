"""A model is read from any config.json, and a broken or hostile one is refused with one sentence."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs import ModelSpec, SpecError

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 1024,
}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(LLAMA, (64, 2, 4, 2, 16), id="Llama"),
        pytest.param(
            {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_inner": None},
            (768, 12, 12, 12, 64),
            id="GPT-2 spells every field differently",
        ),
        pytest.param(
            {"model_type": "falcon", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8,
             "vocab_size": 64, "multi_query": True},
            (128, 2, 8, 1, 16),
            id="Falcon's multi-query attention",
        ),
        pytest.param({**LLAMA, "head_dim": 32}, (64, 2, 4, 2, 32), id="head_dim of its own"),
        pytest.param(
            {"model_type": "gemma3", "text_config": {**LLAMA, "model_type": "gemma3_text"}},
            (64, 2, 4, 2, 16),
            id="a multimodal model's text tower",
        ),
    ],
)  # fmt: skip
def test_shapes_are_read_whatever_the_architecture_calls_them(
    config: dict[str, Any], expected: tuple[int, ...]
) -> None:
    model = ModelSpec.from_config(config, name="m")
    shapes = (
        model.hidden_size,
        model.num_hidden_layers,
        model.num_attention_heads,
        model.num_key_value_heads,
        model.head_dim,
    )
    assert shapes == expected


def test_the_configuration_comes_back_unchanged() -> None:
    assert ModelSpec.from_config(LLAMA, name="m").config == LLAMA


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        pytest.param({"hidden_size": None}, "hidden_size", id="missing"),
        pytest.param({"hidden_size": -64}, "hidden_size", id="negative"),
        pytest.param({"hidden_size": 0}, "hidden_size", id="zero"),
        pytest.param({"num_hidden_layers": 10**9}, "num_hidden_layers", id="huge"),
        pytest.param({"vocab_size": 1.5}, "vocab_size", id="a fraction"),
        pytest.param({"vocab_size": "512"}, "vocab_size", id="text"),
        pytest.param({"vocab_size": math.nan}, "m", id="NaN"),
        pytest.param({"vocab_size": math.inf}, "m", id="infinity"),
        pytest.param({"num_attention_heads": True}, "num_attention_heads", id="a boolean"),
        pytest.param({"num_key_value_heads": 3}, "num_key_value_heads", id="heads that do not divide"),
        pytest.param({"model_type": ""}, "model_type", id="no architecture"),
        pytest.param({"text_config": "x"}, "text_config", id="text tower that is not an object"),
    ],
)
def test_a_hostile_configuration_is_refused_naming_the_field(changes: dict[str, Any], subject: str) -> None:
    with pytest.raises(SpecError) as refusal:
        ModelSpec.from_config({**LLAMA, **changes}, name="m")
    assert subject in refusal.value.subject
    assert "\n" not in str(refusal.value)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_any_value_of_a_field_is_accepted_or_refused_with_one_sentence(value: Any) -> None:
    for field in LLAMA:
        try:
            ModelSpec.from_config({**LLAMA, field: value}, name="m")
        except SpecError as refusal:
            assert len(str(refusal)) < 400  # noqa: PT017  (both outcomes are allowed)


def test_only_an_object_is_a_configuration() -> None:
    with pytest.raises(SpecError, match="one JSON object"):
        ModelSpec.from_config([1], name="m")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "least", "most"),
    [
        ("hidden_size", 1, 1_000_000),
        ("num_hidden_layers", 1, 10_000),
        ("num_attention_heads", 2, 100_000),
        ("intermediate_size", 1, 10_000_000),
        ("vocab_size", 1, 100_000_000),
        ("max_position_embeddings", 0, 10_000_000_000),
        ("num_experts", 0, 100_000),
        ("head_dim", 1, 100_000),
    ],
)
def test_a_size_is_read_up_to_both_ends_of_its_range(field: str, least: int, most: int) -> None:
    for value in (least, most):
        assert (getattr(ModelSpec.from_config({**LLAMA, field: value}, name="m"), field) or 0) == value
    for value in (-1, most + 1):
        with pytest.raises(SpecError, match="must lie between"):
            ModelSpec.from_config({**LLAMA, field: value}, name="m")


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        pytest.param({"intermediate_size": None}, "intermediate_size", 256, id="feed-forward four times as wide"),
        pytest.param({"num_key_value_heads": None}, "num_key_value_heads", 4, id="every head its own keys"),
        pytest.param({"num_key_value_heads": None, "num_kv_heads": 2}, "num_key_value_heads", 2, id="Falcon's name"),
        pytest.param({"multi_query": True}, "num_key_value_heads", 1, id="one key for all"),
        pytest.param(
            {"multi_query": True, "new_decoder_architecture": True}, "num_key_value_heads", 2, id="Falcon 40B groups"
        ),
        pytest.param({"multi_query": False}, "num_key_value_heads", 2, id="grouped"),
        pytest.param({"max_position_embeddings": None}, "max_position_embeddings", None, id="no longest sequence"),
        pytest.param({}, "is_moe", False, id="dense"),
        pytest.param({"num_experts": 1}, "is_moe", True, id="one expert"),
        pytest.param({"n_routed_experts": 8}, "num_experts", 8, id="DeepSeek's name"),
        pytest.param({"vocab_size": 512.0}, "vocab_size", 512, id="a whole number as JSON may write it"),
        pytest.param({}, "tie_word_embeddings", False, id="a head of its own"),
        pytest.param({"tie_word_embeddings": True}, "tie_word_embeddings", True, id="the embedding is the head"),
    ],
)
def test_what_a_configuration_leaves_out_follows_from_the_rest(
    changes: dict[str, Any], field: str, expected: int | None
) -> None:
    assert getattr(ModelSpec.from_config({**LLAMA, **changes}, name="m"), field) == expected


def test_a_text_tower_is_tied_where_the_whole_model_is() -> None:
    config = {"model_type": "gemma3", "tie_word_embeddings": True, "text_config": LLAMA}
    assert ModelSpec.from_config(config, name="m").tie_word_embeddings


def test_the_order_of_a_configuration_decides_nothing() -> None:
    turned = dict(reversed(LLAMA.items()))
    assert ModelSpec.from_config(turned, name="m") == ModelSpec.from_config(LLAMA, name="m")
