"""The search, its levers and its words, followed by hand at prices in round numbers."""

import dataclasses

import pytest

from advisor import Situation, advise, cheatsheet, tree
from advisor.levers import levers
from advisor.rules import RULE_SETS
from advisor.search import Search, powers_of_two, same_in_memory
from advisor.speed import Speed
from catalog import gpus, models
from specs import GIB, FinetunePlan
from tests.advisor.prices import Priced, gib_price, hundred

# A draft of 8B has 8 sequences of 1,024 tokens, recomputed: 8 GiB, and 2 for optimizer and rank.
BEYOND = 1_000


def found(weights, **values):
    asked = hundred(**values)
    return Search(asked, RULE_SETS["evidence"], gib_price({"full": BEYOND, "lora-8bit": BEYOND, **weights})).best()


@pytest.mark.parametrize(
    ("weights", "values", "chosen", "used"),
    [
        pytest.param({"lora": 79}, {}, ("lora", 8, 2, True), 89, id="LoRA leaves 11 %"),
        pytest.param({"lora": 82}, {}, ("lora", 4, 4, True), 88, id="at half the batch"),
        pytest.param({"lora": 86}, {}, ("lora", 1, 16, True), 89, id="one by one"),
        pytest.param({"lora": 89, "qlora": 30}, {}, ("qlora", 8, 2, True), 40, id="QLoRA where LoRA leaves too little"),
        pytest.param({"lora": 35}, {}, ("lora", 8, 2, False), 69, id="activations are kept where 30 % stay free"),
        pytest.param({"lora": 37}, {}, ("lora", 4, 4, False), 55, id="at half the batch at worst"),
        pytest.param({"lora": 53}, {}, ("lora", 8, 2, True), 63, id="else recomputed at the whole batch"),
        pytest.param({"lora": 35, "qlora": 5}, {"goal": "memory"}, ("qlora", 1, 16, True), 7, id="least memory"),
        pytest.param({"lora": 89, "qlora": 5}, {}, ("qlora", 8, 2, True), 15, id="QLoRA recomputes"),
        pytest.param({"lora": 55}, {"goal": "speed"}, ("lora", 8, 2, False), 89, id="for speed 10 % are enough"),
        pytest.param({"lora": 99, "qlora": 55}, {"goal": "speed"}, ("qlora", 8, 2, False), 89, id="QLoRA for speed"),
    ],
)
def test_the_search_takes_the_best_that_leaves_room(weights, values, chosen, used):
    fit = found({"qlora": BEYOND, **weights}, **values)
    plan = fit.plan
    batch = plan.per_device_train_batch_size, plan.gradient_accumulation_steps
    assert (plan.method, *batch, plan.gradient_checkpointing) == chosen
    assert fit.estimate.used_bytes == used * GIB
    assert fit.headroom == pytest.approx(1 - used / 100)
    assert fit.fits


@pytest.mark.parametrize(
    ("qlora", "values", "changed", "used"),
    [
        pytest.param(87, {}, ("optim",), 89, id="states are paged"),
        pytest.param(88.5, {}, (), 98.5, id="without headroom nothing is given up"),
        pytest.param(96, {}, (), 100, id="but the batch"),
        pytest.param(97, {}, (), 100, id="to the last byte"),
        pytest.param(98, {}, ("optim",), 100, id="paged, to the last byte"),
        pytest.param(98.5, {}, ("optim", "r"), 100, id="then the rank"),
        pytest.param(99, {}, ("optim", "r", "max_length"), 100, id="and the length"),
        pytest.param(87, {"dataset_tokens": (9, 1_000, 1_000)}, (), 89 + 1_000 / 1_024, id="rows that are known"),
    ],
)
def test_what_is_given_up_comes_in_order(qlora, values, changed, used):
    fit = found({"lora": BEYOND, "qlora": qlora}, **values)
    assert fit.changed == changed
    assert fit.estimate.used_bytes == used * GIB
    assert fit.refused["lora"] == pytest.approx((BEYOND + 3) * GIB, rel=1e-4)  # a shorter longest row takes less


