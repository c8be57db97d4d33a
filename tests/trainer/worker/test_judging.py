"""What an evaluation holds in memory, how near answers are, and which label is the likeliest: on tiny models."""

import json
import threading
import weakref

import pytest
import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from specs import RunError
from trainer.failure import StopRequestedError
from trainer.results.chat import BASE, TUNED
from trainer.results.voices import Voices
from trainer.runs.export import result_folder
from trainer.runs.session import Session
from trainer.worker.judging import scores
from trainer.worker.judging.benchmark import Benchmark, own_task
from trainer.worker.judging.choices import Choices
from trainer.worker.judging.reading import after, loss_of

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

VOCABULARY, LENGTH = 40_000, 640


class Peak(TorchDispatchMode):
    """The most bytes of tensors made within it that existed at once."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {one.untyped_storage()._cdata for one in args if isinstance(one, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        made = {} if func._schema.is_mutable else {one.untyped_storage()._cdata: one for one in tensors(result)}
        for place in made.keys() - before:
            storage = made[place].untyped_storage()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.drop, storage.nbytes())
        return result

    def drop(self, num_bytes):
        self.now -= num_bytes


def tensors(result):
    return [one for one in (result if isinstance(result, list | tuple) else [result]) if isinstance(one, torch.Tensor)]


@pytest.fixture(scope="module")
def wide():
    """A small model of many words, whose logits are what takes memory."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=LENGTH, **sizes)).eval()


@pytest.mark.parametrize("num_learned", [20, LENGTH])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_row_takes_less_memory_than_in_training_and_none_for_what_is_not_learned(wide, num_learned, chunked):
    ids = torch.arange(LENGTH).tolist()
    labels = [-100] * (LENGTH - num_learned) + ids[LENGTH - num_learned :]
    with torch.no_grad():
        known = LENGTH - 1, float(wide(torch.tensor([ids]), labels=torch.tensor([labels])).loss)
    with Peak() as reading:
        found = loss_of(wide, ids, labels, chunked=chunked)
    assert found == pytest.approx(min(num_learned, known[0]) * known[1], rel=1e-4)
    assert "forward" not in vars(wide)
    if chunked:
        add_fused_lm_head(wide)
    with Peak() as training:
        said = wide(torch.tensor([ids]), labels=torch.tensor([labels]), **({"fused_lm_head": True} if chunked else {}))
        said.loss.backward()
    vars(wide).pop("forward", None)
    wide.zero_grad()
    assert reading.most < training.most
    if num_learned < LENGTH:
        assert reading.most < LENGTH * VOCABULARY  # a quarter of the logits of all positions


RIGHT = [
    f"the {colour} cat sat on the mat and looked at me" for colour in ("red", "old", "small", "grey", "wet", "big")
]


def test_translations_have_the_bleu_of_sacrebleu_over_all_rows_with_its_range():
    base, tuned = [text.replace("sat on", "lay near") for text in RIGHT], [text.replace("wet", "dry") for text in RIGHT]
    found = {one.name: one for one in scores.compared(RIGHT, base, tuned, translates=True)}
    bleu, chrf = found["bleu"], found["chrf"]
    assert bleu.base == pytest.approx(BLEU().corpus_score(base, [RIGHT]).score / 100)
    assert bleu.tuned == pytest.approx(BLEU().corpus_score(tuned, [RIGHT]).score / 100)
    assert 0 < bleu.low <= bleu.tuned - bleu.base <= bleu.high
    assert bleu.p == pytest.approx(2 / 2**6, rel=0.3)  # all six rows one way, or all the other
    assert bleu.is_certain
    mean = sum(CHRF().sentence_score(said, [right]).score for said, right in zip(base, RIGHT, strict=True)) / 6
    assert (chrf.base, chrf.rows) == (pytest.approx(mean / 100), 6)
    assert "bleu" not in {one.name for one in scores.compared(RIGHT, base, tuned, translates=False)}


