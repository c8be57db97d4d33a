"""Advice for weights that are quantized already: the file decides, and what is read of it is said."""

import dataclasses
import json

import pytest

from advisor import advise, cheatsheet
from catalog import models
from tests.advisor.pricing import price_of, situation

BITSANDBYTES = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def asked_for(**changes):
    config = {**models.shipped("meta-llama/Llama-3.1-8B").config, **changes}
    model = models.described(json.loads(json.dumps(config)), name="stored", source="test")
    return dataclasses.replace(situation(), model=model)


def test_the_reason_for_qlora_is_that_the_weights_are_in_4_bit():
    asked = asked_for(quantization_config=BITSANDBYTES)
    result = advise(asked, price=price_of(asked))
    reason = next(entry.reason for entry in result.advice if entry.field == "method")
    assert result.plan.method == "qlora"
    assert reason.startswith("The weights are stored in 4 bit already, which QLoRA (4-bit) trains as they are;")


@pytest.mark.parametrize(("changes", "said"), [({"auto_map": {"AutoConfig": "x.Y"}}, "auto_map is ignored"), ({}, "")])
def test_the_cheat_sheet_says_how_the_model_was_read(changes, said):
    asked = asked_for(**changes)
    page = cheatsheet.markdown(asked, advise(asked, price=price_of(asked)))
    assert ("auto_map" in page) == bool(said)
    assert said in page