def test_what_fits_nowhere_is_the_smallest_of_all():
    fit = found({"lora": BEYOND, "qlora": 500})
    assert (fit.plan.r, fit.plan.lora_alpha, fit.plan.max_length, fit.plan.optim) == (8, 23, 256, "paged_adamw_8bit")
    assert fit.estimate.used_bytes == 500.75 * GIB
    assert not fit.fits
    assert fit.headroom == pytest.approx(-4.0075)


@pytest.mark.parametrize(
    ("pins", "method"),
    [
        pytest.param({"use_dora": True}, "lora", id="DoRA over LoRA"),
        pytest.param({"load_in_4bit": True}, "qlora", id="4 bit is QLoRA"),
        pytest.param({"load_in_8bit": True}, "lora-8bit", id="8 bit is no method that is tried by itself"),
        pytest.param({"method": "full"}, "full", id="the method itself"),
    ],
)
def test_what_is_fixed_rules_methods_out(pins, method):
    assert found({"full": 10, "lora": 10, "lora-8bit": 10, "qlora": 10}, pins=pins).plan.method == method


@pytest.mark.parametrize(
    ("tokens", "values", "full"),
    [
        # Adapters of rank 256 on Llama-3.1-8B have 256 x 2,621,440 parameters.
        pytest.param(671_088_641, {}, True, id="more text than the largest adapter holds"),
        pytest.param(671_088_640, {}, False, id="just as much"),
        pytest.param(671_088_641, {"goal": "balanced"}, False, id="quality is not the goal"),
        pytest.param(671_088_641, {"task": "code"}, False, id="no new domain"),
    ],
)
def test_all_weights_are_trained_for_much_text_of_a_new_domain(tokens, values, full):
    asked = {"task": "domain", "goal": "quality", "dataset_rows": tokens, "dataset_tokens": (1, 1, 1), **values}
    fit = found({"full": 10, "lora": 10, "qlora": 10}, **asked)
    assert (fit.plan.method == "full") == full


@pytest.mark.parametrize(
    ("least", "most", "powers"),
    [(1, 1, (1,)), (1, 8, (1, 2, 4, 8)), (4, 8, (4, 8)), (1, 7, (1, 2, 4)), (3, 8, (2, 4, 8))],
)
def test_batches_are_powers_of_two(least, most, powers):
    assert powers_of_two(least, most) == powers


def test_what_costs_no_memory_is_priced_once():
    plan = FinetunePlan.for_method("lora", "m", gradient_accumulation_steps=2)
    same = dataclasses.replace(plan, gradient_accumulation_steps=9, learning_rate=1e-3, seed=7)
    assert same_in_memory(plan) == same_in_memory(same)
    assert same_in_memory(plan) != same_in_memory(dataclasses.replace(plan, gradient_accumulation_steps=1))
    assert same_in_memory(plan) != same_in_memory(dataclasses.replace(plan, r=8))


def changes(plan, weights, **values):
    asked = hundred(**values)
    search = Search(asked, RULE_SETS["evidence"], gib_price({"full": 90, "lora": 80, "qlora": 40, **weights}))
    return {lever.field: lever for lever in levers(search, search.unchanged(plan))}


WIDE = FinetunePlan.for_method(
    "lora", "m", per_device_train_batch_size=8, gradient_accumulation_steps=2, max_length=2048, loss="full", r=16
)


@pytest.mark.parametrize(
    ("field", "before", "after", "saved", "fits"),
    [
        pytest.param("per_device_train_batch_size", 8, 4, 32, False, id="half the batch"),
        pytest.param("gradient_checkpointing", False, True, 48, True, id="recomputed"),
        # 80 + 2 + 8 x 4 x 512 / 1,024 = 98 is the first length that fits.
        pytest.param("max_length", 2048, 512, 48, True, id="halved until it fits"),
        pytest.param("method", "lora", "qlora", 40, False, id="QLoRA"),
        pytest.param("optim", "adamw_torch_fused", "paged_adamw_8bit", 1, False, id="paged"),
        pytest.param("r", 16, 8, 0.5, False, id="half the rank"),
    ],
)
def test_a_lever_says_what_it_saves(field, before, after, saved, fits):
    lever = changes(WIDE, {})[field]
    assert (lever.before, lever.after, lever.fits) == (before, after, fits)
    assert lever.saved_bytes == saved * GIB
    assert lever.used_bytes == (80 + 64 + 2 - saved) * GIB


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        pytest.param({"per_device_train_batch_size": 1}, "per_device_train_batch_size", id="one sequence"),
        pytest.param({"gradient_checkpointing": True}, "gradient_checkpointing", id="recomputed already"),
        pytest.param({"max_length": 511}, "max_length", id="256 tokens are the least"),
        pytest.param({"r": 8}, "r", id="8 is the least rank"),
        pytest.param({"optim": "paged_adamw_8bit"}, "optim", id="paged already"),
        pytest.param({"optim": "adamw_8bit"}, "optim", id="8 bit already"),
        pytest.param({"loss": "chunked"}, "loss", id="in chunks already"),
    ],
)
def test_a_lever_that_is_pulled_already_is_not_offered(values, missing):
    plan = dataclasses.replace(WIDE, **values)
    assert missing not in changes(plan, {})


