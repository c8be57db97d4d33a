"""Sums of adapters do what the sum of what they do would, or are refused in a sentence."""

import pytest
import torch
from peft import IA3Config, PeftModel
from transformers import AutoModelForCausalLM

from specs import PlanError, RunError
from trainer.failure import PassedOnError
from trainer.results import tasks
from trainer.results.combine import combine, main
from trainer.runs.contract import Place
from trainer.runs.export import RESULT

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
    card = (tmp_path / "sum" / "README.md").read_text()
    assert all(run_id in card for run_id in ids)
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


def test_its_process_writes_a_sum_into_the_runs_folder(store, adapter_run):
    pairs = [f"{adapter_run()}=0.5", f"{adapter_run(r=8)}=0.5"]
    assert main([str(store.folder), str(store.folder / "combined" / "both"), "cat", *pairs]) == 0
    assert (store.folder / "combined" / "both" / "adapter_model.safetensors").is_file()


def test_what_its_process_refuses_comes_back_as_a_sentence(store, adapter_run):
    ids = [adapter_run(), adapter_run(r=8)]
    with pytest.raises(PassedOnError, match="combination_type: linear needs the same r"):
        tasks.combine(store, ids, [0.5, 0.5], "linear")


@pytest.mark.parametrize(
    ("ids", "weights", "kind"),
    [(["a", "a"], [1, 1], "cat"), (["a", "b"], [1], "cat"), (["a", "b"], [1, 1], "x"), (["../a", "b"], [1, 1], "cat")],
    ids=["one run", "too few weights", "unknown type", "a path"],
)
def test_no_process_is_started_for_a_request_that_makes_no_sense(store, ids, weights, kind):
    with pytest.raises(RunError):
        tasks.combine(store, ids, weights, kind)
