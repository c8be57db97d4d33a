"""Chat templates are rendered as transformers renders them, and every answer is found whatever the template."""

import re
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from trainer.data.forms.messages import RESERVED, Turn
from trainer.data.row import UnreadableError
from trainer.data.template import answer_spans, chat_template
from trainer.data.template.chat_template import ChatTemplate

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CONTROLS = (
    "<|im_end|>", "<|eot_id|>", "</s>", "<|end|>", "<end_of_turn>", "<turn|>", "<|return|>", "<|call|>", "<|user|>",
    "<|observation|>", "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>", "<|eot|>", "<|tool_response>",
)  # fmt: skip
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "where"}}},
        },
    }
]
PLAIN = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And 3 more?"},
    {"role": "assistant", "content": "Seven."},
]
SYSTEM = [{"role": "system", "content": "Be brief."}, *PLAIN]
THOUGHT = [*PLAIN[:3], {"role": "assistant", "content": "Seven.", "reasoning_content": "Four and three."}]
CALLED = [
    {"role": "user", "content": "Weather in Oslo?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}],
    },
    {"role": "tool", "name": "get_weather", "content": "21"},
    {"role": "assistant", "content": "It is 21 degrees."},
]
CONVERSATIONS = {"plain": PLAIN, "system": SYSTEM, "reasoning": THOUGHT, "call": CALLED}


def theirs(source, said, tools, *, ask):
    try:
        texts, spans = render_jinja_template(
            [said],
            tools=tools,
            chat_template=source,
            add_generation_prompt=ask,
            return_assistant_tokens_mask="endgeneration" in source,
            **SPECIAL,
        )
    except Exception:  # noqa: BLE001 - each template refuses in its own way
        return None
    return texts[0], tuple(tuple(span) for span in (spans[0] if spans else ()) if span[0] < span[1])


@pytest.mark.parametrize("name", chat_template.names())
def test_every_template_of_trl_is_rendered_as_transformers_renders_it(name):
    template = ChatTemplate(chat_template.of_family(name).source, SPECIAL)
    for kind, said in CONVERSATIONS.items():
        tools = TOOLS if kind == "call" else None
        for ask in (False, True):
            wanted = theirs(template.source, said, tools, ask=ask)
            if wanted is None:
                with pytest.raises(UnreadableError, match="chat template refuses it"):
                    template.rendered(said, tools=tools or (), ask=ask)
            else:
                assert template.rendered(said, tools=tools or (), ask=ask) == wanted


@pytest.mark.parametrize(
    ("source", "text"),
    [
        pytest.param("{{ strftime_now('%Y') | length }}", "4", id="the date"),
        pytest.param("{% for m in messages %}{% if m.content %}{% continue %}{% endif %}x{% endfor %}", "", id="loops"),
        pytest.param("{{ {'a': 'é<'} | tojson }}", '{"a": "é<"}', id="JSON is not escaped for HTML"),
        pytest.param("{% set n = namespace(a=1) %}{% set n.a = 2 %}{{ n.a }}", "2", id="a namespace"),
        pytest.param("{{ dict(a=1).a }}", "1", id="a dict"),
        pytest.param("a{% generation %}b{% endgeneration %}c", "abc", id="a mark"),
        pytest.param("{{ documents is none and tools is none }}", "True", id="what is not given"),
    ],
)
def test_templates_find_what_transformers_gives_them(source, text):
    said, _ = ChatTemplate(source, SPECIAL).rendered(PLAIN)
    assert said == text == theirs(source, PLAIN, None, ask=False)[0]


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("{{ ''.__class__.__mro__[1].__subclasses__() }}", id="Python's classes"),
        pytest.param("{{ messages.append(1) }}", id="changing what it was given"),
        pytest.param("{% set n = namespace() %}{% set n._x = 1 %}", id="a private attribute"),
        pytest.param("{{ raise_exception('no') }}", id="its own refusal"),
        pytest.param("{% if %}", id="broken"),
        pytest.param("{{ messages[0]['none'].x }}", id="what is not there"),
    ],
)
def test_a_template_that_fails_or_reaches_out_refuses_the_row(source):
    with pytest.raises(UnreadableError, match="the model's chat template refuses it") as caught:
        ChatTemplate(source).rendered(PLAIN)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("value", "found"),
    [
        pytest.param("x", "x", id="a text"),
        pytest.param([{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}], "d", id="named ones"),
        pytest.param({"default": "d", "tool_use": "t"}, "d", id="a mapping"),
        pytest.param([{"name": "rag", "template": "r"}], None, id="no default"),
        pytest.param(None, None, id="none"),
        pytest.param("  ", None, id="an empty one"),
    ],
)
def test_the_template_is_chosen_among_named_ones(value, found):
    assert chat_template.chosen(value) == found


def answers(template, said, tools=()):
    turns = [Turn(role=entry.pop("role"), content=entry.pop("content"), more=entry) for entry in map(dict, said)]
    text, spans = answer_spans.found(template, turns, tools, CONTROLS)
    return [text[span[0] : span[1]] for span in spans if span]


