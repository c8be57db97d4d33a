import csv
import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from specs import DataError
from trainer.data.examples import Example, examples, first_example
from trainer.data.forms.columns import proposal, proposed_columns
from trainer.data.forms.layouts import LAYOUTS, recognised_layout
from trainer.data.forms.messages import Turn
from trainer.data.row import Finding
from trainer.data.source import TASKS, DataSource

CHAT = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
ASKED = (Turn(role="user", content="Hi?"), Turn(role="assistant", content="Hello."))


@pytest.mark.parametrize(
    ("row", "layout", "turns"),
    [
        pytest.param({"messages": CHAT}, "messages", ASKED, id="messages"),
        pytest.param(
            {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]},
            "ShareGPT",
            ASKED,
            id="ShareGPT",
        ),
        pytest.param({"conversations": CHAT}, "ShareGPT", ASKED, id="messages under the name conversations"),
        pytest.param({"instruction": "Hi?", "input": "", "output": "Hello."}, "alpaca", ASKED, id="alpaca"),
        pytest.param(
            {"instruction": "Add.", "input": "1 1", "output": "2"},
            "alpaca",
            (Turn(role="user", content="Add.\n\n1 1"), Turn(role="assistant", content="2")),
            id="alpaca with input",
        ),
        pytest.param({"prompt": "Hi?", "completion": "Hello."}, "prompt and completion", ASKED, id="completion"),
        pytest.param(
            {"prompt": CHAT[:1], "completion": CHAT[1:]}, "prompt and completion", ASKED, id="completion as messages"
        ),
        pytest.param({"prompt": "Hi?", "response": "Hello."}, "prompt and response", ASKED, id="response"),
        pytest.param({"question": "Hi?", "answer": "Hello."}, "question and answer", ASKED, id="question"),
        *(
            pytest.param({text: "Hi?", said: "Hello.", "id": "1"}, f"{text} and {said}", ASKED, id=f"{text} and {said}")
            for text, said in (
                *(("document", "summary"), ("article", "highlights"), ("dialogue", "summary"), ("text", "summary")),
                ("source", "target"),
            )
        ),
        pytest.param({"translation": {"en": "Hi?", "fr": "Hello."}}, "translation", ASKED, id="translation"),
        pytest.param({"text": "Once."}, "text", (Turn(role="text", content="Once."),), id="raw text"),
        pytest.param(
            {"prompt": "Hi?", "chosen": "Hello.", "rejected": "Go."}, "preference", ASKED[:1], id="preference pair"
        ),
        pytest.param(
            {"prompt": "Hi?", "chosen": CHAT, "rejected": [*CHAT[:1], {"role": "assistant", "content": "Go."}]},
            "preference",
            ASKED[:1],
            id="preference pair as messages",
        ),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_every_layout_is_recognised_in_every_kind_of_file(tmp_path, row, layout, turns, ending):
    path = tmp_path / f"data.{ending}"
    if ending == "jsonl":
        path.write_text(json.dumps(row) + "\n\n" + json.dumps(row))
    elif ending == "json":
        path.write_text(json.dumps([row, row]))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row, row]), path)
    found = list(examples(DataSource(path=str(path))))
    assert [(entry.turns, entry.layout) for entry in found] == [(turns, layout)] * 2
    assert [entry.row for entry in found] == ([1, 3] if ending == "jsonl" else [1, 2])
    if layout == "preference":
        assert (found[0].chosen[0].content, found[0].rejected[0].content) == ("Hello.", "Go.")


def test_a_translation_goes_from_the_first_language_of_a_row_to_the_second(tmp_path):
    path = tmp_path / "data.jsonl"
    pairs = ({"fr": "Bonjour.", "en": "Hello."}, {"en": "Hello.", "fr": "Bonjour."})
    path.write_text("\n".join(json.dumps({"translation": pair}) for pair in pairs))
    said = [tuple(turn.content for turn in entry.turns) for entry in examples(DataSource(path=str(path)))]
    assert said == [("Bonjour.", "Hello."), ("Hello.", "Bonjour.")]


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        pytest.param({"en": "a"}, "translation must hold a text in each of two languages", id="one"),
        pytest.param({"en": "a", "fr": "b", "de": "c"}, "translation must hold a text in each of two", id="three"),
        pytest.param({"en": "", "fr": "b"}, "translation.en is empty", id="nothing to translate"),
        pytest.param({"en": "a", "fr": " "}, "has an empty answer", id="no translation"),
        pytest.param({"en": "a", "fr": 3}, "translation.fr must be text", id="no text"),
    ],
)
def test_a_translation_that_is_none_is_a_bad_row(tmp_path, pair, reason):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"translation": pair}))
    (finding,) = examples(DataSource(path=str(path)))
    assert reason in finding.sentence


