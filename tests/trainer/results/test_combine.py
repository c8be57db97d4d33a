"""Sums of adapters do what the sum of what they do would, or are refused in a sentence."""

import shutil
import threading

import pytest
import torch
from huggingface_hub import ModelCard
from peft import IA3Config, PeftModel
from transformers import AutoModelForCausalLM

from catalog import here
from specs import PlanError, RunError
from trainer.failure import PassedOnError
from trainer.results import tasks
from trainer.results.chat import TUNED
from trainer.results.combine import combine, main
from trainer.results.evaluation import learned_all
from trainer.results.merge import merge
from trainer.results.voices import Voices
from trainer.runs import combinations, export
from trainer.runs.contract import Place, State
from trainer.runs.export import RESULT
from trainer.runs.session import Session
from trainer.runs.starting import Starter

# PEFT 0.21 reads a property that transformers 5.23 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
IDS = torch.arange(20)[None]


def base(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def added(folder, adapters):
    """The base model plus so much of what each adapter changes in its weights."""
    model = base(folder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    total = {name: value.clone() for name, value in before.items()}
    for adapter, weight in adapters:
        after = PeftModel.from_pretrained(base(folder), adapter).merge_and_unload().state_dict()
        for name in total:
            total[name] += weight * (after[name] - before[name])
    model.load_state_dict(total)
    return model


@pytest.mark.parametrize(
    ("first", "second", "weights", "combination_type"),
    [
        pytest.param({"r": 4}, {"r": 8}, (0.5, 0.5), "cat", id="different ranks"),
        pytest.param({"use_rslora": True}, {"lora_alpha": 3}, (1.0, -0.25), "cat", id="rsLoRA, and a difference"),
        pytest.param({"target_modules": ["q_proj"]}, {"target_modules": ["v_proj"]}, (1, 1), "cat", id="other modules"),
        pytest.param({"r": 4}, {"r": 8, "rank_pattern": {"q_proj": 2}}, (0.3, 0.0), "svd", id="svd, one alone"),
        pytest.param({}, {}, (1.0, 0.0), "linear", id="linear, one alone"),
    ],
)
def test_a_sum_of_adapters_gives_the_logits_of_the_summed_changes(
    store, adapter_run, tiny_model, tmp_path, first, second, weights, combination_type
):
    ids = [adapter_run(**first), adapter_run(**second)]
    combine(store, dict(zip(ids, weights, strict=True)), combination_type, tmp_path / "sum")
    folders = [store.run_folder(run_id) / RESULT for run_id in ids]
    expected = logits(added(tiny_model, zip(folders, weights, strict=True)))
    found = logits(PeftModel.from_pretrained(base(tiny_model), tmp_path / "sum"))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (expected - logits(base(tiny_model))).abs().max() > 0.05
    assert (tmp_path / "sum" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        pytest.param({"use_dora": True}, "cat", "DoRA", id="DoRA"),
        pytest.param({"bias": "all"}, "cat", "biases", id="biases"),
        pytest.param({"r": 8}, "linear", "same r", id="linear with different ranks"),
        pytest.param({"r": 33}, "svd", "svd needs every r at most 32", id="svd above the smallest layer"),
        pytest.param({"config": IA3Config(task_type="CAUSAL_LM")}, "cat", "must have trained LoRA", id="IA3"),
    ],
)
def test_adapters_without_a_sum_are_refused_in_a_sentence(store, adapter_run, tmp_path, settings, kind, said):
    weights = {adapter_run(): 1.0, adapter_run(**settings): 1.0}
    with pytest.raises(PlanError, match=said):
        combine(store, weights, kind, tmp_path / "sum")
    assert not (tmp_path / "sum").exists()


def test_runs_without_adapter_or_of_other_bases_are_refused(store, plan_of, chat_data, adapter_run, tmp_path):
    ready, unfinished = adapter_run(), store.create(plan_of(), chat_data, place=Place(model_path="elsewhere")).id
    with pytest.raises(RunError, match="has saved no adapter yet"):
        combine(store, {ready: 1.0, unfinished: 1.0}, "cat", tmp_path / "sum")
    (store.run_folder(unfinished) / RESULT).mkdir()
    with pytest.raises(RunError, match="one base model"):
        combine(store, {ready: 1.0, unfinished: 1.0}, "cat", tmp_path / "sum")
    whole = store.create(plan_of(method="full"), chat_data, place=Place(model_path=store.run(ready).model)).id
    (store.run_folder(whole) / RESULT).mkdir()
    with pytest.raises(PlanError, match="must have trained LoRA to be combined with others, got full"):
        combine(store, {ready: 1.0, whole: 1.0}, "cat", tmp_path / "sum")


def test_its_process_writes_a_sum_into_the_runs_folder(store, adapter_run):
    pairs = [f"{adapter_run()}=0.5", f"{adapter_run(r=8)}=0.5"]
    assert main([str(store.folder), str(store.folder / "both"), "cat", *pairs]) == 0
    assert (store.folder / "both" / "adapter_model.safetensors").is_file()


def test_a_combination_is_a_run_that_is_asked_merged_and_exported_and_not_trained(
    store, adapter_run, tiny_model, tmp_path
):
    ids = [adapter_run(r=4, method="lora"), adapter_run(r=8, use_rslora=True)]
    store.describe(ids[0], name="Letters")
    made = tasks.combine(store, ids, [0.5, 0.25], "cat")
    assert [run.id for run in store.runs()] == [made.id, *reversed(ids)]
    assert (made.state, made.name) == (State.FINISHED, f"Letters + {ids[1]}")
    assert [(part["id"], part["weight"]) for part in made.parts] == [(ids[0], 0.5), (ids[1], 0.25)]
    assert (made.plan.r, made.plan.lora_alpha, made.plan.use_rslora) == (12, 12, False)
    folders = [store.run_folder(run_id) / RESULT for run_id in ids]
    expected = logits(added(tiny_model, zip(folders, (0.5, 0.25), strict=True)))
    with Voices(Session(made, store, threading.Event())).model(TUNED) as model:
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-4)
    merge(store, made, tmp_path / "merged")
    assert ModelCard.load(tmp_path / "merged" / "README.md").data.library_name == "transformers"
    card = export.package(store, made)["README.md"].decode()
    assert all(f"x run {run_id}" in card for run_id in ids)
    assert str(tiny_model) not in card
    shutil.copytree(store.run_folder(made.id) / RESULT, store.folder / "again")
    again = combinations.added(store, [store.run(one) for one in ids], [0.5, 0.25], "cat", store.folder / "again")
    assert again.id == made.id, "the same adapters in the same shares are the same"
    starter = Starter(store, here)
    for deed in (lambda: starter.extend(made.id, 5), lambda: starter.duplicate(made)):
        with pytest.raises(RunError, match="and is not trained itself"):
            deed()
    assert store.run(made.id).state is State.FINISHED
    store.request_stop(ids[0])
    store.delete(ids[0])
    assert store.run(made.id).parts[0]["name"] == "Letters"


