"""The plan page: every input, every mistake, every tab."""

import re

import pytest


def test_the_page_opens_with_a_plan_that_can_start(page):
    app = page()
    assert any("Fits" in text.value for text in app.subheader)
    assert not app.button(key="start").disabled


def recommended(app, name):
    """Return what stands in the empty widget of a setting."""
    return app.selectbox(key=name).proto.placeholder


@pytest.mark.parametrize("view", ["Plan", "Methods", "Data", "Export"])
def test_every_tab_opens_from_a_link(page, view):
    assert not page(view=view).error


def test_a_link_restores_every_input(page):
    app = page(
        model="meta-llama/Llama-3.1-8B", gpu="24 GiB", task="Code", goal="Smallest memory", r="64", method="LoRA"
    )
    assert app.selectbox(key="model").value == "meta-llama/Llama-3.1-8B"
    assert app.selectbox(key="gpu").value == "24 GiB"
    assert app.selectbox(key="task").value == "Code"
    assert app.selectbox(key="r").value == "64"
    assert app.selectbox(key="method").value == "LoRA"
    assert any("with LoRA" in text.value for text in app.subheader)


def test_a_changed_method_changes_the_verdict(page):
    app = page()
    app.selectbox(key="method").set_value("QLoRA (4-bit)").run()
    assert not app.exception
    assert any("with QLoRA" in text.value for text in app.subheader)


def test_a_row_shows_the_recommendation_and_an_override_says_what_it_moved_and_can_be_undone(page):
    app = page(model="meta-llama/Llama-3.1-8B", gpu="GeForce RTX 3090")
    usual = recommended(app, "r")
    assert recommended(app, "lora_alpha") != "45"
    app.selectbox(key="r").set_value("32").run()
    said = next(text.value for text in app.markdown if "moved with it" in text.value).replace("\\", "")
    assert f"recommended {usual};" in said
    assert "lora_alpha" in said
    assert recommended(app, "lora_alpha") == "45"
    app.button(key="undo_r").click().run()
    assert app.selectbox(key="r").value is None
    assert recommended(app, "r") == usual
    assert not any("moved with it" in text.value for text in app.markdown)


def test_an_override_says_what_undoing_it_gives_back_with_all_that_moved(page):
    app = page(model="meta-llama/Llama-3.2-3B", gpu="12 GB", per_device_train_batch_size="8")
    said = next(text.value for text in app.markdown if "moved with it" in text.value).replace("\\", "")
    assert "gradient_checkpointing no" in said
    assert "; -" in said  # checkpointing saves more than four more rows take
    assert " against that" in said


@pytest.mark.parametrize(("typed", "said"), [("llama 3.2 3b", True), ("meta-llama/Llama-3.2-3B", False), ("3B", False)])
def test_a_part_of_a_name_is_answered_with_the_whole(page, typed, said):
    words = "The model is meta-llama/Llama-3.2-3B."
    app = page(model=typed, gpu="12 GB")
    assert any(caption.value.replace("\\", "") == words for caption in app.caption) is said
    assert said or not any(caption.value.startswith("The model is") for caption in app.caption)


def test_epochs_that_max_steps_overrules_say_so(page):
    words = "max_steps 7 decides instead"
    assert any(words in text.value.replace("\\", "") for text in page(max_steps="7").markdown)
    assert not any("decides instead" in text.value for text in page(gpu="12 GB").markdown)


def test_the_next_step_of_a_row_says_its_cost_and_is_taken_in_place(page):
    app = page(model="meta-llama/Llama-3.1-8B", gpu="GeForce RTX 3090", r="16", per_device_train_batch_size="1")
    asked = app.subheader[0].value
    step = app.button(key="step_r")
    assert step.label.replace("\\", "").startswith(":small[32: :gray[+")
    step.click().run()
    assert app.selectbox(key="r").value == "32"
    assert app.subheader[0].value != asked


@pytest.mark.parametrize("field", ["r", "per_device_train_batch_size", "gradient_checkpointing", "max_length"])
def test_a_taken_step_costs_what_it_promised(page, field):
    app = page(model="meta-llama/Llama-3.1-8B", gpu="GeForce RTX 3090")
    promised = app.button(key=f"step_{field}").label.replace("\\", "")
    app.button(key=f"step_{field}").click().run()
    sizes = r"([+-][\d,.]+\s(?:KiB|MiB|GiB))"
    told = [text.value.replace("\\", "") for text in app.markdown if "recommended" in text.value]
    said = next((found for text in told if (found := re.search(sizes + " against that", text))), None)
    assert said, (promised, told)
    alone = re.search(sizes + " by itself", said.string)
    cost = re.search(sizes, promised)
    assert cost, promised
    assert (alone or said)[1].split() == cost[1].split(), (promised, said.string)


def test_a_typed_value_that_is_no_number_gets_one_sentence_and_can_be_changed(page):
    app = page(warmup_steps="7")
    app.text_input(key="warmup_steps").set_value("many").run()
    assert [error.value.replace("\\", "") for error in app.error] == [
        "warmup_steps: must be a number, got many. Write it like 0.0002 or 2e-4."
    ]
    app.text_input(key="warmup_steps").set_value("8").run()
    assert not app.error
    assert any("Fits" in text.value for text in app.subheader)


