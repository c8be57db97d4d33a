"""Two answers to one question are read from every form of pairs, and the worse one is never the target."""

import json

import pytest

from specs import DataError
from trainer.data.doctor import examined
from trainer.data.examples import examples, require_trained
from trainer.data.row import Finding
from trainer.data.source import DataSource

ASKED = [{"role": "user", "content": "Q"}]
GOOD, BAD = {"role": "assistant", "content": "good"}, {"role": "assistant", "content": "bad"}
HUMAN = {"from": "human", "value": "Q"}


def first(tmp_path, *rows):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return next(examples(DataSource(path=str(path))))


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"prompt": "Q", "chosen": "good", "rejected": "bad"}, id="TRL, explicit"),
        pytest.param({"prompt": ASKED, "chosen": [GOOD], "rejected": [BAD]}, id="TRL, conversational"),
        pytest.param({"chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]}, id="TRL, implicit"),
        pytest.param({"prompt": "Q", "chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]}, id="UltraFeedback"),
        pytest.param(
            {"chosen": "\n\nHuman: Q\n\nAssistant: good", "rejected": "\n\nHuman: Q\n\nAssistant: bad"}, id="HH-RLHF"
        ),
        pytest.param({"instruction": "Q", "chosen": "good", "rejected": "bad"}, id="alpaca"),
        pytest.param({"question": "Q", "chosen": "good", "rejected": "bad"}, id="Orca"),
        pytest.param(
            {
                "conversations": [HUMAN],
                "chosen": {"from": "gpt", "value": "good"},
                "rejected": {"from": "gpt", "value": "bad"},
            },
            id="ShareGPT",
        ),
        pytest.param(
            {"prompt": "Q", "chosen": "good", "rejected": "bad", "score_chosen": 8, "score_rejected": 2}, id="scores"
        ),
        pytest.param({"prompt": "Q", "response_0": "bad", "response_1": "good", "better_response_id": 1}, id="Safe"),
        pytest.param({"history": "Q", "human_ref_A": "good", "human_ref_B": "bad", "labels": 1}, id="SHP, the first"),
        pytest.param({"history": "Q", "human_ref_A": "bad", "human_ref_B": "good", "labels": 0}, id="SHP, the second"),
        pytest.param(
            {"prompt": "Q", "response_a": "bad", "response_b": "good", "score_a": 0.5, "score_b": 0.9}, id="scored"
        ),
        pytest.param({"prompt": "Q", "response_a": "good", "response_b": "bad", "winner": "model_a"}, id="arena"),
    ],
)
def test_a_pair_is_read_in_every_form(tmp_path, row):
    pair = first(tmp_path, row)
    assert pair.task == "preference"
    assert [(turn.role, turn.content) for turn in pair.turns] == [("user", "Q")]
    assert [turn.content for turn in pair.chosen] == ["good"]
    assert [turn.content for turn in pair.rejected] == ["bad"]
    assert pair.unused == ()


def test_what_is_said_to_the_system_comes_first(tmp_path):
    pair = first(tmp_path, {"system": "Be kind.", "question": "Q", "chosen": "good", "rejected": "bad"})
    assert [(turn.role, turn.content) for turn in pair.turns] == [("system", "Be kind."), ("user", "Q")]


def test_the_input_belongs_to_the_question(tmp_path):
    pair = first(tmp_path, {"instruction": "Add.", "input": "1 1", "chosen": "2", "rejected": "3"})
    assert pair.turns[0].content == "Add.\n\n1 1"


def test_a_dialogue_of_several_turns_is_asked_up_to_where_the_answers_part(tmp_path):
    begun = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Q\n\nAssistant: "
    pair = first(tmp_path, {"chosen": f"{begun}good", "rejected": f"{begun}bad"})
    assert [turn.content for turn in pair.turns] == ["Hi", "Hello", "Q"]
    assert (pair.chosen[0].content, pair.rejected[0].content) == ("good", "bad")


def test_plain_texts_part_at_a_word(tmp_path):
    pair = first(tmp_path, {"chosen": "The sky is blue.", "rejected": "The sky is black."})
    assert (pair.turns[0].content, pair.chosen[0].content, pair.rejected[0].content) == (
        "The sky is",
        " blue.",
        " black.",
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        pytest.param(
            {"prompt": "Q", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 2},
            "score_rejected is higher",
            id="scores against the columns",
        ),
        pytest.param(
            {"prompt": "Q", "chosen": "a", "rejected": "b", "score_chosen": 2, "score_rejected": 2},
            "neither answer is better",
            id="a tie",
        ),
        pytest.param({"prompt": "Q", "chosen": "a", "rejected": " "}, "rejected is empty", id="an empty answer"),
        pytest.param({"chosen": "abc", "rejected": "xyz"}, "share no beginning", id="nothing in common"),
        pytest.param(
            {"prompt": "Q", "response_a": "a", "response_b": "b", "winner": "tie"}, "must name one of two", id="arena"
        ),
    ],
)
def test_a_pair_that_is_none_is_a_finding(tmp_path, row, reason):
    found = first(tmp_path, row)
    assert isinstance(found, Finding)
    assert reason in found.reason


@pytest.mark.parametrize("key", ["label", "kto_tag"])
@pytest.mark.parametrize(("value", "good"), [(True, True), ("false", False), (0, False), ("1", True)])
def test_answers_marked_good_or_bad_are_known_as_such(tmp_path, key, value, good):
    marked = first(tmp_path, {"prompt": "Q", "completion": "A", key: value})
    assert (marked.task, marked.label) == ("unpaired", good)
    assert [turn.content for turn in (*marked.turns, *marked.chosen)] == ["Q", "A"]
    with pytest.raises(DataError, match="unpaired preference, KTO"):
        require_trained(marked.task, "pairs.jsonl")


def test_a_conversation_may_be_marked_too(tmp_path):
    marked = first(tmp_path, {"messages": [*ASKED, GOOD], "label": False})
    assert (marked.task, marked.label, marked.chosen[0].content) == ("unpaired", False, "good")


def test_a_mark_that_says_neither_is_never_learned_as_an_answer(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": "Q", "completion": "A", "label": "maybe"}) for _ in range(4)))
    with pytest.raises(DataError, match="4 x label must be true or false, got 'maybe'"):
        examined(DataSource(path=str(path)))


@pytest.mark.parametrize(
    ("row", "label"),
    [
        pytest.param({"text": "Nice", "label": 1}, "1", id="numbers"),
        pytest.param({"text": "Nice", "label": 0}, "0", id="zero"),
        pytest.param({"text": "Nice", "label_text": "good", "label": 1}, "good", id="names before numbers"),
        pytest.param({"sentence": "Nice", "label": "good"}, "good", id="a sentence"),
        pytest.param({"premise": "It rains", "hypothesis": "It is wet", "label": 0}, "0", id="two texts"),
    ],
)
def test_texts_with_a_class_are_known_as_such(tmp_path, row, label):
    found = first(tmp_path, row)
    assert (found.task, found.label, found.unused) == ("classification", label, ())
    require_trained(found.task, "texts.jsonl")


@pytest.mark.parametrize(
    ("label", "said"),
    [
        pytest.param(3.5, "got the number 3.5: regression is not trained yet", id="a number with a fraction"),
        pytest.param(-1, "label is -1, which stands for no class", id="no class"),
        pytest.param(["a", "b"], "label must name one class, got list", id="several classes"),
    ],
)
def test_a_row_without_one_class_is_a_finding(tmp_path, label, said):
    path = tmp_path / "rows.jsonl"
    rows = [*({"text": f"Nice {n}", "label": "good"} for n in range(12)), {"text": "Odd", "label": label}]
    path.write_text("\n".join(map(json.dumps, rows)))
    (found,) = examined(DataSource(path=str(path))).findings
    assert said in found.sentence


def test_whole_numbers_of_a_table_with_gaps_name_the_classes_of_whole_numbers(tmp_path):
    assert first(tmp_path, {"text": "Nice", "label": 2.0}).label == "2"


def test_unbalanced_classes_are_a_finding(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"Text {n}", "label": "rare" if n < 2 else "common"} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    report = examined(DataSource(path=str(path)))
    assert report.num_labels == 2
    assert report.imbalance.startswith("The classes are unbalanced: 2 rows of rare to 38 of common.")


@pytest.mark.parametrize(
    ("columns", "task"),
    [({"text": "text"}, "text"), ({"prompt": "text", "completion": "label"}, "answers")],
)
def test_a_person_may_insist_on_another_task(tmp_path, columns, task):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "Nice", "label": "good"}))
    (found,) = examples(DataSource(path=str(path), columns=columns))
    assert found.task == task
    assert found.unused == (() if "completion" in columns else ("label",))
