"""What a folder says of its embeddings, in files of both ages of sentence-transformers."""

import pytest

from specs import TASK_TYPES, ModelSpec, SpecError
from specs.embeddings import KEY, Dense, Embedding, read

TRANSFORMER = {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
DENSE = {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.base.modules.dense.Dense"}
NORMALIZE = {"idx": 3, "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"}
SAID = {
    "1_Pooling/config.json": {"word_embedding_dimension": 64, "pooling_mode_lasttoken": True},
    "2_Dense/config.json": {
        "in_features": 64,
        "out_features": 128,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    },
    "config_sentence_transformers.json": {"prompts": {"query": "Query:", "document": ""}},
}


def said(modules, **more):
    return read({"modules.json": modules, **SAID, **more}.get)


def test_poolings_layers_and_prompts_are_read():
    assert said([TRANSFORMER, POOLING, DENSE, NORMALIZE]) == Embedding(
        pooling_mode="lasttoken",
        dense=(Dense(in_features=64, out_features=128, bias=False),),
        prompts={"query": "Query:"},
        normalizes=True,
    )


def test_a_new_file_names_its_pooling():
    assert said([TRANSFORMER, POOLING], **{"1_Pooling/config.json": {"pooling_mode": "cls"}}).pooling_mode == "cls"


def test_a_folder_without_modules_is_no_embedding_model():
    assert read({}.get) is None


@pytest.mark.parametrize(
    ("modules", "more", "unknown"),
    [
        pytest.param([TRANSFORMER, {**DENSE, "type": "custom.Router"}], {}, "Router", id="a module of another kind"),
        pytest.param(
            [TRANSFORMER, POOLING],
            {"1_Pooling/config.json": {"pooling_mode": ["cls", "mean"]}},
            "Pooling of several kinds",
            id="two poolings",
        ),
        pytest.param(
            [TRANSFORMER, POOLING],
            {"1_Pooling/config.json": {"pooling_mode": "mean", "include_prompt": False}},
            "Pooling without the prompt",
            id="a pooling that leaves out the prompt",
        ),
    ],
)
def test_what_is_not_built_is_named(modules, more, unknown):
    assert said(modules, **more).unknown == (unknown,)


@pytest.mark.parametrize("path", ["../../secrets", "/etc", ""])
def test_no_path_leads_out_of_the_folder(path):
    with pytest.raises(SpecError, match="must name a folder beside it"):
        said([{**POOLING, "path": path}])


def test_a_configuration_keeps_it():
    config = {"model_type": "qwen3", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    found = said([TRANSFORMER, POOLING, DENSE])
    spec = ModelSpec.from_config({**config, "vocab_size": 10, KEY: found.to_dict()}, name="own")
    assert spec.embedding == found


def test_a_correlation_is_shown_as_none_of_a_hundred():
    measures = {one.name: one for one in TASK_TYPES["FEATURE_EXTRACTION"].measures}
    assert measures["spearman"].shown(0.5) == "0.500"
    assert measures["mrr"].shown(0.5) == "50.0%"