def test_a_class_beside_a_summary_is_still_a_class(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"text": "a", "summary": "b", "label": "c"}))
    assert first_example(DataSource(path=str(path))).task == "classification"


def test_columns_are_named_by_hand(tmp_path):
    path = tmp_path / "data.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream).writerows([["frage", "antwort"], ["Hi?", "Hello."], ["Line\nbreak", "Ünïcode"]])
    with pytest.raises(DataError, match="has the columns of no known layout"):
        list(examples(DataSource(path=str(path))))
    found = list(examples(DataSource(path=str(path), columns={"prompt": "frage", "completion": "antwort"})))
    assert found[0].turns == ASKED
    assert found[1].turns[1].content == "Ünïcode"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param({"frage": "Hi?", "antwort": "Hello."}, {"prompt": "frage", "completion": "antwort"}, id="order"),
        pytest.param(
            {"Answer text": "a", "id": "17", "q": "b"}, {"prompt": "q", "completion": "Answer text"}, id="names"
        ),
        pytest.param(
            {"user_prompt": "a", "worse": "b", "better_answer": "c"},
            {"prompt": "user_prompt", "chosen": "better_answer", "rejected": "worse"},
            id="pair",
        ),
        pytest.param({"dialog": CHAT, "id": 1}, {"messages": "dialog"}, id="chat"),
        pytest.param({"d": json.dumps(CHAT)}, {"messages": "d"}, id="chat as JSON text"),
        pytest.param({"d": [{"from": "human", "value": "a"}]}, {"conversations": "d"}, id="ShareGPT"),
        pytest.param({"body": "Once.", "n": 3}, {"text": "body"}, id="one text"),
        pytest.param({"a": 1, "b": None}, {}, id="no words"),
    ],
)
def test_roles_are_proposed_for_columns_that_are_not_recognised(row, expected):
    assert proposed_columns(row) == expected
    likely = ", ".join(f"{role}={column}" for role, column in expected.items())
    with pytest.raises(DataError, match=f"Say which is which, such as {likely}" if likely else "Rename the columns"):
        recognised_layout(row, "data.csv")


PAIR = {"prompt": "ask", "chosen": "answer"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(
            ["ask", "answer", "rejected_answer"], {**PAIR, "rejected": "rejected_answer"}, id="rejected beside"
        ),
        pytest.param(["ask", "bad_answer", "answer"], {**PAIR, "rejected": "bad_answer"}, id="whatever their order"),
        pytest.param(["ask", "answer", "dispreferred"], {**PAIR, "rejected": "dispreferred"}, id="preferred within"),
        pytest.param(["ask", "answer", "notPreferred"], {**PAIR, "rejected": "notPreferred"}, id="in camel case"),
        pytest.param(
            ["anchor", "positive", "negative"],
            {"prompt": "anchor", "chosen": "positive", "rejected": "negative"},
            id="sentence transformers",
        ),
        pytest.param(
            ["q", "correct_answer", "incorrect_answer"],
            {"prompt": "q", "chosen": "correct_answer", "rejected": "incorrect_answer"},
            id="correct within incorrect",
        ),
        pytest.param(
            ["winner_text", "loser_text"], {"chosen": "winner_text", "rejected": "loser_text"}, id="no prompt"
        ),
        pytest.param(["ask", "rejected_response"], {"prompt": "ask"}, id="a worse answer alone"),
        pytest.param(["worse"], {}, id="nothing but a worse answer"),
        pytest.param(
            ["ask", "best_answer"], {"prompt": "ask", "completion": "best_answer"}, id="a better answer alone"
        ),
        pytest.param(["ask", "response_a", "response_b"], {"prompt": "ask"}, id="nobody says which is better"),
    ],
)
def test_a_worse_answer_is_never_proposed_as_the_one_to_learn(names, expected):
    found = proposal({name: f"{name} says" for name in names})
    assert found.columns == expected
    assert found.reasons.keys() == expected.keys()
    assert bool(found.caution) == (expected.keys() != {"prompt", "completion"})


def test_every_proposal_says_why():
    found = proposal({"id": "7", "my question": "Why?", "zeta": "So.", "winner": "model_a"})
    assert found.columns == {"prompt": "my question", "completion": "zeta"}
    assert found.reasons == {
        "prompt": "its name says question",
        "completion": "the next column that holds words, as its name does not tell",
    }


