"""The plan page: every input, every mistake, every tab."""

import pytest


def test_the_page_opens_with_a_plan_that_can_start(page):
    app = page()
    assert any("Fits" in text.value for text in app.markdown)
    assert not app.button(key="start").disabled


@pytest.mark.parametrize("view", ["Plan", "Methods", "Trade-offs", "Export"])
def test_every_tab_opens_from_a_link(page, view):
    assert not page(view=view).error


def test_a_link_restores_every_input(page):
    app = page(
        model="meta-llama/Llama-3.1-8B", gpu="24 GiB", task="Code", goal="Smallest memory", r="64", method="LoRA"
    )
    assert app.selectbox(key="model").value == "meta-llama/Llama-3.1-8B"
    assert app.selectbox(key="gpu").value == "24 GiB"
    assert app.selectbox(key="task").value == "Code"
    assert app.number_input(key="r").value == 64
    assert any("with LoRA" in text.value for text in app.markdown)


def test_a_changed_method_changes_the_verdict(page):
    app = page()
    app.segmented_control(key="method").set_value("QLoRA (4-bit)").run()
    assert not app.exception
    assert any("with QLoRA" in text.value for text in app.markdown)


def test_the_former_name_of_a_tab_still_opens_it(page):
    assert any("Benefit" in table.value for table in page(view="Room").table)


@pytest.mark.parametrize(("gpu", "card"), [("48 GiB", "48 GB card"), ("Tesla T4", "Tesla T4")])
def test_a_device_that_is_not_here_cannot_start(page, gpu, card):
    app = page(gpu=gpu)
    assert app.button(key="start").disabled
    assert any(f"No {card} in this machine" in caption.value for caption in app.caption)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"attn_implementation": "flash_attention_2"}, "needs the flash-attn package"),
        ({"report_to": "trackio"}, "needs a package that is not installed, got trackio"),
    ],
)
def test_what_a_run_cannot_do_here_is_said_beside_a_start_that_is_off(page, parameters, sentence):
    app = page(**parameters)
    assert app.button(key="start").disabled
    assert any(sentence in caption.value.replace("\\", "") for caption in app.caption)


def test_tensorboard_is_a_place_for_metrics(page):
    assert not page(report_to="tensorboard").button(key="start").disabled


def test_a_plan_that_does_not_fit_says_how_many_devices_would_hold_it(page):
    app = page(model="meta-llama/Llama-3.1-70B", gpu="GeForce RTX 4090", method="LoRA")
    link = next(text.value for text in app.markdown if "would fit on" in text.value)
    assert "num_gpus=" in link
    number = link.split("num_gpus=")[1].split("&")[0]
    there = page(
        model="meta-llama/Llama-3.1-70B", gpu="GeForce RTX 4090", num_gpus=number, method="LoRA", sharding="fsdp"
    )
    assert not any("Does not fit" in text.value for text in there.markdown)


def test_free_memory_can_be_used_and_the_page_says_for_what(page):
    tables = page(
        view="Trade-offs", gpu="GeForce RTX 4090", model="meta-llama/Llama-3.1-8B", method="QLoRA (4-bit)"
    ).table
    spent = next(table.value for table in tables if "Benefit" in table.value)
    assert spent["Needs"].str.startswith("+").all()
    assert spent["Change"].str.contains("gradient_checkpointing").any()


def test_a_price_per_hour_prices_the_run(page):
    app = page(gpu="GeForce RTX 4090", model="meta-llama/Llama-3.1-8B", price="2")
    assert any("costs about" in text.value for text in app.markdown)


def test_fields_are_drawn_when_they_are_set_or_looked_at(page):
    app = page(r="64")
    assert [box.key for box in app.number_input if box.key in {"r", "max_length"}] == ["r"]
    app.number_input(key="r").set_value(32).run()
    assert any("32" in str(table.value.get("Yours")) for table in app.table)


def test_reasons_carry_their_source(page):
    app = page(reasons="true")
    table = app.table[0].value
    grounds = table["Reason and source"]
    assert grounds.str.contains("confidence").all()
    assert grounds.str.contains("https://").sum() > len(grounds) / 2


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        pytest.param({"model": "no-such-model"}, "model", id="unknown model"),
        pytest.param({"model": "/etc/passwd"}, "", id="a file that is no configuration"),
        pytest.param({"gpu": "no such card"}, "no such card", id="unknown card"),
        pytest.param({"gpu": "0"}, "", id="a card without memory"),
        pytest.param({"r": "0"}, "r", id="rank 0"),
        pytest.param({"learning_rate": "fast"}, "learning", id="a rate that is no number"),
        pytest.param({"learning_rate": "nan"}, "learning", id="not a number"),
        pytest.param({"model": "<img src=x onerror=alert(1)>"}, "model", id="markup in the address"),
        pytest.param({"model": "![x](https://example.com/x.png)"}, "model", id="an image in the address"),
    ],
)
def test_a_mistake_gets_one_sentence_and_leaves_the_form_standing(page, parameters, sentence):
    app = page(**parameters)
    assert len(app.error) == 1
    assert sentence in app.error[0].value
    assert "](" not in app.error[0].value
    assert app.selectbox(key="model")
