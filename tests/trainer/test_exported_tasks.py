"""The exported scripts for tasks of their own: the rows, tokens, labels, losses and measures of a run."""

import json
import runpy
import sys
import threading

import pytest
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoConfig

from advisor.export import FORMATS, exported
from specs import FinetunePlan, PlanError
from specs.dataset import TrainingData
from tests.trainer.classified import model_folder, source_of
from tests.trainer.tasks import CASES
from trainer.data.doctor import examined
from trainer.data.known import training_data
from trainer.data.readers import reader
from trainer.runs.contract import Place
from trainer.runs.session import Session
from trainer.worker.train import train

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    ("task_type", "model_type", "values"),
    [
        pytest.param("SEQ_CLS", "bert", {"method": "lora"}, id="LoRA on BERT"),
        pytest.param("SEQ_CLS", "llama", {"method": "qlora"}, id="QLoRA on Llama"),
        pytest.param(
            "SEQ_CLS",
            "deberta-v2",
            {"method": "lora", "dtype": "bfloat16", "attn_implementation": "eager"},
            id="DeBERTa in 16 bit",
        ),
        pytest.param("SEQ_CLS", "modernbert", {"method": "full"}, id="all of ModernBERT"),
        pytest.param("TOKEN_CLS", "bert", {"method": "lora"}, id="tags, LoRA"),
        pytest.param("TOKEN_CLS", "llama", {"method": "qlora"}, id="tags, QLoRA"),
        pytest.param("QUESTION_ANS", "bert", {"method": "lora"}, id="answers in a text, LoRA"),
        pytest.param("QUESTION_ANS", "modernbert", {"method": "full"}, id="answers in a text, full"),
        pytest.param("SEQ_2_SEQ_LM", "t5", {"method": "full"}, id="all of T5"),
        pytest.param("SEQ_2_SEQ_LM", "t5", {"method": "qlora"}, id="QLoRA on T5"),
        pytest.param("SEQ_2_SEQ_LM", "bart", {"method": "lora"}, id="LoRA on BART"),
        pytest.param("FEATURE_EXTRACTION", "bert", {"method": "lora"}, id="embeddings, LoRA on BERT"),
        pytest.param("FEATURE_EXTRACTION", "llama", {"method": "qlora"}, id="embeddings, QLoRA on Llama"),
    ],
)
def test_the_script_has_the_losses_and_measures_of_a_run(
    task_type, model_type, values, store, plan_of, tmp_path, tiny_config, tiny_tokenizer, monkeypatch, capsys
):
    folder = model_folder(model_type, tmp_path / "model", tiny_config, tiny_tokenizer)
    settings = {"task_type": task_type, "max_steps": 4, "save_steps": 2, "eval_split": 0.25, "learning_rate": 5e-3}
    case = CASES[task_type]
    plan = plan_of(**{**settings, **case.plan, **values})
    source = source_of(tmp_path / "rows.jsonl", case.rows)
    store.create(plan, source, place=Place(model_path=str(folder)))
    run = store.claim_next("cpu")
    train(Session(run, store, threading.Event()))
    read_by = reader(folder, model_type=model_type, name="tiny", counted_by=folder, task_types=(task_type,))
    data = training_data(source, examined(source, read_by.tokenizer, task_types=read_by.task_types), read_by)
    script, output = tmp_path / "train.py", tmp_path / "output"
    script.write_text(exported(plan, "script", data=data).main[1], encoding="utf-8")
    monkeypatch.setattr(
        sys, "argv", [str(script), "--data", source.path, "--model", str(folder), "--output", str(output)]
    )
    capsys.readouterr()
    runpy.run_path(str(script), run_name="__main__")
    history = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    metrics = store.metrics(run.id)
    assert [entry["loss"] for entry in history if "loss" in entry] == pytest.approx(
        [metric.loss for metric in metrics], rel=1e-3
    )
    evaluated = {entry["step"]: entry for entry in history if "eval_loss" in entry}
    in_run = {metric.step: metric.eval_loss for metric in metrics if metric.eval_loss is not None}
    assert {step: entry["eval_loss"] for step, entry in evaluated.items()} == pytest.approx(in_run, rel=1e-3)
    last = store.run(run.id).measured["evaluation"]
    assert {name: evaluated[4][f"eval_{name}"] for name in case.measures} == pytest.approx(
        {name: last[name] for name in case.measures}
    )
    if task_type == "SEQ_CLS":
        assert AutoConfig.from_pretrained(output).id2label == {0: "neg", 1: "pos"}
    if task_type == "SEQ_CLS" and values["method"] != "full":
        AutoPeftModelForSequenceClassification.from_pretrained(output, num_labels=2)


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if not form.any_task])
def test_other_tools_are_refused_in_a_sentence(name):
    plan = FinetunePlan.for_method("lora", "m", task_type="SEQ_CLS")
    with pytest.raises(PlanError, match=r"must be CAUSAL_LM .* in an export to"):
        exported(plan, name, data=TrainingData(task="classification", roles=("text", "label")))
