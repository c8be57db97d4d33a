"""Rows of texts that belong together: which layouts say it, and what is read of each."""

import json

import pytest

from specs.tasks import task_type_of
from trainer.data.doctor import examined
from trainer.data.examples import examples, first_example, related_of
from trainer.data.forms.related import Related, prompted
from trainer.data.row import Finding
from trainer.data.source import DataSource

ASKED = {"role": "user", "content": "a"}
ANSWER = {"role": "assistant", "content": "b"}


def source_of(path, *rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return DataSource(path=str(path))


@pytest.mark.parametrize(
    ("row", "found"),
    [
        pytest.param({"anchor": "a", "positive": "b"}, Related("a", "b"), id="pairs"),
        pytest.param({"anchor": "a", "positive": "b", "negative": "c"}, Related("a", "b", ("c",)), id="triplets"),
        pytest.param(
            {"query": "a", "positive": "b", "negative_1": "c", "negative_2": "d"},
            Related("a", "b", ("c", "d")),
            id="mined negatives",
        ),
        pytest.param(
            {"query": "a", "pos": ["b"], "neg": ["c", "d"]}, Related("a", "b", ("c", "d")), id="FlagEmbedding"
        ),
        pytest.param(
            {
                "query": "a",
                "positive_passages": [{"title": "t", "text": "b"}],
                "negative_passages": [{"docid": "1", "title": "", "text": "c"}],
            },
            Related("a", "t b", ("c",)),
            id="Tevatron",
        ),
        pytest.param({"query": "a", "passage": "b"}, Related("a", "b"), id="query and passage"),
        pytest.param({"sentence1": "a", "sentence2": "b", "score": "0.5"}, Related("a", "b", (), 0.5), id="scores"),
        pytest.param({"query": "a", "answer": "b"}, Related("a", "b"), id="query and answer"),
        pytest.param({"question": "a", "answer": "b"}, Related("a", "b"), id="question and answer"),
        pytest.param({"messages": [ASKED, ANSWER]}, Related("a", "b"), id="one turn"),
    ],
)
def test_texts_are_read(tmp_path, row, found):
    example = first_example(source_of(tmp_path / "a.jsonl", row))
    assert related_of(example) == found
    assert task_type_of(example.kinds, ("FEATURE_EXTRACTION", "CAUSAL_LM")).name == "FEATURE_EXTRACTION"


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"messages": [ASKED, ANSWER, ASKED, ANSWER]}, id="two turns"),
        pytest.param({"messages": [{"role": "system", "content": "s"}, ASKED, ANSWER]}, id="a system message"),
    ],
)
def test_a_conversation_is_no_pair(tmp_path, row):
    assert "related" not in first_example(source_of(tmp_path / "a.jsonl", row)).kinds


def test_a_question_with_an_answer_still_trains_a_decoder_to_write(tmp_path):
    example = first_example(source_of(tmp_path / "a.jsonl", {"question": "a", "answer": "b"}))
    assert task_type_of(example.kinds, ("CAUSAL_LM", "SEQ_CLS", "FEATURE_EXTRACTION")).name == "CAUSAL_LM"


def test_the_fewest_wrong_texts_of_a_row_count(tmp_path):
    rows = [{"query": "a", "pos": "b", "neg": ["c", "d"]}, {"query": "e", "pos": "f", "neg": ["g"]}]
    assert examined(source_of(tmp_path / "a.jsonl", *rows)).num_negatives == 1


def test_a_score_must_be_a_number(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "b", "score": "high"}]
    assert [type(entry) for entry in examples(source_of(tmp_path / "a.jsonl", *rows))] == [Finding]


def test_prompts_stand_before_what_searches_and_what_is_found_but_not_before_equals():
    prompts = {"query": "q: ", "document": "d: "}
    assert prompted(Related("a", "b", ("c",)), prompts) == ("q: a", "d: b", "d: c")
    assert prompted(Related("a", "b", (), 0.5), prompts) == ("a", "b")
