"""What is learned is what the template writes: every answer, its end, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors
from transformers import AutoTokenizer

from specs import SpecError
from trainer.data.examples import Example
from trainer.data.forms.messages import Turn
from trainer.data.rendering import IGNORED, Renderer, compared, labelled
from trainer.data.row import UnreadableError
from trainer.data.tokenizer import FamilyTokenizer, FolderTokenizer

ASKED = (Turn(role="user", content="Hi?"), Turn(role="assistant", content="Hello."))


def test_only_answers_are_learned(tiny_tokenizer):
    turns = (
        Turn(role="system", content="Be short."),
        Turn(role="user", content="One?"),
        Turn(role="assistant", content="Yes."),
        Turn(role="user", content="Two?"),
        Turn(role="assistant", content="No."),
    )
    text = Renderer(tiny_tokenizer).rendered(Example(row=1, turns=turns))
    assert "".join(piece for piece, _ in text.pieces()) == text.text
    assert [piece for piece, learned in text.pieces() if learned] == ["Yes.<|im_end|>\n", "No.<|im_end|>\n"]
    tokens = labelled(text, tiny_tokenizer, max_length=500, whole=False)
    learned = [token for token in tokens["labels"] if token != IGNORED]
    assert tiny_tokenizer.decode(learned) == "Yes.<|im_end|>\nNo.<|im_end|>\n"
    whole = labelled(text, tiny_tokenizer, max_length=500, whole=True)
    assert whole["labels"] == whole["input_ids"] == tokens["input_ids"]


def test_what_lies_beyond_max_length_is_cut_and_nothing_left_is_told(tiny_tokenizer):
    text = Renderer(tiny_tokenizer).rendered(Example(row=1, turns=ASKED))
    assert labelled(text, tiny_tokenizer, max_length=3, whole=False) is None
    cut = labelled(text, tiny_tokenizer, max_length=3, whole=True)
    assert len(cut["input_ids"]) == len(cut["labels"]) == 3


def test_a_model_without_chat_template_gets_plain_headings(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    text = Renderer(tokenizer).rendered(Example(row=1, turns=ASKED))
    assert text.text == "### User:\nHi?\n\n### Assistant:\nHello.<|im_end|>"
    assert [piece for piece, learned in text.pieces() if learned] == ["Hello.<|im_end|>"]


@given(
    contents=st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1), min_size=2, max_size=6
    )
)
def test_every_learned_span_lies_in_the_text_and_in_order(tiny_tokenizer, contents):
    turns = tuple(
        Turn(role="assistant" if index % 2 else "user", content=content) for index, content in enumerate(contents)
    )
    text = Renderer(tiny_tokenizer).rendered(Example(row=1, turns=turns))
    flat = [edge for span in text.learned for edge in span]
    assert flat == sorted(flat)
    assert "".join(piece for piece, _ in text.pieces()) == text.text
    answers = "".join(turn.content for turn in turns if turn.role == "assistant")
    assert len("".join(piece for piece, learned in text.pieces() if learned)) >= len(answers)


def test_the_light_tokenizer_agrees_with_transformers(tiny_model):
    light, full = FolderTokenizer(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    example = Example(row=1, turns=(Turn(role="user", content="Wie heißt du?"), *ASKED[1:]))
    assert Renderer(light).rendered(example) == Renderer(full).rendered(example)
    text = Renderer(light).rendered(example)
    assert labelled(text, light, max_length=99, whole=False) == labelled(text, full, max_length=99, whole=False)


def test_a_template_may_not_reach_out_of_its_sandbox(tiny_model, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((tiny_model / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(UnreadableError, match="the model's chat template refuses it"):
        Renderer(FolderTokenizer(tmp_path)).rendered(Example(row=1, turns=ASKED))


def test_a_folder_without_tokenizer_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(SpecError, match="must have a readable"):
        FolderTokenizer(tmp_path)


def learned(renderer, *turns, tools=()):
    text = renderer.rendered(Example(turns=turns, tools=tools))
    return [piece for piece, is_learned in text.pieces() if is_learned]


ASKS, SAYS = Turn(role="user", content="2 + 2?"), Turn(role="assistant", content="4")
THINKS = Turn(role="assistant", content="4", more={"reasoning_content": "Two and two."})
TAGGED = Turn(role="assistant", content="<think>\nTwo and two.\n</think>\n\n4")
CALLS = Turn(
    role="assistant",
    content="",
    more={"tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": "two"}}}]},
)
TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {}}}


def test_an_answer_of_weight_0_is_read_and_not_learned():
    wrong = Turn(role="assistant", content="5", learned=False)
    renderer = Renderer(FamilyTokenizer("llama3_1"))
    assert learned(renderer, ASKS, wrong, Turn(role="user", content="Really?"), SAYS) == ["4<|eot_id|>"]


@pytest.mark.parametrize("answer", [THINKS, TAGGED])
def test_reasoning_is_learned_or_left_out_as_chosen(answer):
    assert learned(Renderer(FamilyTokenizer("qwen3")), ASKS, answer) == [
        "<think>\nTwo and two.\n</think>\n\n4<|im_end|>\n"
    ]
    assert learned(Renderer(FamilyTokenizer("llama3_1"), thinking="drop"), ASKS, answer) == ["4<|eot_id|>"]


@pytest.mark.parametrize(
    ("turns", "tools", "reason"),
    [
        pytest.param(
            (ASKS, THINKS), (), "reasoning_content of message 2 is left out .*: leave thinking out", id="thought"
        ),
        pytest.param((ASKS, CALLS), (), "tool_calls of message 2 is left out", id="a call"),
        pytest.param(
            (ASKS, SAYS),
            (TOOL,),
            "tools are left out by the model's chat template: choose a model whose template calls tools",
            id="tools",
        ),
    ],
)
def test_what_a_template_leaves_out_refuses_the_row(tiny_tokenizer, turns, tools, reason):
    with pytest.raises(UnreadableError, match=reason):
        Renderer(tiny_tokenizer).rendered(Example(turns=turns, tools=tools))


@pytest.mark.parametrize("answer", [THINKS, TAGGED])
def test_reasoning_that_a_template_drops_before_the_last_answer_is_told(answer):
    text = Renderer(FamilyTokenizer("glm4moe")).rendered(Example(turns=(ASKS, answer, ASKS, answer)))
    assert [piece for piece, is_learned in text.pieces() if is_learned] == [
        "\n<think></think>\n4<|user|>",
        "\n<think>Two and two.</think>\n4<|user|>",
    ]
    assert text.left_out == ("reasoning before the last answer",)


def test_reasoning_under_a_key_is_written_as_the_tags_that_a_template_knows():
    assert learned(Renderer(FamilyTokenizer("deepseek_r1_distill")), ASKS, THINKS) == [
        "<｜Assistant｜><think>\nTwo and two.\n</think>\n\n4<｜end▁of▁sentence｜>"
    ]


def test_a_name_that_another_message_has_hides_no_lost_call(tiny_tokenizer):
    result = Turn(role="tool", content="add gave two and 4")
    with pytest.raises(UnreadableError, match="tool_calls of message 2 is left out"):
        Renderer(tiny_tokenizer).rendered(Example(turns=(ASKS, CALLS, result, SAYS)))


def test_a_system_prompt_that_a_template_drops_refuses_the_row(tiny_tokenizer, monkeypatch):
    template = tiny_tokenizer.chat_template
    monkeypatch.setattr(tiny_tokenizer, "chat_template", "{% set messages = messages[1:] %}" + template)
    with pytest.raises(UnreadableError, match="system prompt of message 1 is left out"):
        Renderer(tiny_tokenizer).rendered(Example(turns=(Turn(role="system", content="Sing."), ASKS, SAYS)))


def test_calls_and_reasoning_need_a_template(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    for answer in (CALLS, THINKS):
        with pytest.raises(UnreadableError, match="of message 2 needs a model with a chat template"):
            Renderer(tokenizer).rendered(Example(turns=(ASKS, answer)))


@pytest.fixture
def with_bos(tiny_model):
    """A tokenizer that puts BOS before a text, as Llama's and Gemma's do."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    bos, number = tokenizer.bos_token, tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, number)]
    )
    return tokenizer


