"""What a run learns is what its data says; what it skips, leaves unread or asks is told."""

import json
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from specs import DataError, PlanError
from specs.dataset import QUESTIONS, num_learned
from trainer.data.rendering import IGNORED
from trainer.data.source import DataSource
from trainer.results.answers import end_tokens
from trainer.runs.session import Session
from trainer.worker.rows import tokenized_rows


def chat(number, **more):
    said = [{"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": f"Answer {number}."}]
    return {"messages": said, **more}


@pytest.fixture
def opened(store, place, plan_of, tmp_path, tiny_tokenizer):
    """Tokenizes rows as a run does; returns its rows, its events' texts and its details."""

    def read(given, *, plan=None, tokenizer=tiny_tokenizer, name="data.jsonl", **source):
        path = tmp_path / name
        path.write_text(json.dumps(given) if name.endswith(".json") else "\n".join(map(json.dumps, given)))
        store.create(plan or plan_of(max_length=256), DataSource(path=str(path), **source), place=place)
        session = Session(store.claim_next(place.device), store, threading.Event())
        with tokenized_rows(session, tokenizer) as rows:
            held_out = rows.held_out and rows.held_out.to_list()  # read while the files are there
            found = replace(rows, learned=rows.learned.to_list(), held_out=held_out)
            texts = [event.text for event in store.events(session.run.id)]
            return found, texts, store.run(session.run.id).details

    return read


def learned(rows, tokenizer):
    return [tokenizer.decode([token for token in row["labels"] if token != IGNORED]) for row in rows]


def test_every_answer_is_learned_and_nothing_else(opened, tiny_tokenizer):
    rows, _, details = opened([chat(number) for number in range(4)])
    assert learned(rows.learned, tiny_tokenizer) == [f"Answer {number}.<|im_end|>\n" for number in range(4)]
    assert (details["rows"], details["skipped"], details["unused"]) == (4, 0, {})


def test_what_is_skipped_and_not_read_is_told(opened):
    bad = {"messages": [{"role": "boss", "content": "x"}]}
    _, texts, details = opened([*(chat(number, topic="sums") for number in range(12)), bad])
    assert "1 rows skipped, such as: Row 13: message 1 has the unknown role 'boss'." in texts
    assert "Not read: topic (12 rows)." in texts
    assert details["unused"] == {"topic": 12}


def test_too_many_bad_rows_end_the_run_with_their_reasons(opened):
    bad = [{"messages": [{"role": "boss", "content": "x"}]}] * 3
    with pytest.raises(DataError, match=r"3 of 8 rows cannot .* Commonest: 3 x message 1 has the unknown role"):
        opened([*map(chat, range(5)), *bad])


def test_an_answer_beyond_max_length_is_a_finding(opened, plan_of):
    long = chat(0)
    long["messages"][0]["content"] = "why " * 400
    _, texts, _ = opened([*map(chat, range(20)), long], plan=plan_of(max_length=256))
    assert "1 rows skipped, such as: Row 21: its answer begins after max_length (256 tokens)." in texts


def test_data_of_a_task_that_no_run_trains_for_is_refused(opened):
    with pytest.raises(DataError, match="which a run cannot train on yet"):
        opened([{"prompt": "Q", "completion": "A", "label": True}] * 3)


def test_data_for_another_task_than_the_plans_is_refused(opened):
    with pytest.raises(PlanError, match="task_type: must be SEQ_CLS for texts with a class, got CAUSAL_LM"):
        opened([{"text": "Nice", "label": 1}] * 3)


def test_questions_are_of_held_out_rows(opened, plan_of, tiny_tokenizer):
    rows, texts, _ = opened([chat(number) for number in range(20)], plan=plan_of(eval_split=0.2, max_length=256))
    assert len(rows.held_out) == 4
    assert len(rows.learned) == 16
    assert len(rows.prompts) == QUESTIONS
    assert f"{QUESTIONS} questions of held-out rows are asked before and after." in texts
    answers = {question.replace("Question", "Answer").replace("?", ".<|im_end|>\n") for question in rows.prompts}
    assert answers <= set(learned(rows.held_out, tiny_tokenizer))


