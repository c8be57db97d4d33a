"""A model that cannot be estimated is advised by rule, started once that is accepted, and trained for real.

transformers builds and trains XLM, but its step cannot be traced: it counts words by comparing them with a number.
"""

import dataclasses
import io
import json

import pytest
import torch
from transformers import XLMConfig, XLMWithLMHeadModel

from scripts.soak import save_tiny_model
from specs import FinetunePlan
from tests.trainer.waiting import over, waited
from trainer.runs.contract import UNKNOWN, State
from ui.plan import planning
from ui.plan.data import datasets
from ui.runs.facts import remedies, run_data


@pytest.fixture(scope="module")
def untraceable(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xlm")
    save_tiny_model(folder)  # for its tokenizer
    torch.manual_seed(0)
    model = XLMWithLMHeadModel(
        XLMConfig(vocab_size=300, emb_dim=64, n_layers=2, n_heads=4, max_position_embeddings=256)
    )
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    usual = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    (folder / "config.json").write_text(json.dumps(config | usual))
    return str(folder)


@pytest.fixture(autouse=True)
def listed(monkeypatch, untraceable):
    """Streamlit's test tool only knows models that are listed, not those that a person types."""
    names = [*planning.model_names(), untraceable]
    monkeypatch.setattr(planning, "model_names", lambda: names)


@pytest.fixture
def data():
    rows = [{"prompt": f"What comes after {word}?", "completion": "More."} for word in ("one", "two", "three")] * 4
    return datasets.add(io.BytesIO("\n".join(map(json.dumps, rows)).encode()), "mine.jsonl")


def test_a_model_that_cannot_be_estimated_is_trained_once_that_is_accepted(page, untraceable, data):
    chosen = {"model": untraceable, "data": data, "gradient_checkpointing": "no", "max_steps": "3"}
    app = page(**chosen)
    assert not app.error
    assert any("Memory unknown" in text.value for text in app.subheader)
    assert any("cannot be traced" in caption.value for caption in app.caption)
    assert app.button(key="start").disabled
    app.checkbox(key="accept_unknown").check().run()
    app.button(key="start").click().run()
    assert not app.exception
    (run,) = run_data.store().runs()
    assert "cannot be traced" in run.estimate[UNKNOWN]
    ended = waited(run_data.store(), run.id, over)
    assert (ended.state, ended.step, ended.error) == (State.FINISHED, 3, None)
    said = [box.value for box in page("runs", run=run.id).info]
    assert any("The memory was unknown; by step 3 the run took at most" in words.replace("\\", "") for words in said)


@pytest.mark.parametrize("view", ["Methods", "Data", "Export"])
def test_the_rest_of_the_page_works_or_says_why_not(page, untraceable, data, view):
    app = page(model=untraceable, data=data, gradient_checkpointing="no", view=view)
    assert not app.error
    if view == "Methods":
        assert any("unknown here" in caption.value for caption in app.caption)


def test_nothing_is_compared_with_an_unknown_memory(page, untraceable):
    app = page("compare", gradient_checkpointing="no")
    app.selectbox(key="gradient_checkpointing").set_value(False)
    app.selectbox(key="model").set_value(untraceable).run()
    (said,) = app.error
    assert "memory: is unknown" in said.value.replace("\\", "")


def test_a_run_of_unknown_memory_that_ran_out_is_offered_what_takes_less(untraceable, finished):
    run = finished([1.0], max_length=1024, per_device_train_batch_size=8, gradient_checkpointing=False)
    plan = run.plan.to_dict() | {"model_name_or_path": untraceable, "target_modules": ["q_lin"]}
    unknown = dataclasses.replace(run, plan=FinetunePlan.from_dict(plan), error_kind=remedies.OUT_OF_MEMORY)
    assert {fix.name for fix in remedies.fixes(unknown, ())} >= {"per_device_train_batch_size", "max_length"}
