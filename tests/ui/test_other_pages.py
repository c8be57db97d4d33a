"""Compare, accuracy and the lessons."""

import pytest

from advisor.rules.batch import CHECKPOINTING_COST
from ui.compare import comparison
from ui.learn.lessons import LESSONS
from ui.plan import fields, planning
from ui.plan.data.datasets import DEMO, Choice
from ui.plan.forms import USUAL_GOAL, Inputs


@pytest.mark.parametrize("view", ["Side by side", "Batch and length", "One step", "Where the bytes are"])
def test_every_comparison_opens(page, view):
    app = page("compare", show=view, groups="none")
    assert not app.error


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        pytest.param("method", "max_length", id="methods against lengths"),
        pytest.param("r", "optim", id="ranks against optimizers"),
        pytest.param("method", "gradient_checkpointing", id="methods against checkpointing"),
    ],
)
def test_any_two_settings_are_compared(page, rows, columns):
    app = page("compare", groups="none", rows=rows, columns=columns)
    assert app.table[0].value.columns[0] == rows


def test_models_methods_and_devices_are_compared_with_the_own_ones_among_them(page):
    chosen = {"model": "Qwen/Qwen2.5-0.5B", "gpu": "GeForce RTX 3060 12 GB", "method": "LoRA", "max_length": "512"}
    table = page("compare", **chosen, groups_model="Qwen/Qwen2.5-0.5B").table[0].value
    assert list(table.columns[:3]) == ["model", "method", "GeForce RTX 3060 12 GB (yours)"]
    assert table["model"][0] == r"**Qwen/Qwen2\.5\-0\.5B (yours)**"
    assert sum("**" in cell for cell in table["GeForce RTX 3060 12 GB (yours)"]) == 1
    assert any("(yours)" in cell for cell in table["method"])


def test_a_size_alone_is_compared_once():
    asked = planning.request(
        Inputs(
            model="Qwen/Qwen2.5-0.5B",
            device="12 GB",
            num_gpus=1,
            data=Choice(label=DEMO),
            task="",
            goal=USUAL_GOAL,
            rules="evidence",
            pins={},
        )
    )
    devices = comparison.axes(asked, planning.recommendation(asked).plan)["device"]
    assert devices.usual == ("any card with 12 GiB", "8 GiB", "16 GiB", "24 GiB", "48 GiB", "80 GiB")
    assert "12 GiB" not in devices.values


def test_time_and_cost_of_the_plan_are_shown_on_several_devices(page):
    app = page("compare", show="Time and cost", gpu="GeForce RTX 4090", model="meta-llama/Llama-3.1-8B", price="0.5")
    table = app.table[0].value
    assert list(table.columns) == ["device", "why", "time", "cost", "memory"]
    reasons = dict(zip(table["device"], table["why"], strict=True))
    assert "this device" in reasons["GeForce RTX 4090"]
    assert sum("fastest" in reason for reason in reasons.values()) == 1
    costs = dict(zip(table["device"], table["cost"], strict=True))
    assert float(costs["GeForce RTX 4090"]) > 0
    assert [name for name, cost in costs.items() if cost] == ["GeForce RTX 4090"], "no other price was given"


def test_what_the_plan_page_chose_is_in_the_address_of_compare_and_in_sight(page):
    app = page(gpu="GeForce RTX 3090", num_gpus="2", r="64", gradient_checkpointing="yes", show="One step")
    app.switch_page("ui/compare/page.py").run()
    assert not app.exception
    told = {name: app.query_params[name] for name in ("gpu", "num_gpus", "r", "gradient_checkpointing")}
    assert told == {"gpu": "GeForce RTX 3090", "num_gpus": "2", "r": "64", "gradient_checkpointing": "yes"}
    assert app.selectbox(key="gradient_checkpointing").value is True
    assert app.selectbox(key="r").value == "64"
    assert app.selectbox(key="gpu").value == "GeForce RTX 3090"


def test_the_tensors_at_the_peak_are_listed_with_their_place(page):
    table = page("compare", show="One step").table[0].value
    assert set(table.columns) == {"Part", "Where", "Tensors", "Each", "Total"}
    assert {"layers", "layers, forward"} <= set(table["Where"])


def test_models_of_all_sizes_say_how_many_devices_they_take(page):
    table = page("compare", show="Devices needed").table[0].value
    first, last = table.iloc[0], table.iloc[-1]
    assert "405B" in last["Model"]
    numbers = [int(cell.split("]")[0].strip("[").replace(",", "")) for cell in last[1:]]
    assert numbers == sorted(numbers, reverse=True)
    assert "num_gpus=1&" in first["H100 SXM5 80 GB"]


@pytest.mark.parametrize("lesson", list(LESSONS))
def test_every_lesson_shows_something_and_names_a_source(page, lesson):
    app = page("learn", lesson=lesson)
    assert not app.error
    words = " ".join([*app.caption.values, *app.markdown.values, *(str(table.value.to_dict()) for table in app.table)])
    assert "http" in words or "papers" in words


def test_lessons_start_from_the_plan_at_hand(page):
    app = page(gpu="GeForce RTX 3090", r="64")
    app.switch_page("ui/learn/page.py").run()
    assert not app.exception
    assert any("Starts from your plan" in caption.value and "r 64" in caption.value for caption in app.caption)
    assert app.select_slider(key="lora_r").value == 64
    assert "SmolLM2" in app.selectbox(key="lora_matrix").value


def test_the_price_of_checkpointing_is_one_figure_everywhere(page):
    lesson = page("learn", lesson="Gradient checkpointing")
    assert any(CHECKPOINTING_COST in entry.value for entry in lesson.markdown)
    assert CHECKPOINTING_COST in fields.MEANINGS["gradient_checkpointing"]
    assert page(gpu="GeForce RTX 3090").button(key="save_gradient_checkpointing").help == CHECKPOINTING_COST


def test_a_step_at_one_is_not_rounded(page):
    table = page("learn", lesson="Number formats").table[0].value
    assert "0.125" in set(table["Step at 1"])