@pytest.mark.parametrize("former", ["Room", "Trade-offs"])
def test_the_former_name_of_a_tab_opens_the_plan(page, former):
    app = page(view=former)
    assert app.selectbox(key="r")
    assert not app.warning


@pytest.mark.parametrize(("gpu", "card"), [("Tesla T4", "Tesla T4"), ("GeForce RTX 5090", "GeForce RTX 5090")])
def test_a_plan_for_a_device_that_is_not_here_is_exported(page, gpu, card):
    app = page(gpu=gpu)
    assert not [button for button in app.button if button.key == "start"]
    assert any(f"No {card} in this machine" in caption.value for caption in app.caption)
    app.button(key="go").click().run()
    assert any(button.label == "train.py" for button in app.get("download_button"))


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


def test_free_memory_can_be_used_and_a_chip_says_for_what_and_applies_it(page):
    app = page(gpu="GeForce RTX 4090", model="meta-llama/Llama-3.1-8B", method="QLoRA (4-bit)")
    chip = app.button(key="buy_gradient_checkpointing")
    assert "+" in chip.label
    chip.click().run()
    assert app.selectbox(key="gradient_checkpointing").value is False
    assert app.button(key="undo_gradient_checkpointing")


def test_a_model_too_large_for_a_card_is_streamed_from_ram_at_a_click(page):
    asked = {"model": "meta-llama/Llama-3.1-8B", "method": "QLoRA (4-bit)", "max_length": "512"}
    app = page(gpu="GeForce RTX 3050 Laptop", **asked)
    assert any("To make it fit" in text.value for text in app.markdown)
    chip = app.button(key="save_layer_offloading")
    assert "GiB" in chip.label
    assert "more time" in chip.help
    chip.click().run()
    assert app.button(key="undo_layer_offloading")
    assert not any("To make it fit" in text.value for text in app.markdown)


def test_what_does_not_fit_is_offered_what_would_make_it_fit(page):
    app = page(gpu="GeForce RTX 3060 12 GB", model="meta-llama/Llama-3.1-8B", method="LoRA")
    assert any("Does not fit" in text.value for text in app.subheader)
    app.button(key="save_method").click().run()
    assert any("Fits" in text.value or "tight" in text.value.lower() for text in app.subheader)


def test_a_price_per_hour_prices_the_run(page):
    app = page(gpu="GeForce RTX 4090", model="meta-llama/Llama-3.1-8B", price="2")
    assert any("costs about" in text.value for text in app.subheader)


def test_other_settings_wait_in_a_drawer_except_those_that_are_set(page):
    app = page(warmup_steps="7")
    assert [box.key for box in app.text_input if box.key in {"warmup_steps", "weight_decay"}] == ["warmup_steps"]
    app.text_input(key="warmup_steps").set_value("9").run()
    assert any("recommended" in text.value and "moved" not in text.value for text in app.markdown)


def test_the_last_click_decides_between_all_modules_and_some(page):
    app = page(target_modules=["q_proj", "v_proj"])
    modules = app.pills(key="target_modules")
    assert list(modules.value) == ["q_proj", "v_proj"]
    modules.select("all-linear").run()
    assert list(app.pills(key="target_modules").value) == ["all-linear"]
    app.pills(key="target_modules").select("o_proj").run()
    assert list(app.pills(key="target_modules").value) == ["o_proj"]


def test_a_reason_carries_its_source_its_confidence_and_its_range(page):
    said = " ".join(shown.proto.body for shown in page(r="8").get("html"))
    assert said.count("confidence") >= 10
    assert said.count("acceptable:") >= 10
    assert said.count("https://") >= 5


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        pytest.param({"model": "no-such-model"}, "model", id="unknown model"),
        pytest.param({"model": "/etc/passwd"}, "", id="a file that is no configuration"),
        pytest.param({"gpu": "no such card"}, "no such card", id="unknown card"),
        pytest.param({"gpu": "0"}, "", id="a card without memory"),
        pytest.param({"r": "0"}, "r", id="rank 0"),
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


def test_a_number_offers_the_cards_that_it_may_mean(page):
    app = page(model="meta-llama/Llama-3.1-8B", gpu="3060", r="32")
    assert not app.error
    assert any("Which one is yours?" in entry.value for entry in app.markdown)
    assert app.selectbox(key="r").value == "32"
    offered = [button.label for button in app.button if button.key.startswith("take ")]
    assert {"GeForce RTX 3060 8 GB", "GeForce RTX 3060 12 GB"} <= set(offered)


def test_the_free_memory_buys_only_what_fits(page):
    app = page(model="meta-llama/Llama-3.1-8B", gpu="GeForce RTX 3060 8 GB")
    bought = [button.key for button in app.button if (button.key or "").startswith("buy_")]
    assert "buy_r" in bought
    assert "buy_method" not in bought


def test_a_step_that_costs_nothing_says_so_in_words(page):
    app = page(max_length="512")
    assert "same memory and time" in app.button(key="step_max_length").label


def test_a_demo_as_recommended_is_not_called_too_small(page):
    small = {"data": "Demo: letters to a shop, by topic"}
    assert not any("luck" in entry.value for entry in page(**small).warning)
    assert any("luck" in entry.value for entry in page(**small, num_train_epochs="1").warning)