def test_without_an_evaluation_a_few_rows_are_spared_for_the_questions(opened, tiny_tokenizer):
    rows, texts, _ = opened([chat(number) for number in range(80)])
    assert rows.held_out is None
    assert (rows.num_spared, len(rows.learned), len(rows.prompts)) == (3, 77, 3)
    answers = {question.replace("Question", "Answer").replace("?", ".<|im_end|>\n") for question in rows.prompts}
    assert not answers & set(learned(rows.learned, tiny_tokenizer))
    assert "3 rows are not learned: their questions are asked before and after." in texts
    assert dict(rows.expected) == {question: f"Answer {question.split()[1][:-1]}." for question in rows.prompts}


@pytest.mark.parametrize(("number", "share"), [(10, 0.0), (59, 0.0), (60, 0.0), (80, 0.0), (80, 0.1), (9, 0.01)])
def test_a_plan_counts_the_rows_that_a_run_learns(opened, plan_of, number, share):
    rows, _, details = opened([chat(row) for row in range(number)], plan=plan_of(eval_split=share, max_length=256))
    assert num_learned(number, share, asks_data=True) == len(rows.learned) == details["learned"]


def test_data_too_small_to_spare_a_row_is_learned_whole_and_says_so(opened):
    rows, texts, _ = opened([chat(number) for number in range(10)])
    assert (rows.num_spared, len(rows.learned), len(rows.prompts)) == (0, 10, 3)
    assert any("the data has too few rows to spare any" in text for text in texts)


def test_a_persons_own_questions_are_asked_and_every_row_is_learned(opened):
    rows, texts, _ = opened([chat(number) for number in range(80)], prompts=("Mine?",))
    assert (rows.prompts, len(rows.learned), rows.num_spared) == (("Mine?",), 80, 0)
    assert not any("asked before and after" in text for text in texts)


def test_a_split_of_the_file_may_be_held_out(opened, tiny_tokenizer):
    splits = {"train": [chat(number) for number in range(6)], "test": [chat(number) for number in (7, 8)]}
    rows, _, details = opened(splits, name="data.json", evaluation_split="test")
    assert learned(rows.held_out, tiny_tokenizer) == ["Answer 7.<|im_end|>\n", "Answer 8.<|im_end|>\n"]
    assert (len(rows.learned), details["rows"]) == (6, 6)
    assert rows.prompts == ("Question 7?", "Question 8?")


@pytest.fixture
def with_bos(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    bos, number = tokenizer.bos_token, tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, number)]
    )
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    return tokenizer


def test_pairs_have_one_bos_and_end_as_the_template_ends_them(opened, with_bos):
    pair = {"prompt": "Q", "chosen": "good", "rejected": "bad"}
    rows, _, _ = opened([{**pair, "prompt": f"Q{number}"} for number in range(3)], tokenizer=with_bos)
    for row in rows.learned:
        whole = row["prompt_ids"] + row["chosen_ids"]
        assert whole[0] == with_bos.bos_token_id
        assert whole.count(with_bos.bos_token_id) == 1
        assert with_bos.decode(row["chosen_ids"]) == "good\n<|im_end|>"
        assert with_bos.decode(row["rejected_ids"]) == "bad\n<|im_end|>"


@pytest.mark.parametrize(
    ("configured", "ends"),
    [
        pytest.param([7, 9], [7, 9, 2], id="several, as Llama 3's and Gemma's"),
        pytest.param(7, [7, 2], id="one"),
        pytest.param(2, [2], id="the tokenizer's own"),
        pytest.param(None, [2], id="none"),
    ],
)
def test_an_answer_ends_at_every_end_token(configured, ends):
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=configured))
    assert end_tokens(model, SimpleNamespace(eos_token_id=2)) == ends
