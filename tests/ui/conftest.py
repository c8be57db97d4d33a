"""Pages run in this process, on a runs folder of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from streamlit.testing.v1 import AppTest

from catalog import models
from specs import FinetunePlan
from specs.paths import REPO
from tests.patience import PATIENCE
from trainer.data.source import DataSource
from trainer.runs.contract import Answer, Metric, Phase, Place, Run, State
from trainer.runs.store import Store

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(autouse=True)
def runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Point the app at an empty runs folder, and end what still trains there, which would be for minutes."""
    runs = tmp_path / "runs"
    monkeypatch.setenv("LORAFIT_RUNS", str(runs))
    yield runs
    if any(runs.glob("*/worker.log")):
        for process in psutil.process_iter(["cmdline"]):
            if str(runs) in (process.info["cmdline"] or ()):
                process.kill()


@pytest.fixture(autouse=True)
def no_fault(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test in which a page hid a fault of LoRAFit behind a sentence."""
    yield
    said = [record.getMessage() for when in ("setup", "call") for record in caplog.get_records(when)]
    assert not [words for words in said if "has a fault" in words]


@pytest.fixture
def page() -> Callable[..., AppTest]:
    """Open a page as a link would; fails when the page raised anything."""

    def opened(name: str = "plan", **parameters: str | list[str]) -> AppTest:
        app = AppTest.from_file(str(REPO / "app.py"), default_timeout=PATIENCE)
        for key, value in parameters.items():
            app.query_params[key] = value
        app.run()
        assert not app.exception
        if name != "plan":
            app.switch_page(f"ui/{name}/page.py").run()
            assert not app.exception
        return app

    return opened


def other_way(app: AppTest, name: str) -> AppTest:
    """Open what else can be done with a plan, and one of the ways."""
    app.session_state["ways"] = True
    app.session_state["way"] = name
    app.run()
    assert not app.exception
    return app


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """Make a folder with what a door looks at: the demo model's configuration, and the names of the other files."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(models.find(MODEL).config_json)
    for name in ("model.safetensors", "vocab.json"):
        (folder / name).touch()
    return folder


@pytest.fixture
def finished(runs_folder: Path, model_folder: Path) -> Callable[..., Run]:
    """Return a maker of runs as workers leave them behind."""

    def made(losses: list[float], **changes: object) -> Run:
        store, data = Store(runs_folder), runs_folder / "data.jsonl"
        data.write_text('{"prompt": "Hi?", "completion": "Hello."}\n')
        plan = FinetunePlan.for_method("qlora", MODEL, **changes)
        estimate = {"used_bytes": 2 * 2**30, "components": {"weights": 2**30, "overhead": 2**30}}
        run = store.create(plan, DataSource(path=str(data)), estimate, place=Place(model_path=str(model_folder)))
        store.claim_next("cpu")
        store.enter(run.id, State.RUNNING, started_at=1.0, phase=Phase.TRAINING)
        for step, loss in enumerate(losses, 1):
            store.add_metric(run.id, Metric(step=step, loss=loss, learning_rate=1e-4, memory_bytes=2**30))
        store.set_answers(run.id, [Answer(prompt="Why?", base="<b>Because</b>", tuned="**So.**")])
        store.add_measured(run.id, peak_used_bytes=int(2.1 * 2**30))
        store.enter(run.id, State.FINISHED, finished_at=61.0, phase=Phase.DONE)
        return store.run(run.id)

    return made
