"""What the address asks for and is not used is named, and no run starts from it unseen."""

import ast

import pytest

from specs.paths import REPO
from ui.parts import given

LLAMA = {"model": "meta-llama/Llama-3.1-8B", "gpu": "24 GiB"}


def told(app):
    found = (warning.value for warning in app.warning if "in the address" in warning.value)
    return [line.replace("\\", "") for words in found for line in words.splitlines()[1:] if line]


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("num_gpus", "1e400", "must be a finite number"),
        ("num_gpus", "nan", "must be a whole number from 1 to 100,000"),
        ("num_gpus", "0", "must be a whole number from 1 to 100,000"),
        ("num_gpus", "1.5", "must be a whole number from 1 to 100,000"),
        ("r", "1e400", "must be a finite number"),
        ("r", "-1e400", "must be a finite number"),
        ("r", "nan", "must be a whole number"),
        ("r", "eight", "must be a whole number"),
        ("r", "8.5", "must be a whole number"),
        ("max_length", "9" * 400, "must be a finite number"),
        ("learning_rate", "1e400", "must be a finite number"),
        ("optim", "adam", "must be one of adamw_torch"),
        ("load_in_4bit", "perhaps", "must be one of yes, no"),
        ("target_modules", "q_porj", "must be all-linear, or some of"),
        ("method", "QLORA", "must be one of Full fine-tuning, LoRA"),
        ("task", "Coding", "must be one of As the data says"),
        ("rules", "evidence", "must be one of Evidence, Textbook"),
        ("data", "gone.jsonl (abc123)", "must be the demo's data or a file that is kept here"),
        ("split", "test", "does not apply to what is chosen here"),
        ("thinking", "Leave it out", "does not apply to what is chosen here"),
        ("modell", "gpt2", "is not a setting (nearest: model)"),
        ("learningrate", "2e-4", "is not a setting (nearest: learning_rate)"),
    ],
)
def test_a_value_that_is_not_used_is_named_and_start_is_off_until_it_is_accepted(page, name, value, rule):
    app = page(**{name: value})
    (sentence,) = told(app)
    assert sentence.startswith(f"- {name}: {rule}")
    assert sentence.endswith("It is not used.")
    assert "got" in sentence
    assert len(sentence) <= 302
    assert app.button(key="start").disabled
    app.run()
    assert app.button(key="start").disabled
    app.button(key="accept the address").click().run()
    assert not app.exception
    assert not told(app)
    assert not app.button(key="start").disabled


def test_a_change_of_the_setting_settles_it(page):
    app = page(num_gpus="nan", task="Coding")
    app.selectbox(key="task").set_value("Code").run()
    assert [line.split(":")[0] for line in told(app)] == ["- num_gpus"]
    assert app.button(key="start").disabled


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({"num_gpus": "1", "task": "As the data says", "method": "Recommended"}, id="defaults"),
        pytest.param({"r": "8", "optim": "adamw_torch", "bf16": "no"}, id="settings"),
        pytest.param({"learning_rate": "2e-4", "max_length": "256"}, id="numbers as people write them"),
        pytest.param({"target_modules": ["q_proj", "v_proj"]}, id="several values"),
        pytest.param({"view": "Export", "format": "Python script"}, id="the default by its label"),
        pytest.param({"view": "Room", "reasons": "TRUE"}, id="a former name of a tab"),
        pytest.param({"prompts": "inf"}, id="a question is any text"),
        pytest.param({"range": "All", "lesson": "Quantization", "token": "x"}, id="what other pages ask for"),
    ],
)
def test_what_is_used_is_not_named(page, parameters):
    app = page(**parameters)
    assert not told(app)
    assert not app.button(key="start").disabled


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("plan", {"view": "Nowhere"}, "view: must be a value that this setting takes, got Nowhere"),
        ("plan", {"price": "nan"}, "price: must be a number from 0 to 1,000,000, got nan"),
        ("runs", {"run": "20990101-no-such"}, "run: must be the id of a run that is kept here, got '20990101-no-such'"),
        ("compare", {"rows": "colour"}, "rows: must be one of method, device"),
        ("compare", {"rows_method": "LoRAX"}, "rows_method: must be some of Full fine-tuning"),
        ("compare", {"show": "Nothing"}, "show: must be a value that this setting takes, got Nothing"),
        ("accuracy", {"proof": "None"}, "proof: must be a value that this setting takes, got None"),
        ("learn", {"lesson": "Magic"}, "lesson: must be a value that this setting takes, got Magic"),
        ("learn", {"lesson": "Number formats", "number": "1e400"}, "number: must be a finite number, got '1e400'"),
        (
            "learn",
            {"lesson": "Number formats", "number": "nan"},
            "number: must be a value that this setting takes",
        ),
    ],
)
def test_every_page_says_what_it_does_not_use(page, name, parameters, sentence):
    app = page(name, **parameters)
    assert any(line.startswith(f"- {sentence}") for line in told(app)), told(app)
    if name == "plan":
        assert not app.button(key="start").disabled


def test_a_run_of_the_address_is_shown_beside_one_that_is_gone(page, finished):
    run = finished([2.0, 1.0])
    app = page("runs", run=[run.id, "gone"])
    assert told(app) == ["- run: must be the id of a run that is kept here, got gone. It is not used."]
    assert app.metric


def test_an_upload_that_is_deleted_while_it_is_chosen_is_named(page, runs_folder):
    uploads = runs_folder / "uploads"
    app = page()
    uploads.mkdir(parents=True, exist_ok=True)
    (uploads / "0123456789abcdef.jsonl").write_text('{"prompt": "Hi?", "completion": "Hello."}\n' * 20)
    app.run()
    label = next(option for option in app.selectbox(key="data").options if "012345" in option)
    app.selectbox(key="data").set_value(label).run()
    (uploads / "0123456789abcdef.jsonl").unlink()
    app.run()
    assert any("data: must be the demo's data or a file that is kept here" in line for line in told(app))
    assert app.button(key="start").disabled


def bound_parameters():
    """Return the key of every widget that is in the address, as written in the code."""
    for file in (REPO / "ui").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and "bind" in {entry.arg for entry in call.keywords}:
                (key,) = (entry.value for entry in call.keywords if entry.arg == "key")
                if isinstance(key, ast.Constant):
                    yield key.value


def test_every_parameter_of_a_page_is_known():
    names = set(bound_parameters())
    assert len(names) > 30
    assert names <= given.KNOWN


def test_a_value_is_named_also_while_the_page_asks_which_card_is_meant(page):
    app = page(gpu="3060", r="nan", modell="gpt2")
    assert [line.split(":")[0] for line in told(app)] == ["- r", "- modell"]
    assert any("Which one is yours?" in text.value for text in app.markdown)
