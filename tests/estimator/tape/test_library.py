import gzip
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from catalog import models
from estimator.tape import library
from estimator.tape.conditions import Conditions
from estimator.tape.recipe import recipe
from estimator.tape.tape import Tape
from estimator.tape.tracer_process import TracerProcess
from specs import FinetunePlan, ModelSpec, PlanError, SpecError
from tests.estimator.small import CONFIGS, model

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAFIT_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def tracer():
    process = TracerProcess()
    yield process
    process.stop()


def wanted(**values):
    return recipe(model("llama"), FinetunePlan.for_method("lora", "small", **values), Conditions())


def silent(_):
    pass


def test_a_tape_is_traced_once_and_then_read(cache, tracer):
    shelf = library.TapeLibrary()
    shelf.tracer = tracer
    told = []
    first = shelf.tape(wanted(), told.append)
    assert any("tracing" in text for text in told)
    (file,) = cache.rglob("*.json.gz")
    again = library.TapeLibrary()
    assert again.is_warm(wanted())
    assert again.tape(wanted(), silent).to_json() == first.to_json()
    assert again.tracer.pid is None
    file.write_bytes(b"torn")
    rebuilt = library.TapeLibrary()
    rebuilt.tracer = tracer
    assert not rebuilt.is_warm(wanted())
    assert json.loads(rebuilt.tape(wanted(), silent).to_json())["sizes"] == json.loads(first.to_json())["sizes"]
    assert Tape.from_json(gzip.decompress(file.read_bytes()).decode()).num_params == first.num_params


def test_a_killed_tracer_is_restarted(tracer):
    tracer.ask(wanted(), silent)
    first = tracer.pid
    os.kill(first, signal.SIGKILL)
    assert tracer.ask(wanted(max_length=300), silent)
    assert tracer.pid not in {None, first}


def test_several_sessions_share_one_tracer(tracer):
    answers = []
    threads = [
        threading.Thread(target=lambda r=r: answers.append(tracer.ask(wanted(lora_dropout=r), silent)))
        for r in (0, 0.1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 2
    assert tracer.pid is not None


@pytest.mark.parametrize(
    ("spec", "values", "kind", "words"),
    [
        pytest.param(
            {**CONFIGS["llama"], "model_type": "no_such_model"},
            {},
            SpecError,
            "no_such_model",
            id="unknown architecture",
        ),
        pytest.param(CONFIGS["llama"], {"target_modules": ("q_porj",)}, PlanError, "q_proj", id="misspelt module"),
        pytest.param(
            CONFIGS["qwen3_moe with experts"],
            {"lora_dropout": 0.1},
            PlanError,
            "Set lora_dropout to 0",
            id="dropout on experts",
        ),
        pytest.param(
            {**CONFIGS["llama"], "num_attention_heads": 7, "num_key_value_heads": 7},
            {},
            SpecError,
            "llama",
            id="shapes that do not fit together",
        ),
    ],
)
def test_a_model_that_cannot_be_traced_is_refused_in_one_sentence(tracer, spec, values, kind, words):
    broken = ModelSpec.from_config(spec, name="broken")
    asked = recipe(broken, FinetunePlan.for_method("lora", "x", **values), Conditions())
    with pytest.raises(kind, match=words) as caught:
        tracer.ask(asked, silent)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_the_tracer_ends_with_its_parent_process():
    code = (
        "from estimator.tape import tracer_process\n"
        "from tests.estimator.tape.test_library import wanted\n"
        "process = tracer_process.TracerProcess()\n"
        "process.ask(wanted(), lambda _: None)\n"
        "print(process.pid)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    pid = int(done.stdout.split()[-1])
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        threading.Event().wait(0.1)
    pytest.fail("the tracer outlived its asker")


def test_the_library_loads_no_torch():
    code = (
        "import sys, estimator.pricing; print([m for m in ('torch', 'transformers', 'streamlit') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_model_of_the_catalog_has_a_recipe():
    keys = {
        recipe(models.find(name), FinetunePlan.for_method("lora", name), Conditions()).key for name in models.names()
    }
    assert len(keys) > 50
