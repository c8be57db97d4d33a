"""Every method of the table can be chosen on the page, with the fields that mean something to it."""

import pytest

from lorafit.comparing import under
from specs import METHODS, FinetunePlan

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "parameters", "present", "absent"),
    [
        pytest.param("adalora", {"tfinal": "3"}, {"init_r", "target_r"}, {"r", "num_virtual_tokens"}, id="AdaLoRA"),
        pytest.param("ia3", {"load_in_4bit": "yes"}, {"target_modules"}, {"r", "lora_alpha"}, id="IA3 over 4 bit"),
        pytest.param("oft", {"oft_block_size": "16"}, {"target_modules"}, {"r", "lora_alpha"}, id="OFT"),
        pytest.param("prompt-tuning", {"num_virtual_tokens": "8"}, {"prompt_tuning_init"}, {"r", "bias"}, id="prompts"),
    ],
)
def test_a_chosen_method_shows_its_own_fields(page, name, parameters, present, absent):
    label = METHODS[name].label
    app = page(method=label, **parameters)
    assert not app.error
    assert any(f"with {label}" in text.value for text in app.subheader)
    app.session_state["drawer"] = True
    app.run()
    assert not app.exception
    drawn = {widget.key for kind in (app.selectbox, app.text_input, app.pills) for widget in kind}
    assert present | set(parameters) <= drawn
    assert not absent & drawn


def test_an_export_that_a_tool_cannot_have_is_refused_on_the_page(page):
    app = page(method=METHODS["ia3"].label, view="Export", format="Axolotl")
    assert len(app.error) == 1
    assert "Axolotl trains only LoRA and whole models" in app.error[0].value


@pytest.mark.parametrize("typed", ["q_proj", "q_proj: many", "q_proj: 0", "(: 4"])
def test_a_pattern_that_is_none_gets_one_sentence(page, typed):
    app = page(method=METHODS["lora"].label, rank_pattern=typed)
    assert len(app.error) == 1
    assert "rank_pattern" in app.error[0].value.replace("\\", "")


@pytest.mark.parametrize("method", METHODS)
def test_a_plan_with_every_extra_can_be_compared_with_every_method(method):
    plan = FinetunePlan.for_method(
        "qlora", "m", prepare_kbit=True, gradient_checkpointing=True, use_dora=True, loraplus_lr_ratio=8.0
    )
    assert under(plan, method).method == method
