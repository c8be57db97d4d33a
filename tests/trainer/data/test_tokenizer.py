"""Tokenizers that stand in for a model's own."""

import pytest

from trainer.data.examples import Example
from trainer.data.forms.messages import Turn
from trainer.data.rendering import Renderer
from trainer.data.tokenizer import FamilyTokenizer, FolderTokenizer

ASKED = Example(turns=(Turn(role="user", content="one"), Turn(role="assistant", content="two")))


def test_a_family_counts_the_control_tokens_of_its_template_as_one_each(tiny_model):
    tokenizer = FamilyTokenizer("llama3", tiny_model)
    text = Renderer(tokenizer).rendered(ASKED).text
    words = len(FolderTokenizer(tiny_model)("user\n\none", add_special_tokens=False)["input_ids"])
    assert text.startswith("<|start_header_id|>user<|end_header_id|>\n\none<|eot_id|>")
    begun = "<|start_header_id|>user<|end_header_id|>\n\none<|eot_id|>"
    assert len(tokenizer(begun)["input_ids"]) == pytest.approx(3 + words, abs=1)  # words no longer merge across them


def test_a_family_without_a_template_renders_plain_headings(tiny_model):
    assert Renderer(FamilyTokenizer("", tiny_model)).rendered(ASKED).text.startswith("### User:\none")


def test_a_family_without_a_counter_has_no_tokens():
    assert FamilyTokenizer("qwen3")("Hello")["input_ids"] == []