# What each family's own documentation says that the model writes, worked out by hand.
@pytest.mark.parametrize(
    ("name", "said", "learned"),
    [
        pytest.param("llama3_1", PLAIN, ["Four.<|eot_id|>", "Seven.<|eot_id|>"], id="Llama 3.1"),
        pytest.param("llama3_2", SYSTEM, ["Four.<|eot_id|>", "Seven.<|eot_id|>"], id="Llama 3.2"),
        pytest.param(
            "llama3_1",
            CALLED,
            ['{"name": "get_weather", "parameters": {"city": "Oslo"}}<|eot_id|>', "It is 21 degrees.<|eot_id|>"],
            id="Llama 3.1, a call",
        ),
        pytest.param("gemma", PLAIN, ["Four.<end_of_turn>\n", "Seven.<end_of_turn>\n"], id="Gemma"),
        pytest.param("gemma3", SYSTEM, ["Four.<end_of_turn>\n", "Seven.<end_of_turn>\n"], id="Gemma 3"),
        pytest.param("gemma4_v2", PLAIN, ["Four.<turn|>\n", "Seven.<turn|>\n"], id="Gemma 4"),
        pytest.param("phi3", PLAIN, ["Four.<|end|>\n", "Seven.<|end|>\n</s>"], id="Phi-3"),
        pytest.param(
            "qwen3",
            THOUGHT,
            [
                "<think>\n\n</think>\n\nFour.<|im_end|>\n",
                "<think>\nFour and three.\n</think>\n\nSeven.<|im_end|>\n",
            ],
            id="Qwen3, reasoning of every turn",
        ),
        pytest.param(
            "qwen3",
            CALLED,
            [
                "<think>\n\n</think>\n\n<tool_call>\n"
                '{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>\n',
                "<think>\n\n</think>\n\nIt is 21 degrees.<|im_end|>\n",
            ],
            id="Qwen3, a call",
        ),
        pytest.param(
            "glm4moe",
            THOUGHT,
            ["\n<think></think>\nFour.<|user|>", "\n<think>Four and three.</think>\nSeven.<|user|>"],
            id="GLM-4.5",
        ),
        pytest.param(
            "gptoss",
            THOUGHT,
            [
                "<|start|>assistant<|channel|>final<|message|>Four.<|end|>",
                "<|start|>assistant<|channel|>analysis<|message|>Four and three.<|end|>"
                "<|start|>assistant<|channel|>final<|message|>Seven.<|return|>",
            ],
            id="gpt-oss",
        ),
        pytest.param(
            "deepseek_r1_distill",
            PLAIN,
            ["<｜Assistant｜>Four.<｜end▁of▁sentence｜>", "<｜Assistant｜>Seven.<｜end▁of▁sentence｜>"],
            id="DeepSeek-R1-Distill",
        ),
    ],
)
def test_every_answer_is_learned_with_the_token_that_ends_it(name, said, learned):
    template = chat_template.for_training(ChatTemplate(chat_template.of_family(name).source, SPECIAL))
    assert answers(template, said, TOOLS if said is CALLED else ()) == learned


# Templates of the forms that models without a variant in TRL use; Mistral's closes only what the assistant said.
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
PHI4 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)
LAST_ONLY = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' and loop.last %}"
    "<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize(
    ("source", "said", "learned"),
    [
        pytest.param(MISTRAL, PLAIN, [" Four.</s>", " Seven.</s>"], id="Mistral"),
        pytest.param(PHI4, PLAIN, ["Four.<|im_end|>", "Seven.<|im_end|>"], id="Phi-4"),
        pytest.param(
            LAST_ONLY, THOUGHT, ["Four.<|im_end|>", "<think>Four and three.</think>Seven.<|im_end|>"], id="the last"
        ),
    ],
)
def test_answers_are_found_in_a_template_that_marks_none(source, said, learned):
    found = answers(ChatTemplate(source, SPECIAL), said)
    assert [answer.strip() for answer in found] == [answer.strip() for answer in learned]


@pytest.mark.parametrize("name", [name for name in chat_template.names() if name.endswith("_training")])
def test_searching_finds_what_the_marks_say(name):
    """With the marks taken out, the same answers are found; headings and line ends may lie on either side."""
    marked = ChatTemplate(chat_template.of_family(name).source, SPECIAL)
    bare = ChatTemplate(re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", marked.source), SPECIAL)
    for kind in ("plain", "system"):
        try:
            wanted = answers(marked, CONVERSATIONS[kind])
        except UnreadableError:
            continue
        found = answers(bare, CONVERSATIONS[kind])
        if not found:  # templates of vision models say no plain text
            continue
        for said, mark in zip(found, wanted, strict=True):
            assert said.strip() in mark or mark.strip() in said


def test_the_marks_are_noncharacters_that_no_text_may_have():
    assert {ord(mark) for mark in RESERVED} <= set(range(0xFDD0, 0xFDF0))


def test_the_templates_of_trl_are_where_they_are_looked_for():
    assert {"qwen3", "qwen3_training", "gptoss", "llama3_1"} <= set(chat_template.names())
    assert chat_template.of_family("../../../etc/passwd") is None
    assert all(Path(name).name == name for name in chat_template.names())