@pytest.mark.parametrize(
    ("seeds", "others"), [((1, 1), False), ((1, 2), True)], ids=["the same rows held out", "other rows held out"]
)
def test_a_combination_whose_runs_may_have_learned_each_others_rows_says_so(
    store, adapter_run, plan_of, chat_data, place, seeds, others
):
    folder = store.run_folder(adapter_run()) / RESULT
    runs = [store.create(plan_of(eval_split=0.2, seed=seed), chat_data, place=place) for seed in seeds]
    shutil.copytree(folder, store.folder / "sum")
    made = combinations.added(store, runs, [0.5, 0.5], "cat", store.folder / "sum")
    assert learned_all(made) is others


def test_what_its_process_refuses_comes_back_as_a_sentence(store, adapter_run):
    ids = [adapter_run(), adapter_run(r=8)]
    with pytest.raises(PassedOnError, match="combination_type: linear needs the same r"):
        tasks.combine(store, ids, [0.5, 0.5], "linear")


@pytest.mark.parametrize(
    ("ids", "weights", "kind", "said"),
    [
        pytest.param(["a", "a"], [1, 1], "cat", "at least two different runs", id="one run"),
        pytest.param(["a", "a", "b"], [1, 1, 1], "cat", "name each run once, got a", id="a run twice"),
        pytest.param(["a", "b"], [1], "cat", "must be one per run", id="too few weights"),
        pytest.param(["a", "b"], [float("nan"), 1], "cat", "must be finite numbers", id="no number"),
        pytest.param(["a", "b"], [0, 0], "cat", "not all of them 0", id="nothing"),
        pytest.param(["a", "b"], [1, 1], "x", "must be one of cat", id="unknown type"),
        pytest.param(["../a", "b"], [1, 1], "cat", "must be the id of a stored run", id="a path"),
    ],
)
def test_no_process_is_started_for_a_request_that_makes_no_sense(store, ids, weights, kind, said):
    with pytest.raises(RunError, match=said):
        tasks.combine(store, ids, weights, kind)