def test_the_last_length_and_rank_are_offered():
    assert changes(dataclasses.replace(WIDE, max_length=512), {"lora": BEYOND})["max_length"].after == 256
    rank = changes(dataclasses.replace(WIDE, r=9, lora_alpha=18), {})["r"]
    assert (rank.after, rank.plan.lora_alpha) == (4, 12)  # 18 x sqrt(4 / 9)


@pytest.mark.parametrize(
    ("weights", "after"),
    [
        # 66 for 8 recomputed sequences of 8,192 tokens, rank and states, beside a part of the weights.
        pytest.param(68, 2, id="two devices"),
        pytest.param(69, 4, id="four"),
        pytest.param(272, 8, id="eight"),
        pytest.param(273, None, id="more than eight times as many"),
        pytest.param(30, None, id="one suffices"),
    ],
)
def test_so_many_more_devices_hold_a_plan(weights, after):
    plan = dataclasses.replace(WIDE, max_length=8192, gradient_checkpointing=True)
    lever = changes(plan, {"lora": weights}).get("num_gpus")
    assert (lever and lever.after) == after


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(89, "89 s"), (90, "2 min"), (119, "2 min"), (5_399, "90 min"), (5_400, "1.5 h"), (36_000, "10.0 h")],
)
def test_a_time_is_said_as_people_say_it(seconds, said):
    assert cheatsheet.duration(seconds) == said


def advised(weights, **values):
    asked = hundred(**values)
    return asked, advise(asked, price=gib_price({"full": BEYOND, "lora-8bit": BEYOND, **weights}))


@pytest.mark.parametrize(
    ("weights", "values", "said"),
    [
        pytest.param({"lora": 35, "qlora": 5}, {}, "the highest precision that fits and leaves 31% free.", id="room"),
        pytest.param(
            {"lora": 99, "qlora": 30}, {}, "LoRA needs at least 102.0 GiB; QLoRA (4-bit) uses 40.0 GiB", id="refused"
        ),
        pytest.param(
            {"lora": 99, "qlora": 30}, {"goal": "memory"}, "4 bits per weight need the least memory.", id="least"
        ),
        pytest.param({"lora": 35, "qlora": 5}, {"pins": {"method": "lora"}}, "You set this; LoRA uses", id="fixed"),
        pytest.param({"lora": 300, "qlora": 200}, {}, "Nothing fits: LoRA needs at least 303.0 GiB", id="nothing"),
    ],
)
def test_the_method_is_explained_with_its_numbers(weights, values, said):
    _, result = advised(weights, **values)
    assert said in result.advised("method").reason


def test_where_nothing_fits_no_plan_is_said_to_need_less_than_the_least():
    _, result = advised({"lora": 300, "qlora": 200})
    assert "QLoRA (4-bit) needs at least" not in result.advised("method").reason
    least = min(entry.used_bytes for entry in result.alternatives if entry.plan.method == "qlora")
    assert least == result.estimate.used_bytes
    assert "Smallest QLoRA" not in [entry.label for entry in result.alternatives]


@pytest.mark.parametrize(
    ("weights", "confidence"), [({"lora": 79, "qlora": 96}, "high"), ({"lora": 200, "qlora": 96}, "medium")]
)
def test_the_method_is_sure_where_a_tenth_stays_free(weights, confidence):
    _, result = advised(weights)
    assert result.advised("method").confidence == confidence


