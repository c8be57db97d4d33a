"""Names that other people chose (models, files, runs' settings) appear as they are, never as Markdown."""

import io
import json
from collections.abc import Iterator

import pytest
from google.protobuf.json_format import MessageToJson
from streamlit.testing.v1 import AppTest

from catalog import models
from specs import FinetunePlan
from specs.paths import REPO
from tests.patience import PATIENCE
from trainer.data.source import DataSource
from trainer.runs.contract import Metric, State
from trainer.runs.store import Store
from ui.parts import uploads

SIGN = ":red[x]"
HOSTILE = f"m **bold** {SIGN} ![i](http:evil) $y$ `c`"
"""A file may be called so; Markdown would colour it, fetch a picture, and set a formula."""

ESTIMATE = {"used_bytes": 2**30, "components": {"weights": 2**30}}
PLAIN = frozenset(
    {
        "selectbox",
        "text_input",
        "text_area",
        "arrow_data_frame",
        "code",
        "file_uploader",
        "plotly_chart",
        "html",
        "json",
        "number_input",
        "download_button",
    }
)
"""Elements whose values and options Streamlit shows as they are."""


def written(app) -> Iterator[tuple[str, str]]:
    """Yield what a page draws that is read as Markdown: kind of element and its content."""
    for element in app._tree:
        if getattr(element, "type", "") not in PLAIN and getattr(element, "proto", None) is not None:
            yield element.type, MessageToJson(element.proto, ensure_ascii=False)


def assert_literal(app) -> None:
    assert not app.exception
    drawn = list(written(app))
    assert len(drawn) > 3
    assert [(kind, content[:600]) for kind, content in drawn if SIGN in json_text(content)] == []


def json_text(content: str) -> str:
    return content.replace("\\\\", "\\")


@pytest.fixture
def model(tmp_path) -> str:
    folder = tmp_path / HOSTILE
    folder.mkdir()
    config = models.shipped("HuggingFaceTB/SmolLM2-135M-Instruct").config
    (folder / "config.json").write_text(json.dumps(dict(config)))
    return str(folder)


@pytest.mark.parametrize("view", ["Plan", "Methods", "Data", "Export"])
def test_the_name_of_a_model_is_never_markdown_on_the_plan_page(page, model, view):
    assert_literal(page(model=model, view=view))


@pytest.mark.parametrize("show", ["Side by side", "One step", "Where the bytes are", "Devices needed"])
def test_the_name_of_a_model_is_never_markdown_on_the_compare_page(model, show):
    app = AppTest.from_file(str(REPO / "ui" / "compare" / "page.py"), default_timeout=PATIENCE)
    app.query_params["model"], app.query_params["show"] = model, show
    assert_literal(app.run())


@pytest.mark.parametrize("view", ["Plan", "Data", "Export"])
def test_the_name_of_an_upload_is_never_markdown(page, runs_folder, view):
    rows = b'{"%s": "a", "answer": "b"}\n' % SIGN.encode() * 30 + b'{"broken'
    uploads.kept(io.BytesIO(rows), f"{HOSTILE}.jsonl", runs_folder / "uploads")
    assert_literal(page(data=f"{HOSTILE}.jsonl", view=view))


@pytest.mark.parametrize("state", [State.FINISHED, State.FAILED, State.RUNNING])
def test_the_names_in_a_run_are_never_markdown(page, runs_folder, state):
    store = Store(runs_folder)
    plans = [FinetunePlan.for_method("lora", HOSTILE, target_modules=(name,)) for name in (HOSTILE, f"{SIGN}2")]
    runs = []
    for plan in plans:
        run = store.create(plan, DataSource(path=f"/{HOSTILE}.jsonl", prompts=(HOSTILE,)), ESTIMATE)
        store.claim_next("cpu")
        store.start_training(run.id)
        store.add_metric(run.id, Metric(step=1, loss=1.0))
        store.add_measured(run.id, peak_used_bytes=2**30)
        store.add_event(run.id, "warning", HOSTILE)
        store.enter(run.id, State.FAILED, error=f"{HOSTILE}: is bad", error_kind="data")
        runs.append(run.id)
    if state is not State.FAILED:
        again = store.request_resume(runs[0])
        store.claim_next("cpu")
        store.start_training(again.id)
        if state is State.FINISHED:
            store.enter(again.id, state)
    assert_literal(page("runs"))
    assert_literal(page("runs", run=runs[0]))
    assert_literal(page("runs", run=runs))
    assert_literal(page("accuracy", proof="Runs on this machine"))


def test_no_widget_fills_chips_with_the_accent():
    """White on the dark theme's light accent cannot be read (decision 0501)."""
    users = [file.name for file in (REPO / "ui").rglob("*.py") if "st.multiselect" in file.read_text(encoding="utf-8")]
    assert users == []
