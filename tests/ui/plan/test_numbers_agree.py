"""One plan has one number, wherever a page shows it, and a click costs what it was said to cost."""

import dataclasses
import itertools

import pytest

from advisor import Situation
from advisor.tree import questions
from catalog import gpus, models
from specs import gib
from ui.compare import comparison
from ui.parts import prices
from ui.parts.examining import reader_for
from ui.plan import planning, steps, taking
from ui.plan.data import datasets
from ui.plan.upgrades import upgrades

LLAMA, MIXTURE = "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-30B-A3B"


def asked_for(model, gpu, **values):
    situation = Situation(model=models.find(model), gpu=gpus.find(gpu), **values)
    data = datasets.find(datasets.Choice(label=datasets.DEMO), reader_for(planning.DEMO_MODEL))
    return planning.Request(situation=situation, rules="evidence", data=data, device=None)


GRID = (
    pytest.param(LLAMA, "8 GiB", {}, id="only shortened rows fit"),
    pytest.param(LLAMA, "12 GiB", {"dataset_rows": 900, "dataset_tokens": (200, 400, 700)}, id="data of short rows"),
    pytest.param(LLAMA, "RTX 4090", {"pins": {"r": 32}}, id="something is fixed"),
    pytest.param(LLAMA, "RTX 4090", {"free_bytes": 14 * 2**30}, id="others use the card"),
    pytest.param(MIXTURE, "24 GiB", {"num_gpus": 2}, id="two cards"),
)


@pytest.mark.parametrize(("model", "gpu", "values"), GRID)
def test_the_plan_has_one_number_everywhere(model, gpu, values):
    asked = asked_for(model, gpu, **values)
    result = planning.recommendation(asked)
    shown = asked.price(result.plan)
    assert (shown.used_bytes, shown.verdict) == (result.estimate.used_bytes, result.estimate.verdict)
    assert result.fits == (shown.verdict != "does not fit")
    own = next(entry for entry in result.alternatives if entry.recommended)
    assert (own.used_bytes, own.fits) == (shown.used_bytes, result.fits)
    axes = comparison.axes(asked, result.plan)
    for rows, columns in (("method", "device"), ("model", "r")):
        point = comparison.start(asked, result.plan, (rows, columns))
        at = [(axes[name], (axes[name].own,)) for name in (rows, columns)]
        ((cell,),) = comparison.table(point, *at)
        assert cell.estimate is not None, cell.refusal
        assert cell.estimate.used_bytes == shown.used_bytes
    for question in questions(asked.situation, result)[-1:]:
        assert f"{gib(shown.used_bytes)} of" in question.detail


@pytest.mark.parametrize(("model", "gpu", "values"), GRID[:1] + GRID[-1:])
def test_a_method_costs_in_the_table_what_choosing_it_costs(model, gpu, values):
    asked = asked_for(model, gpu, **values)
    for entry in planning.recommendation(asked).alternatives[:3]:
        situation = dataclasses.replace(asked.situation, pins={"method": entry.plan.method})
        chosen = planning.recommendation(dataclasses.replace(asked, situation=situation))
        assert (chosen.estimate.used_bytes, chosen.fits) == (entry.used_bytes, entry.fits), entry.label


@pytest.mark.parametrize(("model", "gpu", "values"), GRID[:1])
def test_a_click_costs_what_was_promised(model, gpu, values):
    asked = asked_for(model, gpu, **values)
    result = planning.recommendation(asked)
    before = asked.price(result.plan).used_bytes
    offers = [(lever.field, lever.plan, -lever.saved_bytes) for lever in result.levers]
    offers += [(one.field, one.plan, one.more_bytes) for one in upgrades(asked, result.plan)]
    found = [steps.next_step(asked, result.plan, field) for field in ("r", "gradient_checkpointing")]
    offers += [(one.field, one.plan, one.more_bytes) for one in found if one is not None]
    assert offers
    for field, plan, promised in offers:
        chosen = taking.taken(asked, field, plan)
        assert chosen[field] == getattr(plan, field)
        clicked = taking.fixed(asked, chosen)
        made = planning.recommendation(clicked).plan
        assert clicked.price(made).used_bytes - before == promised, (field, chosen)


def test_the_map_and_the_number_of_devices_say_of_a_card_what_its_plan_says():
    spec = models.find(LLAMA)
    cards = ("8 GiB", "12 GiB", "24 GiB", "80 GiB")
    asked = [asked_for(LLAMA, size) for size in cards]
    cells = comparison.method_map([one.situation for one in asked], prices.priced, prices.at_least)
    for one, cell in zip(asked, cells, strict=True):
        result = planning.recommendation(one)
        assert (cell.model, cell.used_bytes) == (spec.name, result.estimate.used_bytes)
        assert cell.method == (result.plan.method if result.fits else None)
    assert len({cell.method for cell in cells}) > 1


@pytest.mark.parametrize(("model", "gpu", "method"), [(LLAMA, "8 GiB", "qlora"), (LLAMA, "24 GiB", "full")])
def test_as_many_devices_as_are_needed_are_enough_and_one_less_is_not(model, gpu, method):
    asked = asked_for(model, gpu)
    needed = planning.devices_needed(asked.situation, method)
    assert needed is not None
    for number, fits in itertools.islice(((needed, True), (needed - 1, False)), 2 if needed > 1 else 1):
        pins = {"method": method, **({"sharding": "fsdp"} if number > 1 else {})}
        situation = dataclasses.replace(asked.situation, num_gpus=number, pins=pins)
        assert planning.recommendation(dataclasses.replace(asked, situation=situation)).fits is fits, number
