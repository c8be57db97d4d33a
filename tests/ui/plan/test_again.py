"""Change and run again: the Plan page opens with what a run did, and a run started there has the same plan."""

import dataclasses
import shutil

import pytest

from specs import FinetunePlan
from specs.paths import demo_data
from trainer.data.source import DataSource
from trainer.runs.store import Store
from ui.parts import text
from ui.plan import planning

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PLANS = {
    "the advice itself": {},
    "qlora": {
        "method": "qlora",
        "r": 4,
        "learning_rate": 5e-5,
        "seed": 7,
        "warmup_steps": 3.0,
        "gradient_checkpointing": True,
    },
    "full": {"method": "full", "max_steps": 5, "optim": "adafactor", "max_length": 512},
    "IA3": {"method": "ia3", "per_device_train_batch_size": 4},
    "one that needs another": {"eval_split": 0.2, "load_best_model_at_end": True},
}


@pytest.fixture
def store(runs_folder):
    """A store whose device is taken, so that no worker starts."""
    store = Store(runs_folder)
    store.create(FinetunePlan.for_method("lora", MODEL), DataSource(path="none.jsonl"))
    store.claim_next("cpu")
    return store


def stopped(store, plan):
    run = store.create(plan, DataSource(path=str(demo_data()), prompts=("Why?",)))
    store.request_stop(run.id)
    return run


def used(plan):
    """A plan without what its method ignores."""
    return {name: value for name, value in dataclasses.asdict(plan).items() if name not in {"model_name_or_path"}}


@pytest.mark.parametrize("values", PLANS.values(), ids=PLANS)
def test_a_run_started_again_unchanged_has_the_same_plan(page, store, values):
    dtype = {"dtype": "float32", "lora_dropout": 0.0}
    plan = FinetunePlan.for_method(values.get("method", "lora"), MODEL, **{**dtype, **without_method(values)})
    run = stopped(store, plan)
    app = page(again=run.id)
    assert "again" not in app.query_params
    assert not app.error
    assert app.text_area(key="prompts").value == "Why?"
    app.button(key="start").click().run()
    assert not app.exception
    (again,) = [one for one in store.runs() if one.id != run.id and one.data.path == str(demo_data())]
    assert used(again.plan) == used(run.plan)
    assert again.data == run.data


def without_method(values):
    return {name: value for name, value in values.items() if name != "method"}


def test_what_the_advice_says_anyway_is_not_overridden(page, store):
    app = page()
    app.button(key="start").click().run()
    (run,) = [one for one in store.runs() if one.data.path == str(demo_data())]
    assert not {"r", "method", "learning_rate"} & set(page(again=run.id).query_params)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("learning_rate", 1.234e-5, id="a small number"),
        pytest.param("target_parameters", ("experts.down_proj", "experts.up_proj"), id="names"),
        pytest.param("rank_pattern", (("q_proj", 8), ("down_proj", 32)), id="a pattern"),
        pytest.param("max_length", 12345, id="a whole number"),
    ],
)
def test_a_setting_that_is_written_down_is_read_back(name, value):
    assert planning.pinned(name, text.value(value)) == value


def test_data_that_is_gone_is_said_and_nothing_starts_on_other_data(page, store, tmp_path):
    copy = shutil.copy(demo_data(), tmp_path / "mine.jsonl")
    run = store.create(FinetunePlan.for_method("lora", MODEL), DataSource(path=str(copy)))
    store.request_stop(run.id)
    app = page(again=run.id)
    assert "mine.jsonl" in app.warning[0].value.replace("\\", "")
    assert app.button(key="start").disabled
