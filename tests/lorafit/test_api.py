"""The five functions return what command lines and pages show, and refuse in one sentence."""

import contextlib
import dataclasses
import io
import itertools
import json
import warnings

import pytest

import lorafit
from advisor.__main__ import main as advisor
from catalog import gpus, models
from estimator import pricing
from estimator.__main__ import main as estimator
from lorafit import comparing
from specs import METHODS, FinetunePlan, LorafitError, paths
from tests.trainer.classified import ENCODERS
from trainer.data.source import DataSource
from trainer.runs.store import Store

LLAMA, CARD = "meta-llama/Llama-3.1-8B", "RTX 4090"
KNOWN = {"bf16": True, "gradient_checkpointing": True}
"""Settings whose tapes are shipped."""
DEMO = "HuggingFaceTB/SmolLM2-135M-Instruct"
PLAN = FinetunePlan.for_method("lora", LLAMA)


def printed(main, *arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(out.getvalue())


def test_advice_is_that_of_the_command_line():
    found = lorafit.advise(LLAMA, gpu=CARD, data=5000, task="code", goal="quality", r=32)
    asked = ("--model", LLAMA, "--gpu", CARD, "--dataset-rows", 5000, "--task", "code", "--goal", "quality")
    told = printed(advisor, *asked, "--pin", "r=32")
    assert json.loads(json.dumps(found.to_dict())) == {name: told[name] for name in told if name != "data"}
    assert found.plan.r == 32


def test_advice_for_several_cards_shards_the_plan():
    found = lorafit.advise("meta-llama/Llama-3.1-70B", gpu="A100 SXM4 80 GB", num_gpus=4)
    assert (found.plan.num_gpus, found.fits) == (4, True)
    assert found.plan.sharding != "none"


def test_what_of_the_data_is_not_read_is_told_as_a_warning(tmp_path):
    if not paths.demo_model().is_dir():
        pytest.skip("the demo model is not in the cache")
    data = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"{n}?", "completion": "Yes." if n else "", "colour": "red"} for n in range(30)]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = lorafit.advise(DEMO, gpu="8 GB", data=data)
    sentences = ["Not read: colour (29 rows).", "1 row is skipped since: completion is empty."]
    assert [str(warning.message) for warning in told] == sentences
    assert {warning.filename for warning in told} == {__file__}
    assert found.plan.to_dict() == printed(advisor, "--model", DEMO, "--gpu", "8 GB", "--data", data)["plan"]


def test_an_estimate_is_that_of_the_command_line():
    found = lorafit.estimate(LLAMA, method="qlora", gpu=CARD, max_length=1024, **KNOWN)
    flags = ("--max-length", 1024, "--autocast", "--gradient-checkpointing")
    told = printed(estimator, "--model", LLAMA, "--method", "qlora", "--gpu", CARD, *flags)
    assert json.loads(json.dumps(found.to_dict())).items() <= told.items()


def test_a_plan_is_estimated_as_it_is_or_with_changes():
    plan = FinetunePlan.for_method("qlora", LLAMA, **KNOWN)
    as_it_is = lorafit.estimate(plan, gpu=CARD)
    assert as_it_is == pricing.price(models.find(LLAMA), plan, gpus.find(CARD))
    assert lorafit.estimate(plan, gpu=CARD, r=64).trainable_params == 4 * as_it_is.trainable_params
    assert lorafit.estimate(plan, gpu=CARD, method="lora") == lorafit.estimate(LLAMA, gpu=CARD, **KNOWN)


def test_a_comparison_has_every_combination_and_says_of_one_why_there_is_none():
    plan = FinetunePlan.for_method("lora", LLAMA, **KNOWN)
    vary = {"gpu": ["12 GB", "L40S", "nothing"], "method": ["qlora", "lora"], "r": [8, 0]}
    found = lorafit.compare(plan, vary, gpu=CARD)
    by = {(*one.settings.values(),): one for one in found}
    assert [*by] == [*itertools.product(*vary.values())]
    expected = dataclasses.replace(comparing.under(plan, "qlora"), r=8)
    assert by["12 GB", "qlora", 8].estimate.used_bytes == lorafit.estimate(expected, gpu="12 GB").used_bytes
    assert by["12 GB", "lora", 8].estimate.verdict == "does not fit"
    assert "r: must" in by["12 GB", "qlora", 0].refusal
    assert "is not in the catalog, got nothing" in by["nothing", "lora", 8].refusal
    assert by["L40S", "lora", 8].estimate.verdict == "fits"


def test_a_plan_for_embeddings_moves_to_other_cards_and_models(tmp_path):
    """Its task goes with it; a decoder gets an adapter on its own modules, of which none is called query."""
    ENCODERS["bert"].save_pretrained(tmp_path)
    plan = FinetunePlan.for_method("lora", "m", task_type="FEATURE_EXTRACTION", target_modules=("query", "value"))
    spec, card = models.find(str(tmp_path)), gpus.find(CARD)
    point = comparing.Point(model=spec, plan=plan, gpu=card, as_priced=lambda one: one)
    assert comparing.on_device(point, "Tesla T4", card).plan.task_type == "FEATURE_EXTRACTION"
    moved = comparing.with_model(point, LLAMA)
    assert moved.plan.target_modules == "all-linear" or {*moved.plan.target_modules} <= {*moved.model.linear_modules}


def test_a_model_is_compared_from_its_recommended_plan():
    advised = lorafit.advise(LLAMA, gpu=CARD, data=5000)
    (one,) = lorafit.compare(LLAMA, {"method": [advised.plan.method]}, gpu=CARD, data=5000)
    assert one.estimate.used_bytes == advised.estimate.used_bytes


