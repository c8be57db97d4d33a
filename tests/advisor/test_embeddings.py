"""The advice for embeddings: batches that teach, poolings of the model's own, and no batch without a comparison."""

import dataclasses

import pytest

from advisor.rules import evidence
from advisor.search import Search, drafted
from catalog.models import described
from tests.advisor.pricing import situation
from tests.advisor.test_tasks import encoder

PAIRS = {"task": "similarity", "data_task_type": "FEATURE_EXTRACTION"}
QWEN = {"model_type": "qwen3", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 100}
OWN = {"pooling_mode": "cls", "dense": [[64, 128, False, ""]], "prompts": {"query": "q: "}}


def decoder(**more):
    return described({**QWEN, **more}, name="own", source="a test")


def advised(model, method="lora", **values):
    asked = dataclasses.replace(situation(**{**PAIRS, **values}), model=model)
    return drafted(asked, method, evidence.RULES)


@pytest.mark.parametrize(
    ("model", "pooling"),
    [
        pytest.param(encoder(), "mean", id="an encoder"),
        pytest.param(decoder(), "lasttoken", id="a decoder"),
        pytest.param(decoder(sentence_transformers=OWN), "cls", id="what its folder says"),
    ],
)
def test_the_pooling_is_the_models_own_or_that_of_its_kind(model, pooling):
    assert advised(model).pooling_mode == pooling


@pytest.mark.parametrize(("method", "rate"), [("full", 2e-5), ("lora", 1e-4)])
def test_rates_are_those_of_embeddings(method, rate):
    assert advised(encoder(), method).learning_rate == rate


@pytest.mark.parametrize(("rows", "batch"), [(None, 128), (100_000, 128), (1_000, 32), (40, 16)])
def test_the_batch_is_large_as_long_as_a_pass_has_enough_steps(rows, batch):
    plan = advised(encoder(), dataset_rows=rows)
    assert (plan.per_device_train_batch_size, plan.gradient_accumulation_steps) == (batch, 1)


def test_scores_and_wrong_texts_follow_the_data():
    plan = advised(encoder(), num_negatives=2)
    assert (plan.embedding_loss, plan.num_negatives) == ("MultipleNegativesRankingLoss", 2)
    plan = advised(encoder(), has_scores=True)
    assert (plan.embedding_loss, plan.num_negatives) == ("CoSENTLoss", 0)


def test_the_search_never_leaves_a_row_alone_and_accumulates_nothing():
    asked = dataclasses.replace(situation(**PAIRS), model=encoder())
    search = Search(asked, evidence.RULES, price=lambda _: None)
    smallest = search.rebatched(search.drafted("lora"), 1)
    assert (smallest.per_device_train_batch_size, smallest.gradient_accumulation_steps) == (2, 1)


def test_a_model_made_for_embeddings_is_trained_for_these_first():
    assert decoder(sentence_transformers=OWN).task_types[0] == "FEATURE_EXTRACTION"
    assert decoder().task_types[0] == "CAUSAL_LM"
    assert "FEATURE_EXTRACTION" in encoder().task_types
