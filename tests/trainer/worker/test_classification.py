import threading
from types import SimpleNamespace

import pytest
import torch
from peft import PeftConfig
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from specs import LorafitError, PlanError
from tests.trainer.classified import ENCODERS, WORDS, model_folder, rows_of_opinions, source_of
from tests.trainer.waiting import killed_and_resumed, losses_of
from trainer.data.forms.messages import Turn
from trainer.model.build import build
from trainer.results.chat import Conversation, Question
from trainer.results.combine import combine
from trainer.results.found import probabilities
from trainer.results.merge import merge
from trainer.runs.contract import Place, State
from trainer.runs.export import RESULT
from trainer.runs.session import Session
from trainer.worker.learning.classes import measures
from trainer.worker.splitting import stratified_rows
from trainer.worker.train import train


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory, tiny_config, tiny_tokenizer):
    """Model folders by their model type, each made once."""
    made = {}

    def found(model_type):
        if model_type not in made:
            folder = tmp_path_factory.mktemp(model_type)
            made[model_type] = model_folder(model_type, folder, tiny_config, tiny_tokenizer)
        return made[model_type]

    return found


@pytest.fixture
def class_plan(plan_of):
    def made(**values):
        settings = {"method": "lora", "task_type": "SEQ_CLS", "per_device_train_batch_size": 8, "learning_rate": 5e-3}
        return plan_of(**{**settings, **values})

    return made


@pytest.fixture
def opinions(tmp_path):
    return source_of(tmp_path / "opinions.jsonl", rows_of_opinions())


@pytest.fixture
def trained(store):
    def done(plan, data, folder):
        store.create(plan, data, place=Place(model_path=str(folder)))
        run = store.claim_next("cpu")
        assert train(Session(run, store, threading.Event())) is State.FINISHED
        store.enter(run.id, State.FINISHED)
        return store.run(run.id)

    return done


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("model_type", ["llama", *ENCODERS])
def test_every_architecture_learns_the_classes_of_texts(
    model_type, method, store, class_plan, opinions, trained, folder_of
):
    plan = class_plan(method=method, max_steps=60, save_steps=60, eval_split=0.25, r=8)
    run = trained(plan, opinions, folder_of(model_type))
    losses = losses_of(store, run.id)
    assert sum(losses[-6:]) < 0.85 * sum(losses[:6])
    assert run.measured["evaluation"].keys() == {"step", "accuracy", "f1"}
    assert run.measured["evaluation"]["step"] == 60
    assert run.details["classes"] == ["neg", "pos"]
    for answer in store.answers(run.id):
        assert answer.base in {"neg", "pos"}
        assert {part.split()[0] for part in answer.tuned.split(", ")} == {"neg", "pos"}
    saved = AutoConfig.from_pretrained(store.run_folder(run.id) / RESULT)
    assert saved.id2label == {0: "neg", 1: "pos"}
    assert saved.label2id == {"neg": 0, "pos": 1}


@pytest.mark.parametrize(("method", "storage"), [("qlora", "Params4bit"), ("lora-8bit", "Int8Params")])
@pytest.mark.parametrize("model_type", ["llama", *ENCODERS])
def test_a_head_is_trained_whole_and_never_quantized(model_type, method, storage, class_plan, folder_of):
    model = build(class_plan(method=method), str(folder_of(model_type)), device="cpu")
    heads = {name: weight for name, weight in model.named_parameters() if "modules_to_save" in name}
    assert heads
    assert all(weight.requires_grad and weight.dtype is torch.float32 for weight in heads.values())
    kinds = {type(weight).__name__ for name, weight in model.named_parameters() if ".original_module." in name}
    assert kinds == {"Parameter"}
    assert storage in {type(weight).__name__ for weight in model.parameters()}


@pytest.mark.parametrize("model_type", ["llama", *ENCODERS])
def test_the_head_of_an_adapter_in_32_bit_reads_a_model_in_16_bit(model_type, class_plan, folder_of):
    plan = class_plan(dtype="bfloat16", adapter_dtype="float32")
    model = build(plan, str(folder_of(model_type)), device="cpu")
    model.config.pad_token_id = 0
    tokens = torch.tensor([[1, 5, 6, 2]])
    model(input_ids=tokens, labels=torch.tensor([1])).loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(gradient is not None for gradient in gradients.values())


def test_a_killed_run_of_classes_goes_on_on_the_same_curve(store, class_plan, opinions, trained, folder_of):
    plan, folder = class_plan(max_steps=12, save_steps=3, lora_dropout=0.1, eval_split=0.25), folder_of("bert")
    undisturbed = trained(plan, opinions, folder)
    killed = killed_and_resumed(store, plan, opinions, Place(model_path=str(folder)), at=7)
    assert losses_of(store, killed.id) == pytest.approx(losses_of(store, undisturbed.id), rel=1e-5)
    weights = [
        _tensors(store.run_folder(run.id) / RESULT / "adapter_model.safetensors") for run in (killed, undisturbed)
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-4, atol=1e-6)


