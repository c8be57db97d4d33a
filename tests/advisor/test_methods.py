"""Methods other than LoRA: advised only when chosen, with their own fields, rates and warnings; preference pairs."""

import dataclasses

import pytest

from advisor import advise
from advisor.advice import spelled
from advisor.rules import RULE_SETS
from advisor.search import Search, drafted
from advisor.warnings import cautions
from specs import METHODS
from tests.advisor.pricing import price_of, situation

RULES = RULE_SETS["evidence"]


@pytest.mark.parametrize(
    ("method", "values", "field", "expected"),
    [
        pytest.param("ia3", {"dataset_rows": 90}, "learning_rate", 5e-3, id="and not more for few steps"),
        pytest.param("prompt-tuning", {}, "prompt_tuning_init", "SAMPLE_VOCAB", id="out of the vocabulary"),
        pytest.param("prefix-tuning", {}, "gradient_checkpointing", False, id="a prefix is not checkpointed"),
        pytest.param("adalora", {"pins": {"target_r": 4}}, "init_r", 6, id="a chosen end decides the start"),
        pytest.param("miss", {}, "r", 64, id="MiSS at the rank that was measured"),
        pytest.param("lokr", {"pins": {"r": 16}}, "lora_alpha", 32, id="LoKr at the scale that was measured"),
        pytest.param("lora", {}, "rank_pattern", (), id="one rank for all"),
    ],
)
def test_a_method_is_advised_as_its_evidence_says(method, values, field, expected):
    assert getattr(drafted(situation(**values), method, RULES), field) == expected


@pytest.mark.parametrize("method", ["adalora", "ia3", "prompt-tuning", "prefix-tuning"])
def test_only_fields_that_the_method_uses_are_advised(method):
    plan = drafted(situation(), method, RULES)
    fields = {rule.field for rule in RULES if rule.applies(plan)}
    assert all(METHODS[method].uses(field) for field in fields)
    assert not {"r", "use_dora", "rank_pattern"} & fields


def test_advice_names_the_method_that_fixes_a_field():
    asked = situation()
    plan = drafted(asked, "prefix-tuning", RULES)
    rule = next(rule for rule in RULES if rule.field == "gradient_checkpointing")
    advice = rule.decide(asked, plan)
    assert advice.value is False
    assert advice.range == (False,)
    assert advice.reason.startswith("Prefix tuning works only with gradient_checkpointing off.")
    assert "arxiv.org/abs/2101.00190" in advice.source.url


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ia3", "prompt-tuning"])
def test_a_chosen_method_gets_a_plan_that_fits_and_no_rank_lever(method):
    asked = situation(model="HuggingFaceTB/SmolLM2-135M", pins={"method": method})
    result = advise(asked, price=price_of(asked))
    assert result.plan.method == method
    assert result.fits
    assert not {"r", "rank_pattern"} & {lever.field for lever in result.levers}


def test_without_a_choice_the_advice_stays_with_lora():
    asked = situation(model="HuggingFaceTB/SmolLM2-135M")
    assert advise(asked, price=price_of(asked)).plan.method in {"lora", "qlora", "full"}


def test_patterns_are_spelled_as_they_are_typed():
    assert spelled((("q_proj", 8), ("up_proj", 4))) == "q_proj: 8, up_proj: 4"
    assert spelled(()) == "none"
    assert spelled(("q_proj", "v_proj")) == "q_proj, v_proj"


def test_preference_pairs_cost_the_memory_of_twice_the_sequences():
    answers, pairs = situation(), situation(task="preference")
    plan = drafted(answers, "qlora", RULES)
    doubled = dataclasses.replace(plan, per_device_train_batch_size=2 * plan.per_device_train_batch_size)
    once, twice = (Search(answers, RULES, price_of(answers)).estimate(each).used_bytes for each in (plan, doubled))
    assert once < twice == Search(pairs, RULES, price_of(pairs)).estimate(plan).used_bytes


@pytest.mark.parametrize("method", ["qlora", "adalora"])
def test_preference_pairs_bring_their_warnings(method):
    asked = situation(task="preference")
    estimate = price_of(asked)(drafted(asked, "qlora", RULES))
    said = [str(caution) for caution in cautions(asked, drafted(asked, method, RULES), estimate)]
    assert any("DPO sends the chosen and the rejected answer" in text for text in said)
    assert any("cannot be switched off" in text for text in said) == (method == "adalora")
