"""Ollama's template says every conversation as the run's own does, or is not written at all."""

import gotpl
import pytest

from trainer.data.forms.messages import Turn
from trainer.data.template import chat_template
from trainer.data.template.chat_template import ChatTemplate
from trainer.results.serving import go_template

# gotpl 0.1.0 gave what Go 1.19's text/template gives for all 300 conversations below; 2026-11-27.
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
IMAGES = {"idefics3", "llava_next", "smolvlm"}
"""Templates that take lists of texts and pictures as messages, and no plain text."""
FAMILIES = [name for name in chat_template.names() if not name.endswith("_training")]


def asked_by(source, **special):
    template = ChatTemplate(source, {**SPECIAL, **special})
    return lambda turns: template.rendered([turn.message() for turn in turns], ask=True)[0]


def by_ollama(template, turns):
    """Fill a template as Ollama does: the system messages joined, and all messages."""
    system = "\n\n".join(turn.content for turn in turns if turn.role == "system")
    messages = [{"Role": turn.role, "Content": turn.content} for turn in turns]
    return gotpl.render(template, {"System": system, "Messages": messages, "Response": ""})


def conversation(*said, system=""):
    roles = ("user", "assistant")
    turns = [Turn(role=roles[number % 2], content=text) for number, text in enumerate(said)]
    return [Turn(role="system", content=system), *turns] if system else turns


@pytest.mark.parametrize("name", FAMILIES)
def test_a_known_template_is_said_alike_by_ollama(name):
    asked = asked_by(chat_template.of_family(name).source)
    found = go_template.parts(asked)
    assert (found is None) == (name in IMAGES)
    if found is None:
        return
    systems = ("", "Be brief.\n\nBe {{ kind }}.") if found.takes_system else ("",)
    for system in systems:
        for said in (["Why?"], ["a\nb", "<b>", "ç"], ["1", "2", "3", "4", "5"]):
            turns = conversation(*said, system=system)
            assert by_ollama(found.in_go(), turns) == asked(turns)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(
            "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if loop.index == 3 %} (third){% endif %}\n"
            "{% endfor %}",
            id="counts messages",
        ),
        pytest.param(
            "{% for m in messages %}{% if m.role == 'system' %}{% elif loop.last %}[{{ messages[0].content }}]"
            "{{ m.content }}{% else %}{{ m.content }}|{% endif %}{% endfor %}",
            id="system at the last question",
        ),
        pytest.param("{% for m in messages %}{{ m.content | upper }}{% endfor %}", id="changes the text"),
        pytest.param("{{ messages[-1].content }}", id="says the last question alone"),
        pytest.param("{{ raise_exception('no') }}", id="refuses all"),
    ],
)
def test_a_template_that_is_more_than_texts_between_messages_is_not_written(source):
    assert go_template.parts(asked_by(source)) is None


def test_signs_of_the_syntax_are_quoted():
    odd = '{{ "<<{{" }}\\ "x" \u2063\t'
    source = "{% for m in messages %}" + f"{{% raw %}}{odd}{{% endraw %}}" + "{{ m.content }}{% endfor %}"
    found = go_template.parts(asked_by(source))
    written = found.in_go()
    turns = conversation("a", "b", "c", system="s")
    assert by_ollama(written, turns) == asked_by(source)(turns)
    assert '"""' not in written
    assert "\u2063" not in written, "Ollama leaves out signs that cannot be printed"


def test_an_answer_at_the_end_is_gone_on_with():
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}<assistant>"
    written = go_template.parts(asked_by(source)).in_go()
    assert by_ollama(written, conversation("Count.", "One, two")) == "<user>Count.</><assistant>One, two"


@pytest.mark.parametrize(
    ("name", "token"), [("qwen3", "<|im_end|>"), ("llama3", "<|eot_id|>"), ("gemma", "<end_of_turn>")]
)
def test_the_token_that_ends_an_answer_is_found(name, token):
    asked = asked_by(chat_template.of_family(name).source)
    assert go_template.ending(asked, ("</s>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>")) == token


def test_blanks_that_only_the_run_cuts_are_noticed():
    gemma, qwen = (asked_by(chat_template.of_family(name).source) for name in ("gemma", "qwen3"))
    assert go_template.cuts_blanks(gemma, go_template.parts(gemma))
    assert not go_template.cuts_blanks(qwen, go_template.parts(qwen))
