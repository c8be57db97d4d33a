"""An answer that was cut says so."""

import threading

import pytest
import torch
from transformers import AutoModelForCausalLM

from trainer.results import answers


@pytest.mark.parametrize(
    ("said", "whole"),
    [
        pytest.param([5, 6, 2], True, id="ended by itself"),
        pytest.param([5, 6, 7], False, id="cut for its length"),
        pytest.param([], False, id="nobody waited"),
    ],
)
def test_an_answer_is_whole_if_it_ends_with_an_end(said, whole):
    assert answers.is_whole(torch.tensor(said), [2, 3]) == whole


def test_a_model_that_does_not_end_is_cut_with_dots(tiny_model, tiny_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    (said,) = answers.answered(model, tiny_tokenizer, ["Why?"], until=threading.Event())
    assert said.endswith("...")
