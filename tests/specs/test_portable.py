"""What a run and an exported script do alike: alignment of words and tokens, entities, answers and their scores."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from specs.portable.passages import answer_scores, answer_tokens, best_answer, passage_parts
from specs.portable.tags import entities, entity_scores, tagged_tokens
from specs.portable.targets import rouge

UNKNOWN = {"unk_token": "?"}


@pytest.fixture(scope="module")
def letters():
    """A tokenizer of bytes whose tokens are single letters, spaces among them."""
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate("abcdeĠ")}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_only_the_first_token_of_a_word_has_its_tag(letters):
    found = tagged_tokens(["ab", "c", "de"], ["X", "Y", "Z"], letters, 100)
    assert found["tags"] == ["X", "", "", "Y", "", "Z", ""]
    assert tagged_tokens(["ab", "c", "de"], ["X", "Y", "Z"], letters, 3)["tags"] == ["X", "", ""]


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        pytest.param("B-PER I-PER O B-LOC B-LOC", [("PER", 0, 1), ("LOC", 3, 3), ("LOC", 4, 4)], id="BIO"),
        pytest.param("S-PER B-LOC I-LOC E-LOC I-LOC", [("PER", 0, 0), ("LOC", 1, 3), ("LOC", 4, 4)], id="BIOES"),
        pytest.param("I-PER I-LOC", [("PER", 0, 0), ("LOC", 1, 1)], id="another kind begins anew"),
        pytest.param("1 1 0 2", [("1", 0, 1), ("2", 3, 3)], id="numbers without names"),
        pytest.param("O 0", [], id="nothing"),
    ],
)
def test_tags_mark_entities(tags, found):
    assert entities(tags.split()) == found


def test_whole_entities_are_scored_as_seqeval_documents_it():
    right = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    found = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    assert entity_scores(right, found) == {"f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.8}


def test_every_part_of_a_context_overlaps_the_next_and_one_has_the_answer():
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(["?", *"abcdefghijk"])}, **UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **UNKNOWN)
    context = "a b c d e f g h i j"
    parts = list(passage_parts("k", context, ((12, "g h"),), tokenizer, 6))
    told = [
        [context[start:end] for start, end in zip(part["starts"], part["ends"], strict=True) if start >= 0]
        for part in parts
    ]
    assert told == [list("abcde"), list("defgh"), list("ghij")]
    assert [(part["start_positions"], part["end_positions"]) for part in parts] == [(0, 0), (4, 5), (1, 2)]
    with pytest.raises(ValueError, match="leaves no room"):
        list(passage_parts("k k k", context, (), tokenizer, 4))


def test_an_answer_that_is_cut_off_is_in_no_part():
    assert answer_tokens([-1, 0, 2], [-1, 1, 3], (2, "cde")) == {"start_positions": 0, "end_positions": 0}


def test_the_best_answer_never_ends_before_it_begins_and_never_stands_in_the_question():
    part = ([9.0, 1.0, 5.0], [9.0, 8.0, 2.0], [-1, 0, 4], [-1, 3, 8])
    assert best_answer([part], "one more") == "one"
    assert best_answer([], "one more") == ""


def test_answers_are_compared_as_by_the_evaluation_of_squad():
    found = answer_scores([["the Denver Broncos!", "Broncos"], ["1066"]], ["Denver Broncos", "in 1066"])
    assert found == {"exact_match": 0.5, "f1": pytest.approx((1 + 2 / 3) / 2)}


def test_rouge_is_that_of_rouge_score():
    found = rouge(["the cat sat on the mat"], ["the cat was on the mat today"])
    assert found == {
        "rouge1": pytest.approx(10 / 13),
        "rouge2": pytest.approx(6 / 11),
        "rougeL": pytest.approx(10 / 13),
    }
    assert rouge([""], [""]) == {"rouge1": 0, "rouge2": 0, "rougeL": 0}