def test_nobody_is_better_at_the_same_translations():
    (bleu,) = (one for one in scores.compared(RIGHT, RIGHT, RIGHT, translates=True) if one.name == "bleu")
    assert (bleu.base, bleu.tuned, bleu.low, bleu.high, bleu.p) == (pytest.approx(1), pytest.approx(1), 0, 0, 1)


def test_the_likeliest_label_is_that_of_the_greatest_probability_in_all(wide):
    labels = [(5, 6, 2), (7, 2), (8, 9, 10, 2)]
    asked = [([20 + number, 21], [*labels[number % 3]]) for number in range(12)]
    choices = Choices(asked, asked[:5])
    for voice in (BASE, TUNED):
        assert sum(choices.read(voice, wide, chunked=True)) == choices.work == 5 * 3
    likeliest = [min(labels, key=lambda label: loss_of(wide, *after(ids, label))) for ids, _ in asked[:5]]
    right = [tuple(answer) == found for (_, answer), found in zip(asked, likeliest, strict=False)]
    (found,) = choices.compared()
    assert (found.rows, found.base, found.tuned, found.p) == (5, sum(right) / 5, sum(right) / 5, 1)
    assert found.label == "Right label the likeliest of 3"


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([[5, 2]] * 12, id="one label tells nothing"),
        pytest.param([[number, 2] for number in range(12)], id="each answer differs"),
        pytest.param([[5] * 11, [6] * 11] * 6, id="long answers"),
    ],
)
def test_other_answers_are_no_labels(answers):
    asked = [([1], answer) for answer in answers]
    assert Choices(asked, asked).work == 0


def test_a_benchmark_is_held_against_the_base_question_by_question(trained_here, plan_of, chat_data, store, tmp_path):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: it is an option")
    questions = [{"question": f"Is {number} odd?", "answer": number % 2} for number in range(8)]
    (tmp_path / "odd.jsonl").write_text("\n".join(map(json.dumps, questions)))
    task = {
        "task": "odd",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "odd.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": ["yes", "no"],
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    }
    own = tmp_path / "odd.yaml"
    own.write_text(json.dumps(task))  # JSON is YAML too
    run = trained_here(plan_of(method="lora", max_steps=2), chat_data)
    tokenizer = AutoTokenizer.from_pretrained(result_folder(store, run))
    with pytest.raises(RunError, match="or the YAML file of your own, got even"):
        Benchmark("even", limit=6, tokenizer=tokenizer)
    benchmark, stop = Benchmark(str(own), limit=6, tokenizer=tokenizer), threading.Event()
    voices = Voices(Session(run, store, threading.Event()))
    for voice in (TUNED, BASE):
        with voices.model(voice) as model:
            benchmark.read(voice, model, stop)
    (found,) = benchmark.compared()
    assert (found.name, found.label, found.rows, found.counts) == ("benchmark", "odd, acc", 6, True)
    stop.set()
    with voices.model(TUNED) as model, pytest.raises(StopRequestedError):
        benchmark.read(TUNED, model, stop)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        pytest.param("task: [", "must be a YAML file of plain values", id="torn"),
        pytest.param(
            "task: odd\ndoc_to_text: !function utils.text", "plain values", id="a function, which would be run"
        ),
        pytest.param("- odd", "must name itself under task", id="a list"),
        pytest.param("task: odd\ninclude: other.yaml", "must hold all of the task, got include", id="another file"),
    ],
)
def test_a_task_of_ones_own_is_plain_values(tmp_path, written, said):
    (tmp_path / "own.yaml").write_text(written)
    with pytest.raises(RunError, match=said):
        own_task(tmp_path / "own.yaml")
    with pytest.raises(RunError, match="must be a YAML file of plain values"):
        own_task(tmp_path / "missing.yaml")


def test_a_benchmark_whose_questions_cannot_be_had_is_refused_before_a_model_is_read(tmp_path):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: it is an option")
    missing = {"task": "odd", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "no")}}}
    (tmp_path / "odd.yaml").write_text(json.dumps(missing))
    with pytest.raises(RunError, match="must be a task whose questions can be read"):
        Benchmark(str(tmp_path / "odd.yaml"), limit=6, tokenizer=None)