REFUSED = [
    pytest.param(lambda: lorafit.advise("no such model", gpu=CARD), "model: is not in the catalog", id="model"),
    pytest.param(lambda: lorafit.advise(LLAMA, gpu="RTX"), "gpu: ", id="card"),
    pytest.param(lambda: lorafit.advise(LLAMA, gpu=CARD, rank=3), "pins: rank: is not a field", id="setting"),
    pytest.param(lambda: lorafit.advise(LLAMA, gpu=CARD, method=["x"]), "method: must be one of", id="method"),
    pytest.param(lambda: lorafit.advise(LLAMA, gpu=CARD, num_gpus="2"), "num_gpus: must be a whole", id="number"),
    pytest.param(lambda: lorafit.advise(LLAMA, gpu=CARD, data="no.csv"), "no.csv: is not a file", id="data"),
    pytest.param(lambda: lorafit.estimate(LLAMA, gpu=CARD, rank=3), "plan: rank: is not a field", id="field"),
    pytest.param(lambda: lorafit.estimate(LLAMA, gpu=CARD, max_length=10**6), "max_length: ", id="length"),
    pytest.param(lambda: lorafit.estimate(LLAMA, gpu=CARD, task_type=[1]), "task_type: must be", id="type"),
    pytest.param(lambda: lorafit.compare(LLAMA, {"rank": [1]}, gpu=CARD), "vary: rank: is neither", id="axis"),
    pytest.param(lambda: lorafit.compare(LLAMA, {"method": ["x"]}, gpu=CARD), "vary: method: ", id="no method"),
    pytest.param(lambda: lorafit.compare(LLAMA, {"r": 8}, gpu=CARD), "vary: r: must be a list", id="no list"),
    pytest.param(lambda: lorafit.compare(LLAMA, {}, gpu=CARD), "vary: must name", id="nothing to vary"),
    pytest.param(
        lambda: lorafit.compare(LLAMA, {"r": [8] * 100, "method": [*METHODS]}, gpu=CARD), "at most 500", id="too many"
    ),
    pytest.param(lambda: lorafit.train({}, "rows.csv"), "plan: must be a plan", id="no plan"),
    pytest.param(lambda: lorafit.train(PLAN, "a.csv", prompts="Why?"), "prompts: must be a list", id="one question"),
    pytest.param(lambda: lorafit.train(PLAN, 5), "data: must be a file, a data set", id="data that is none"),
    pytest.param(lambda: lorafit.advise(paths.assets(), gpu=CARD), "model: must be a name", id="a path as model"),
    pytest.param(lambda: lorafit.estimate(None, gpu=CARD), "model: must be a name", id="no model"),
    pytest.param(lambda: lorafit.compare(LLAMA, ["r"], gpu=CARD), "vary: must map each", id="settings without values"),
    pytest.param(lambda: lorafit.watch("20260101-000000-abcd"), "runs: has no run yet", id="no runs folder"),
    pytest.param(lambda: lorafit.evaluate("20260101-000000-abcd"), "runs: has no run yet", id="nothing to judge"),
]


@pytest.mark.parametrize(("call", "said"), REFUSED)
def test_what_cannot_be_used_is_refused_in_one_sentence(runs_folder, call, said):
    with pytest.raises(LorafitError) as refused:
        call()
    assert said in str(refused.value)
    assert len(str(refused.value)) <= 300
    assert not runs_folder.exists()


def test_a_run_that_cannot_be_trained_here_never_exists(runs_folder, tiny_model, tiny_data):
    plan = FinetunePlan.for_method("lora", str(tiny_model), dtype="float32")
    with pytest.raises(LorafitError, match="device: must be cpu"):
        lorafit.train(plan, tiny_data, device="cuda:99")
    with pytest.raises(LorafitError, match="is not a file"):
        lorafit.train(plan, DataSource(path="nowhere.csv"))
    store = Store(runs_folder)
    assert store.runs() == ()
    with pytest.raises(LorafitError, match="run: must be the id of a stored run, got x"):
        lorafit.watch("x")


def test_every_function_is_documented_and_typed():
    page = (paths.REPO / "docs" / "api.md").read_text(encoding="utf-8")
    for name in lorafit.__all__:
        function = getattr(lorafit, name)
        assert "Raises:" in function.__doc__
        assert function.__annotations__["return"] is not None
        assert f"lorafit.{name}(" in page
    assert dir(lorafit) == lorafit.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lorafit.nothing  # noqa: B018


PLAN = FinetunePlan.for_method("lora", "x")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: lorafit.advise("Llama-3.1-8B", task=[1]), "task: must be the name of a task as text, got list."),
        (lambda: lorafit.advise("Llama-3.1-8B", rules=[]), "rules: must be the name of a rule set as text, got list."),
        (lambda: lorafit.advise("Llama-3.1-8B", gpu=24), "gpu: must be the name of a card or"),
        (lambda: lorafit.advise("Llama-3.1-8B", data=10**400), "data: must be a file, or a number of rows"),
        (lambda: lorafit.compare("Llama-3.1-8B", {"r": [8]}, goal=None), "goal: must be the name of a goal"),
        (lambda: lorafit.train(PLAN, "d", device=5), "device: must be torch's"),
        (lambda: lorafit.evaluate("1", rows="5"), "rows: must be a whole number, got str."),
        (lambda: lorafit.evaluate("1", answers=True), "answers: must be a whole number, got bool."),
        (lambda: lorafit.watch("1", seconds=None), "seconds: must be a number, got NoneType."),
    ],
)
def test_arguments_of_another_kind_are_refused_in_one_sentence(call, said):
    with pytest.raises(LorafitError) as refused:
        call()
    assert str(refused.value).startswith(said)
