"""Messages travel whole, whoever's words they are in, and what cannot be read is named by number and key."""

import json

import pytest

from trainer.data.forms import messages
from trainer.data.forms.messages import Turn
from trainer.data.row import UnreadableError

CALL = {"type": "function", "function": {"name": "area", "arguments": {"a": 2}}}


@pytest.mark.parametrize(
    ("entry", "turn"),
    [
        pytest.param({"role": "developer", "content": "Be brief."}, Turn(role="system", content="Be brief."), id="o1"),
        pytest.param({"from": "human", "value": "Hi"}, Turn(role="user", content="Hi"), id="ShareGPT"),
        pytest.param(
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            Turn(role="user", content="ab"),
            id="parts of text are joined",
        ),
        pytest.param(
            {"role": "assistant", "content": "Berlin", "weight": 0},
            Turn(role="assistant", content="Berlin", learned=False),
            id="weight 0 is not learned",
        ),
        pytest.param(
            {"role": "assistant", "content": "Berlin", "train": False},
            Turn(role="assistant", content="Berlin", learned=False),
            id="train false is not learned",
        ),
        pytest.param(
            {"role": "assistant", "content": "Paris", "weight": 1.0}, Turn(role="assistant", content="Paris"), id="1.0"
        ),
        pytest.param({"role": "function", "content": "7"}, Turn(role="tool", content="7"), id="the old name of tool"),
        pytest.param({"role": "tool", "content": {"t": 21}}, Turn(role="tool", content='{"t": 21}'), id="a result"),
    ],
)
def test_a_message_is_read_in_every_dialect(entry, turn):
    assert messages.turns([entry]) == (turn,)


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param({"role": "assistant", "content": None, "tool_calls": [CALL]}, id="OpenAI, content null"),
        pytest.param({"role": "assistant", "content": "", "tool_calls": [CALL]}, id="OpenAI, content empty"),
        pytest.param(
            {"role": "assistant", "tool_calls": [{"function": {"name": "area", "arguments": '{"a": 2}'}}]},
            id="arguments as JSON text",
        ),
        pytest.param(
            {"role": "assistant", "content": None, "function_call": {"name": "area", "arguments": '{"a": 2}'}},
            id="OpenAI's earlier function_call",
        ),
        pytest.param({"from": "function_call", "value": '{"name": "area", "arguments": {"a": 2}}'}, id="Glaive"),
        pytest.param({"from": "function_call", "value": '[{"name": "area", "arguments": {"a": 2}}]'}, id="a list"),
        pytest.param({"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])}, id="calls as JSON text"),
    ],
)
def test_a_call_becomes_one_form(entry):
    (turn,) = messages.turns([entry])
    assert (turn.role, turn.content) == ("assistant", "")
    assert turn.message() == {"role": "assistant", "content": "", "tool_calls": [CALL]}


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_is_kept_under_one_name(key):
    (turn,) = messages.turns([{"role": "assistant", "content": "2", key: "I add."}])
    assert turn.more == {"reasoning_content": "I add."}


def test_the_names_of_a_call_and_its_result_travel_along():
    calls = [{"id": "c1", **CALL}]
    said = [
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "7", "tool_call_id": "c1", "name": "area"},
    ]
    call, result = messages.turns(said)
    assert call.more["tool_calls"][0]["id"] == "c1"
    assert result.message() == {"role": "tool", "content": "7", "tool_call_id": "c1", "name": "area"}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        pytest.param("hi", "message 1 must be an object, got str", id="no object"),
        pytest.param({"role": "boss", "content": "x"}, "message 1 has the unknown role 'boss'", id="a role"),
        pytest.param({"role": ["user"], "content": "x"}, "message 1 has the unknown role", id="a role that is a list"),
        pytest.param({"role": "user"}, "message 1 has no content", id="nothing said"),
        pytest.param(
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "content of message 1 has a part of the type image_url; only text is trained",
            id="an image",
        ),
        pytest.param(
            {"role": "assistant", "content": "x", "weight": 0.5},
            "weight of message 1 must be 0 or 1, got 0.5",
            id="half",
        ),
        pytest.param({"from": "function_call", "value": "area(2)"}, "tool_calls of message 1 must be", id="no JSON"),
        pytest.param(
            {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}, "without the name", id="no name"
        ),
        pytest.param(
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{a}"}}]},
            "arguments that are not valid JSON",
            id="broken arguments",
        ),
        pytest.param({"role": "user", "content": "\ud800"}, "half a character", id="a lone surrogate"),
        pytest.param({"role": "user", "content": "a\ufdd0"}, "noncharacter", id="a mark of the renderer"),
    ],
)
def test_what_cannot_be_read_is_named(entry, reason):
    with pytest.raises(UnreadableError, match=reason):
        messages.turns([entry])


def test_keys_that_hold_something_and_are_not_read_are_told():
    said = [{"role": "user", "content": "a", "mood": "glad", "id": None, "tags": []}]
    assert messages.unused_keys(said) == {"mood"}
    assert messages.unused_keys(json.dumps(said)) == {"mood"}


@pytest.mark.parametrize(
    "value",
    [
        pytest.param([{"type": "function", "function": {"name": "area"}}], id="OpenAI"),
        pytest.param([{"name": "area"}], id="bare functions"),
        pytest.param('[{"name": "area"}]', id="JSON text"),
        pytest.param({"name": "area"}, id="a single one"),
    ],
)
def test_tools_become_one_form(value):
    assert messages.tools(value) == ({"type": "function", "function": {"name": "area"}},)


@pytest.mark.parametrize("value", [None, "", "[]", []])
def test_no_tools_are_none(value):
    assert messages.tools(value) == ()