def test_paragraphs_of_a_text_are_rows(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text("One\ntwo.\n\n\n  \nThree.\n")
    assert [entry.turns[0].content for entry in examples(DataSource(path=str(path)))] == ["One\ntwo.", "Three."]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        pytest.param("{broken", "Row 2: is not valid JSON", id="broken line"),
        pytest.param("[1]", "Row 2: must be a JSON object, got list.", id="a list"),
        pytest.param({"messages": CHAT[:1]}, "Row 2: has no answer of the assistant.", id="no answer"),
        pytest.param(
            {"messages": [CHAT[0], {"role": "assistant", "content": "  "}]}, "Row 2: has an empty answer.", id="blank"
        ),
        pytest.param({"messages": "text"}, "Row 2: must have a list of messages.", id="text for a list"),
        pytest.param({"messages": [{"role": "user"}]}, "Row 2: message 1 has no content.", id="no content"),
        pytest.param({"other": 1}, "Row 2: messages is empty.", id="another layout"),
        pytest.param(
            {"messages": [{"role": "boss", "content": "x"}]},
            "Row 2: message 1 has the unknown role 'boss'.",
            id="unknown role",
        ),
        pytest.param(
            {"messages": [{"role": "assistant", "content": 7}]},
            "Row 2: content of message 1 must be text, got int.",
            id="a number",
        ),
        pytest.param("[" * 100_000, "Row 2: is not valid JSON", id="nested without end"),
    ],
)
def test_a_row_that_cannot_be_used_is_skipped_with_its_number(tmp_path, row, sentence):
    path = tmp_path / "data.jsonl"
    lines = [json.dumps({"messages": CHAT}), row if isinstance(row, str) else json.dumps(row)]
    path.write_text("\n".join(lines))
    good, bad = examples(DataSource(path=str(path)))
    assert isinstance(good, Example)
    assert isinstance(bad, Finding)
    assert bad.sentence.startswith(sentence)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        pytest.param("a.jsonl", b"", "must have at least one row", id="empty"),
        pytest.param("a.json", b"{", "must be valid JSON", id="broken json"),
        pytest.param("a.json", b"3", "must hold a list of objects", id="a number"),
        pytest.param("a.parquet", b"PAR1 nothing", "cannot be read as parquet", id="broken parquet"),
        pytest.param("a.jsonl", b"\xfa\xfe\x00a", "must be text in UTF-8", id="not UTF-8"),
        pytest.param("a.docx", b"x", r"must end in \.jsonl, \.json", id="unknown ending"),
        pytest.param("a", b"x", "must end in", id="no ending"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_a_sentence(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        list(examples(DataSource(path=str(path))))


def test_a_file_that_does_not_exist_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(DataError, match="is not a file"):
        list(examples(DataSource(path=str(tmp_path / "none.jsonl"))))


def test_layouts_are_distinct():
    assert len({(layout.name, layout.roles) for layout in LAYOUTS}) == len(LAYOUTS)
    assert {layout.task for layout in LAYOUTS} == {*TASKS} - {"extraction"}


MARKED = "what stands in this column"
IN_COLUMN = {
    "messages": CHAT,
    "conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}],
    "chosen": [*CHAT[:1], {"role": "assistant", "content": "Good."}],
    "rejected": [*CHAT[:1], {"role": "assistant", "content": "Bad."}],
    "better_response_id": 0,
    "labels": 1,
    "label": 1,
    "kto_tag": True,
    "winner": "model_a",
    "preference": "a",
    "tools": [{"type": "function", "function": {"name": MARKED}}],
    **{f"score_{name}": score for score, name in enumerate("bBaA210")},
}
"""What a column of this name holds where text would not do."""
CHECKED_OR_EQUAL = {"score_chosen", "score_rejected", "idx", "label"}
"""Columns that are read without being learned: they check the order, number the row, or say the class once more."""


@pytest.mark.parametrize(
    ("layout", "column"),
    [
        pytest.param(layout, column, id=f"{'+'.join(layout.roles)} {column}")
        for layout in LAYOUTS
        for column in layout.optional
        if column not in CHECKED_OR_EQUAL
    ],
)
def test_what_a_layout_may_have_is_learned_or_refused(tmp_path, layout, column):
    row = {role: IN_COLUMN.get(role, f"The {role}.") for role in layout.roles}
    with_it = {**row, column: [[MARKED, "Yes."]] if column == "history" else IN_COLUMN.get(column, MARKED)}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [row, with_it])))
    without, read = list(examples(DataSource(path=str(tmp_path / "a.jsonl"))))
    assert isinstance(without, Example)
    said = f"{read.turns} {read.tools} {read.negatives}" if isinstance(read, Example) else MARKED
    assert MARKED in said or column in read.unused


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        pytest.param(
            {"prompt": CHAT[:1], "completion": CHAT[1:], "context": "Rome"},
            "has prompt as a conversation and context beside it, which has no place in it",
            id="context",
        ),
        pytest.param(
            {"prompt": "\n\nHuman: Hi?\n\nAssistant:", "chosen": "A", "rejected": "B", "input": "Rome"},
            "has prompt as a conversation and input beside it, which has no place in it",
            id="input of a pair",
        ),
        pytest.param(
            {"prompt": "Q", "completion": "A", "system": "Be kind.", "system_prompt": "Be short."},
            "has two system columns that differ: system and system_prompt",
            id="two systems",
        ),
    ],
)
def test_what_contradicts_itself_is_a_finding(tmp_path, row, reason):
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    (found,) = examples(DataSource(path=str(tmp_path / "a.jsonl")))
    assert found == Finding(row=1, reason=reason)