FALSE = Turn(role="assistant", content="5")


def example_of(kind):
    text = Turn(role="text", content="Once.")
    return {
        "text": Example(turns=(text,), task="text"),
        "chat": Example(turns=(ASKS, SAYS)),
        "pair": Example(
            turns=(ASKS,), chosen=(SAYS,), rejected=(Turn(role="assistant", content="5"),), task="preference"
        ),
        "text pair": Example(turns=(text,), chosen=(text,), rejected=(text,), task="preference"),
    }[kind]


@pytest.mark.parametrize("kind", ["text", "chat", "pair", "text pair"])
@pytest.mark.parametrize(
    "template", [None, "{{ bos_token }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"]
)
def test_there_is_exactly_one_bos_where_the_tokenizer_puts_one(with_bos, kind, template):
    with_bos.chat_template = template
    text = Renderer(with_bos).rendered(example_of(kind))
    ids = labelled(text, with_bos, max_length=99, whole=True)["input_ids"]
    assert ids[0] == with_bos.bos_token_id
    assert ids.count(with_bos.bos_token_id) == 1


def test_there_is_no_bos_where_the_tokenizer_puts_none(tiny_tokenizer):
    text = Renderer(tiny_tokenizer).rendered(example_of("text"))
    ids = labelled(text, tiny_tokenizer, max_length=99, whole=True)["input_ids"]
    assert tiny_tokenizer.bos_token_id not in ids


def test_a_text_ends_with_the_token_that_ends_texts(tiny_tokenizer):
    assert Renderer(tiny_tokenizer).rendered(example_of("text")).text == "Once.<|im_end|>"


def test_an_answer_that_no_template_ends_gets_an_end(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    text = Renderer(tokenizer).rendered(Example(turns=(ASKS, SAYS)))
    assert text.text.endswith("4\n<|im_end|>")
    assert text.learned[-1][1] == len(text.text)


def test_a_pair_parts_where_its_answers_begin(tiny_tokenizer):
    better, worse = Renderer(tiny_tokenizer).both(example_of("pair"))
    pair = compared(better, worse, tiny_tokenizer)
    assert tiny_tokenizer.decode(pair["prompt_ids"]).endswith("<|im_start|>assistant\n")
    assert tiny_tokenizer.decode(pair["chosen_ids"]) == "4<|im_end|>\n"
    assert tiny_tokenizer.decode(pair["rejected_ids"]) == "5<|im_end|>\n"


def test_a_pair_of_equal_answers_is_refused(tiny_tokenizer):
    same = Example(turns=(ASKS,), chosen=(SAYS,), rejected=(SAYS,), task="preference")
    with pytest.raises(UnreadableError, match="the same to the model"):
        compared(*Renderer(tiny_tokenizer).both(same), tiny_tokenizer)


def test_what_is_asked_is_what_training_showed_before_the_answer(tiny_tokenizer):
    renderer = Renderer(tiny_tokenizer)
    text = renderer.rendered(Example(turns=(ASKS, SAYS)))
    assert renderer.asked((ASKS,)) == text.text[: text.learned[0][0]]
