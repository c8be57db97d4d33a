"""A run on several devices starts from the Plan page where the machine has them, and says in a sentence where not."""

import dataclasses

import pytest

from advisor.speed import step_speed
from catalog import gpus, models
from estimator.tape.layers import with_layers
from specs import FinetunePlan, RunError
from specs.paths import demo_data
from trainer.data.source import DataSource
from trainer.runs.contract import joined
from trainer.runs.feasibility import Ground, require_feasible
from trainer.runs.store import Store
from ui.plan import planning, spread, steps
from ui.plan.data.datasets import DEMO, Choice
from ui.plan.forms import USUAL_GOAL, Inputs


@pytest.fixture
def asked():
    """The demo on two devices of this machine."""
    device = planning.device_names()[0]
    given = {"model": planning.DEMO_MODEL, "device": device, "num_gpus": 2, "data": Choice(label=DEMO)}
    return planning.request(Inputs(**given, task="", goal=USUAL_GOAL, rules="evidence", pins={}))


def pinned(asked, rules, **pins):
    """The same with settings that the person fixed."""
    return dataclasses.replace(asked, rules=rules, situation=dataclasses.replace(asked.situation, pins=pins))


def on_cards(asked, *alike, number=2):
    """The same where the machine has cards."""
    situation = dataclasses.replace(asked.situation, gpu=gpus.find("GeForce RTX 4090"), num_gpus=number)
    return dataclasses.replace(asked, situation=situation, device=alike[0], alike=alike)


def test_two_processes_on_the_cpu_start_from_the_page(page, runs_folder):
    store = Store(runs_folder)
    store.create(FinetunePlan.for_method("lora", planning.DEMO_MODEL), DataSource(path="none.jsonl"))
    store.claim_next("cpu")  # holds the device, so that no worker starts
    app = page(num_gpus="2")
    app.button(key="start").click().run()
    assert not app.exception
    (run,) = [one for one in store.runs() if one.data.path == str(demo_data())]
    assert (run.plan.num_gpus, run.plan.sharding, run.place.device) == (2, "ddp", "cpu")


@pytest.mark.parametrize("rules", ["evidence", "classic"])
def test_one_click_divides_a_4_bit_model_into_a_plan_that_starts(asked, rules):
    before = pinned(asked, rules, method="qlora")
    step = steps.next_step(before, planning.recommendation(before).plan, "sharding")
    clicked = pinned(asked, rules, method="qlora", sharding=step.after)
    plan = planning.recommendation(clicked).plan
    assert (plan.sharding, plan.bnb_4bit_quant_storage) == ("fsdp", plan.dtype)
    assert planning.obstacle(clicked, plan, None) is None
    moved = {name: after for name, _, after in steps.overrides(clicked, plan)["sharding"].moved}
    assert moved["bnb_4bit_quant_storage"] == plan.dtype
    assert ("optim" in moved) == (rules == "classic")


def test_the_choice_names_what_each_way_uses_on_each_device():
    told = spread.compared({"ddp": 3 * 2**30, "fsdp": None})
    assert told.startswith("DDP: 3.0 GiB on each; each device holds the whole model")
    assert "FSDP2: memory not traced yet; weights, gradients" in told


def test_a_run_takes_the_cards_that_are_called_the_same(asked):
    assert on_cards(asked, "cuda:0", "cuda:2", "cuda:3").place("").device == "cuda:0,2"
    assert asked.place("").device == "cpu"
    assert joined(["cuda:1"]) == "cuda:1"


def test_a_machine_with_too_few_cards_says_so(asked):
    said = "This machine has 2 GeForce RTX 4090, and the plan is for 4. Lower the count, or export the plan."
    result = planning.proposal(asked)
    few = on_cards(asked, "cuda:0", "cuda:1", number=4)
    assert planning.obstacle(few, result.plan, asked.price(result.plan)) == said


def test_processes_on_a_cpu_share_its_memory_and_its_speed(asked):
    alone = dataclasses.replace(asked, situation=dataclasses.replace(asked.situation, num_gpus=1))
    assert asked.gpu.usable_bytes == alone.gpu.usable_bytes // 2
    plan = planning.proposal(asked).plan
    single = dataclasses.replace(plan, num_gpus=1, sharding="none")
    together, one = step_speed(asked.situation, plan), step_speed(alone.situation, single)
    assert together.seconds_per_step == pytest.approx(2 * one.seconds_per_step)


def test_a_sharding_that_runs_do_not_have_is_refused_with_the_way_out(asked):
    plan = planning.proposal(asked).plan
    assert planning.obstacle(asked, dataclasses.replace(plan, sharding="fsdp"), None) is None
    assert "Choose fsdp" in planning.obstacle(asked, dataclasses.replace(plan, sharding="zero3"), None)
    halved = dataclasses.replace(plan, sharding="fsdp", dtype="bfloat16", bf16=True)
    assert "choose ddp" in planning.obstacle(asked, halved, None)


def test_a_card_beyond_the_last_one_is_refused_before_the_run_is_made():
    plan = FinetunePlan.for_method("lora", "m", num_gpus=2, sharding="ddp")
    with pytest.raises(RunError, match="must be cpu, or one of the 2 GPUs of this machine, got 'cuda:1,2'"):
        require_feasible(plan, Ground(device="cuda:1,2", compute_capabilities=[(8, 9), (8, 9)]))


def test_the_memory_of_several_cards_is_said_to_be_that_of_each(page):
    app = page(gpu="GeForce RTX 4090", num_gpus="2", model="meta-llama/Llama-3.1-8B")
    (verdict,) = (entry.value for entry in app.subheader)
    assert " free on each of 2 devices (DDP)" in verdict
    assert any(entry.value.startswith("DDP: each device holds the whole model") for entry in app.caption)
    assert any("in total on each of 2 devices." in entry.value for entry in app.caption)


@pytest.mark.parametrize(
    ("method", "parameters", "words"),
    [
        pytest.param("lora", (), "here; the router and the experts stay as they are.", id="attention"),
        pytest.param(
            "lora", ("experts.down_proj",), "of the experts experts.down_proj get adapters.", id="experts too"
        ),
        pytest.param("full", (), "", id="no adapter"),
    ],
)
def test_a_mixture_says_what_all_linear_reaches(method, parameters, words):
    mixture = with_layers(models.find("Qwen/Qwen3-30B-A3B"))
    plan = FinetunePlan.for_method(method, mixture.name, target_parameters=parameters)
    told = spread.reached(mixture, plan)
    assert told.endswith(words)
    assert told.startswith("all-linear is q_proj, k_proj, v_proj, o_proj") == bool(words)
    assert spread.reached(models.find("meta-llama/Llama-3.1-8B"), plan) == ""