def test_a_pair_is_read_with_its_history_and_both_texts_around_the_question(tmp_path):
    row = {"instruction": "Sum up.", "input": "Text.", "context": "More.", "history": [["Hi?", "Hello."]]}
    (tmp_path / "a.jsonl").write_text(json.dumps({**row, "chosen": "Good.", "rejected": "Bad."}))
    (found,) = examples(DataSource(path=str(tmp_path / "a.jsonl")))
    assert [turn.content for turn in found.turns] == ["Hi?", "Hello.", "Sum up.\n\nText.\n\nMore."]


BAD_ANSWER = [{"role": "assistant", "content": "Bad."}]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"instruction": "Q", "output": ["good", "bad"]},
            "output is a list of 2 texts, and nothing says which is meant",
        ),
        ({"prompt": "Q", "chosen": "A", "rejected": ["b", "c"]}, "rejected is a list of 2 texts, and nothing says"),
        ({"prompt": "Q", "chosen": "A", "rejected": "A"}, "has the same answer as chosen and as rejected"),
        (
            {"prompt": "Q", "chosen": [{**CHAT[1], "weight": 0}], "rejected": BAD_ANSWER},
            "has an answer with the weight 0",
        ),
        ({"messages": CHAT, "functions": [{"name": "f"}]}, "has functions, which is not read: tools are read from"),
        ({"messages": [{**CHAT[0], "tools": [{"name": "f"}]}, CHAT[1]]}, "message 1 has tools"),
        (
            {"prompt": "Q", "completion": "A", "reasoning": "Since."},
            "has reasoning, which is not read: it belongs into",
        ),
        ({"messages": CHAT, "images": ["a.png"]}, "has images, which is not read: only text is trained"),
        ({"prompt": "Q", "completion": "A", "is_correct": False}, "has an answer that is_correct calls bad"),
        ({"prompt": "Q", "completion": "A", "feedback": "thumbs_down"}, "has an answer that feedback calls bad"),
        ({"messages": CHAT, "weight": 0}, "has the weight 0"),
        ({"prompt": "Q", "completion": float("nan")}, "completion is empty"),
    ],
)
def test_a_row_that_would_be_learned_as_what_it_is_not_is_a_finding(tmp_path, row, reason):
    first = {"prompt": "Q", "completion": "A"} if row.keys() == {"prompt", "completion"} else row
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [first, row])))
    _, found = examples(DataSource(path=str(tmp_path / "a.jsonl")))
    assert isinstance(found, Finding)
    assert found.reason.startswith(reason)


@pytest.mark.parametrize(
    ("row", "unused"),
    [
        pytest.param(
            {"messages": [CHAT[0], {**CHAT[1], "reasoning_content": "One.", "thinking": "Two."}]},
            ("messages.thinking",),
            id="two thoughts",
        ),
        pytest.param({"question": "Q", "answers": {"text": ["A", "B"]}}, ("answers but the first",), id="SQuAD"),
        pytest.param({"question": "Q", "answers": {"text": ["A", "A"]}}, (), id="SQuAD, all alike"),
    ],
)
def test_what_another_key_or_answer_said_first_is_listed(tmp_path, row, unused):
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    (found,) = examples(DataSource(path=str(tmp_path / "a.jsonl")))
    assert found.unused == unused


def test_of_a_prompt_and_its_completion_only_the_completion_is_learned(tmp_path):
    asked = [*CHAT, {"role": "user", "content": "And now?"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": asked, "completion": CHAT[1:]}))
    (found,) = examples(DataSource(path=str(tmp_path / "a.jsonl")))
    assert [turn.learned for turn in found.turns if turn.role == "assistant"] == [False, True]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"promt": "a", "completion": "b"}, "must name roles that there are, got promt. Nearest: prompt"),
        ({"prompt": "a", "completion": "c"}, "c: is no column of a.jsonl. It has a, b."),
    ],
)
def test_a_role_or_a_column_that_there_is_not_is_refused(tmp_path, columns, sentence):
    (tmp_path / "a.jsonl").write_text(json.dumps({"a": "Q", "b": "A"}))
    with pytest.raises(DataError, match=re.escape(sentence)):
        list(examples(DataSource(path=str(tmp_path / "a.jsonl"), columns=columns)))


def test_of_two_conversations_side_by_side_none_is_proposed():
    row = {"conversation_a": CHAT, "conversation_b": CHAT, "winner": "model_b"}
    assert "conversation_a" not in proposed_columns(row).values()