def test_what_is_told_of_the_best_weights_was_measured_on_them(store, class_plan, opinions, trained, folder_of):
    plan = class_plan(max_steps=7, save_steps=3, eval_split=0.25, load_best_model_at_end=True)
    run = trained(plan, opinions, folder_of("bert"))
    evaluated = {metric.step: metric.eval_loss for metric in store.metrics(run.id) if metric.eval_loss is not None}
    assert evaluated.keys() == {3, 6, 7}
    assert run.measured["evaluation"]["step"] == min(evaluated, key=evaluated.get)


def test_two_texts_are_read_as_the_tokenizer_joins_them(tmp_path, store, class_plan, trained, folder_of):
    rows = [
        {"premise": f"the {word} film", "hypothesis": f"a {word} thing", "label": n % 2}
        for n, word in enumerate(WORDS[:6] * 4)
    ]
    source = source_of(tmp_path / "pairs.jsonl", rows, prompts=("the good film\n\na good thing",))
    run = trained(class_plan(max_steps=3), source, folder_of("bert"))
    assert run.details["classes"] == ["0", "1"]
    assert run.details["texts"] == 2
    (answer,) = store.answers(run.id)
    assert {part.split()[0] for part in answer.tuned.split(", ")} == {"0", "1"}


def test_an_adapter_is_saved_with_its_head(store, class_plan, opinions, trained, folder_of):
    run = trained(class_plan(max_steps=2), opinions, folder_of("deberta-v2"))
    result = store.run_folder(run.id) / RESULT
    assert PeftConfig.from_pretrained(result).task_type == "SEQ_CLS"
    names = set(_tensors(result / "adapter_model.safetensors"))
    assert {"base_model.model.classifier.weight", "base_model.model.pooler.dense.weight"} <= names


@pytest.mark.parametrize(
    ("rows", "values", "said"),
    [
        pytest.param(
            [*rows_of_opinions(), {"text": "a fine thing", "label": "neutral"}],
            {},
            "num_labels: must be 3, the number of classes in the data, got 2",
            id="another number of classes",
        ),
        pytest.param(
            [{"text": f"a good thing {n}", "label": "pos"} for n in range(9)],
            {},
            "classes: must be at least 2 to be told apart, got 1",
            id="one class",
        ),
        pytest.param(
            [{"question": "a good thing?", "answer": "a very good thing"}] * 9,
            {},
            "task_type: must be CAUSAL_LM for answers to learn, got SEQ_CLS",
            id="answers",
        ),
        pytest.param(
            rows_of_opinions(),
            {"task_type": "CAUSAL_LM"},
            "task_type: must be SEQ_CLS for texts with a class, got CAUSAL_LM",
            id="a language model",
        ),
    ],
)
def test_data_for_another_plan_is_refused(rows, values, said, tmp_path, class_plan, trained, folder_of):
    source = source_of(tmp_path / "rows.jsonl", rows)
    with pytest.raises(LorafitError, match=said):
        trained(class_plan(**values), source, folder_of("llama"))


def test_f1_counts_a_rare_class_as_much_as_a_common_one():
    found = SimpleNamespace(predictions=[0, 0, 0, 0], label_ids=[0, 0, 0, 1])
    assert measures(found) == {"accuracy": 0.75, "f1": pytest.approx((6 / 7 + 0) / 2)}


def test_each_class_gives_its_share_to_the_held_out_rows():
    strata = ["common"] * 90 + ["rare"] * 10
    groups = list(range(100))
    held_out = stratified_rows(groups, strata, share=0.2, seed=1)
    assert [strata[row] for row in held_out].count("common") == 18
    assert [strata[row] for row in held_out].count("rare") == 2


def test_a_text_that_repeats_is_never_on_both_sides():
    groups = [1, 1, 2, 3, 4, 4, 5, 6]
    held_out = set(stratified_rows(groups, list("aabbabab"), share=0.3, seed=3))
    learned = set(range(8)) - held_out
    assert held_out
    assert {groups[row] for row in held_out}.isdisjoint(groups[row] for row in learned)


def test_the_only_text_of_a_class_is_learned():
    assert 4 not in stratified_rows([1, 2, 3, 4, 5], list("aaaab"), share=0.4, seed=2)


def _tensors(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("model_type", ["llama", "bert", "modernbert"])
def test_a_result_is_merged_and_classifies_as_in_its_run(model_type, tmp_path, store, class_plan, trained, folder_of):
    source = source_of(tmp_path / "opinions.jsonl", rows_of_opinions(), prompts=("the good film",))
    run = trained(class_plan(max_steps=8), source, folder_of(model_type))
    (answer,) = store.answers(run.id)
    with Conversation(store, run) as conversation:
        question = Question(turns=(Turn(role="user", content="the good film"),))
        assert "".join(conversation.answer(question)) == answer.tuned
    merge(store, run, tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    found = probabilities(merged, tokenizer, ["the good film"])
    assert found.keys() == {"neg", "pos"}
    in_run = {part.split()[0]: float(part.split()[1].rstrip("%")) / 100 for part in answer.tuned.split(", ")}
    assert found == pytest.approx(in_run, abs=0.01)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_heads_cannot_be_added(tmp_path, store, class_plan, opinions, trained, folder_of):
    ids = [trained(class_plan(max_steps=2), opinions, folder_of("bert")).id for _ in range(2)]
    with pytest.raises(PlanError, match="a head of its own, which cannot be added"):
        combine(store, dict.fromkeys(ids, 0.5), "cat", tmp_path / "sum")