def test_what_the_search_changed_widens_its_range_and_says_why():
    _, result = advised({"lora": BEYOND, "qlora": 99})
    rank = result.advised("r")
    assert (rank.value, rank.range) == (8, (8, 64))
    assert rank.reason.endswith("Here 8 instead of 16 to save memory; 0% of 100.0 GiB is left free.")
    length = result.advised("max_length")
    assert (length.value, length.range) == (512, (256, 2048))


def test_activations_that_are_kept_say_how_much_stays_free():
    _, result = advised({"lora": 35, "qlora": 5})
    assert result.advised("gradient_checkpointing").reason.endswith(
        "Here activations are kept, which is faster; 31% of 100.0 GiB is left free."
    )


def test_alternatives_are_the_best_of_each_method_and_the_smallest():
    _, result = advised({"lora": 35, "qlora": 5})
    shown = [(entry.label, entry.used_bytes / GIB, entry.fits, entry.recommended) for entry in result.alternatives]
    assert shown == [
        ("LoRA", 69, True, True),
        ("Full fine-tuning", BEYOND + 1.25, False, False),  # paged, and shortened as far as it goes
        ("QLoRA (4-bit)", 15, True, False),
        ("Smallest QLoRA", 7, True, False),
    ]


@pytest.mark.parametrize(
    ("weights", "values", "answers", "outcome"),
    [
        pytest.param({"lora": 35, "qlora": 5}, {}, [False, False, True], "LoRA", id="LoRA leaves a tenth"),
        pytest.param({"lora": 99, "qlora": 5}, {}, [False, False, False, True], "QLoRA (4-bit)", id="QLoRA does"),
        pytest.param({"lora": 99, "qlora": 95}, {}, [False, False, False, False, True], "tight", id="neither does"),
        pytest.param(
            {"lora": 300, "qlora": 200}, {}, [False] * 5, "a smaller model, or more memory", id="nothing fits"
        ),
        pytest.param(
            {"lora": 35, "qlora": 5}, {"dataset_rows": 499}, [True, False, True], "LoRA", id="few rows: prompting"
        ),
        pytest.param({"lora": 35, "qlora": 5}, {"dataset_rows": 500}, [False, False, True], "LoRA", id="500 rows"),
    ],
)
def test_the_tree_asks_until_something_fits(weights, values, answers, outcome):
    asked, result = advised(weights, **values)
    questions = tree.questions(asked, result)
    assert [question.answer for question in questions] == answers
    assert questions[-1].outcome == outcome


def test_the_map_names_what_is_advised_and_none_only_where_nothing_fits():
    card = gpus.find("RTX 4090")
    whole = card.usable_bytes
    asked = Situation(model=models.find("meta-llama/Llama-3.1-8B"), gpu=card)

    def cell(**needs):
        def used(_model, plan, _card):
            return needs[plan.method]

        return tree.method_map([asked], lambda *plan: Priced(used(*plan)), used)[0]

    usual = cell(full=whole + 1, lora=int(0.89 * whole), qlora=GIB)
    assert (usual.method, usual.full_fits, usual.used_bytes) == ("lora", False, int(0.89 * whole))
    tight = cell(full=whole, lora=whole, qlora=whole)
    assert (tight.method, tight.full_fits, tight.used_bytes) == ("lora", True, whole)
    nothing = cell(full=3 * whole, lora=2 * whole, qlora=whole + 1)
    assert (nothing.method, nothing.full_fits, nothing.used_bytes) == (None, False, whole + 1)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        pytest.param(900, "; 900 steps take 15 min to 60 min (", id="half and twice the 30 minutes"),
        pytest.param(None, "1,234 tokens/s (", id="unknown data"),
    ],
)
def test_the_sheet_says_how_long_a_run_takes_within_its_band(steps, said):
    asked, result = advised({"lora": 35, "qlora": 5})
    speed = Speed(
        seconds_per_step=2.0, tokens_per_second=1234.0, steps=steps, band=(0.5, 2.0), parts={"training": 1800.0}
    )
    remark = cheatsheet.cheat_sheet(asked, dataclasses.replace(result, speed=speed)).remark
    assert remark.startswith("About 2 s per step, 1,234 tokens/s")
    assert said in remark
    assert remark.endswith("to within a factor of 2).")
