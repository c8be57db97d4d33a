"""The advice for tasks other than text generation."""

import dataclasses
import json

import pytest

from advisor.rules import evidence
from advisor.search import drafted
from catalog.models import described
from catalog.shapes import architectures
from estimator.tape.kernels import ENCODERS_WITHOUT_SDPA
from scripts.facts.encoders import TRAINED
from specs import PlanError, SpecError
from specs.paths import assets
from tests.advisor.pricing import situation

BERT = {
    "model_type": "bert",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
}
OF_CLASSES = {"task": "classification", "data_task_type": "SEQ_CLS", "num_labels": 3}


def encoder(model_type="bert", **values):
    return described({**BERT, "model_type": model_type, **values}, name=model_type, source="a test")


def advised(model=None, method="lora", **values):
    asked = situation(**{**OF_CLASSES, **values})
    return drafted(dataclasses.replace(asked, model=model or asked.model), method, evidence.RULES)


@pytest.mark.parametrize(
    ("model_type", "method", "rate", "targets"),
    [
        pytest.param("bert", "lora", 4e-4, ("query", "value"), id="LoRA's own recipe on BERT"),
        pytest.param("roberta", "lora", 4e-4, ("query", "value"), id="and on RoBERTa"),
        pytest.param("deberta-v2", "lora", 4e-4, ("query_proj", "value_proj"), id="DeBERTa's names"),
        pytest.param("modernbert", "lora", 4e-4, "all-linear", id="ModernBERT projects queries and values at once"),
        pytest.param("bert", "full", 3e-5, None, id="BERT's own recipe"),
    ],
)
def test_encoders_get_their_published_recipes(model_type, method, rate, targets):
    plan = advised(encoder(model_type), method)
    assert (plan.task_type, plan.num_labels, plan.loss, plan.packing) == ("SEQ_CLS", 3, "full", False)
    assert plan.learning_rate == rate
    assert targets is None or plan.target_modules == targets


def test_a_decoder_that_classifies_keeps_the_rate_of_its_size():
    assert advised().learning_rate == drafted(situation(), "lora", evidence.RULES).learning_rate


def test_rows_are_held_out_since_nothing_else_measures_accuracy():
    assert advised(dataset_rows=400).eval_split == 0.1
    assert advised(dataset_rows=20).eval_split == 0.0


def test_roberta_has_two_positions_less_than_its_table():
    assert encoder("roberta", max_position_embeddings=514).max_position_embeddings == 512


def test_an_encoder_is_not_advised_for_text_generation():
    with pytest.raises(
        SpecError,
        match=r"is trained for text classification, token .*, not for text generation",
    ):
        dataclasses.replace(situation(), model=encoder("deberta-v2"))


def test_virtual_tokens_are_refused_for_classes():
    with pytest.raises(PlanError, match="Prompt tuning cannot train text classification"):
        advised(method="prompt-tuning")


def test_the_encoders_match_the_installed_transformers():
    known = json.loads((assets() / "encoders.json").read_text())
    built = {*known["architectures"]}
    pairs = {*known["tasks"]["SEQ_2_SEQ_LM"]}
    of_text = {name for name, found in architectures().items() if "text" not in found}
    only = {"QUESTION_ANS": built - pairs, "SEQ_2_SEQ_LM": built, "FEATURE_EXTRACTION": of_text}
    assert known["tasks"] == {task: sorted({*types} & only.get(task, {*types})) for task, types in TRAINED.items()}
    assert {"t5", "mt5", "bart", "mbart", "pegasus", "marian"} <= pairs
    assert {name for name, entry in known["architectures"].items() if not entry["has_sdpa"]} == ENCODERS_WITHOUT_SDPA
