import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from catalog import models
from estimator.tape import library, tracer_process
from estimator.tape.conditions import Conditions
from estimator.tape.recipe import recipe
from estimator.tape.tracer_process import TracerProcess
from specs import FinetunePlan, ModelSpec, PlanError, SpecError, TraceError
from specs.paths import REPO
from tests.estimator.small import CONFIGS, model
from tests.patience import PATIENCE

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


def wanted(name="llama", **values):
    return recipe(model(name), FinetunePlan.for_method("lora", "small", **values), Conditions())


def silent(_):
    pass


def test_a_tape_is_traced_once_and_then_read(cache, tracer):
    shelf = library.TapeLibrary()
    shelf.tracer = tracer
    told = []
    first = shelf.tape(wanted(), told.append)
    assert any("tracing" in text for text in told)
    (file,) = cache.rglob("*.tape")
    again = library.TapeLibrary()
    assert again.is_warm(wanted())
    assert again.tape(wanted(), silent).to_json() == first.to_json()
    assert again.tracer.pid is None
    file.write_bytes(b"torn")
    rebuilt = library.TapeLibrary()
    rebuilt.tracer = tracer
    assert not rebuilt.is_warm(wanted())
    assert json.loads(rebuilt.tape(wanted(), silent).to_json())["sizes"] == json.loads(first.to_json())["sizes"]
    assert library.kept(wanted()).num_params == first.num_params


def test_a_killed_tracer_is_restarted(tracer):
    tracer.ask(wanted(), silent)
    first = tracer.pid
    os.kill(first, signal.SIGKILL)
    assert tracer.ask(wanted(max_length=300), silent)
    assert tracer.pid not in {None, first}


class LeftPageError(Exception):
    """What a page raises when somebody leaves it."""


def test_the_answer_to_a_page_that_was_left_is_not_taken_for_another(tracer):
    def leaving(_):
        raise LeftPageError

    left, other = wanted(lora_dropout=0.3), wanted("gpt2 with Conv1D")
    with pytest.raises(LeftPageError):
        tracer.ask(left, leaving)
    told = []
    assert facts(tracer.ask(other, silent))["config"]["model_type"] == "gpt2"
    with pytest.raises(LeftPageError):
        tracer.ask(wanted(lora_dropout=0.4), leaving)
    assert facts(tracer.ask(wanted(lora_dropout=0.4), told.append))["config"]["model_type"] == "llama"
    assert sum("tracing" in words for words in told) < 3


def facts(tape):
    return json.loads(tape)["facts"]


def test_a_tracer_that_stands_still_is_ended_and_one_that_works_for_ever_too(monkeypatch):
    process = TracerProcess()
    process.ask(wanted(), silent)
    stopped = process.pid
    os.kill(stopped, signal.SIGSTOP)
    monkeypatch.setattr(tracer_process, "_LONGEST_REST_SECONDS", 3)
    assert process.ask(wanted(lora_dropout=0.2), silent)
    assert process.pid != stopped
    monkeypatch.setattr(tracer_process, "_MOST_WORK_SECONDS", 0.1)
    process.stop()
    with pytest.raises(TraceError, match="llama: its step takes more than two minutes of processor time"):
        process.ask(wanted(), silent)
    process.stop()


@pytest.mark.parametrize(("signal_number", "short"), [(signal.SIGKILL, True), (signal.SIGTERM, False)])
def test_a_tracer_that_dies_twice_is_said_to_be_short_of_memory_only_if_the_system_killed_it(signal_number, short):
    process = TracerProcess()
    with pytest.raises(TraceError, match="died before it answered") as caught:
        process.ask(wanted(), lambda _: os.kill(process.pid, signal_number))
    assert ("as the system does when memory is short" in str(caught.value)) == short
    process.stop()


ESTIMATE = """
import sys
from estimator.tape import library
from tests.estimator.tape.test_library import wanted
shelf = library.TapeLibrary()
tape = shelf.tape(wanted(), lambda words: print(words, flush=True))
print("pid", shelf.tracer.pid, tape.num_params, flush=True)
shelf.tracer.stop()
"""


def estimating():
    """Start a process that estimates a model nobody traced yet."""
    return subprocess.Popen([sys.executable, "-c", ESTIMATE], cwd=REPO, stdout=subprocess.PIPE, text=True)


def test_six_estimates_of_one_new_model_trace_it_once():
    ends = [process.communicate(timeout=300)[0].splitlines()[-1] for process in [estimating() for _ in range(6)]]
    assert len({end.split()[2] for end in ends}) == 1
    assert sum(end.split()[1] != "None" for end in ends) == 1


def test_a_killed_owner_of_the_tracing_frees_it_for_the_next():
    with estimating() as owner:
        assert "loading" in owner.stdout.readline()
        with estimating() as waiting:
            assert "waiting for another estimate" in waiting.stdout.readline()
            owner.kill()
            said = waiting.stdout.read().splitlines()
    assert "loading" in said[0]
    assert said[-1].split()[1] != "None"


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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
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


def test_a_tape_that_other_code_traced_is_not_taken_from_the_cache(tmp_path, monkeypatch):
    (tmp_path / "estimator" / "tracer").mkdir(parents=True)
    code = tmp_path / "estimator" / "tracer" / "model.py"
    monkeypatch.setattr(library, "REPO", tmp_path)
    stamps = []
    for text in ("one = 1", "one = 1", "one = 2"):
        code.write_text(text)
        library.stamp.cache_clear()
        stamps.append(library.stamp())
    library.stamp.cache_clear()
    assert stamps[0] == stamps[1] != stamps[2]
