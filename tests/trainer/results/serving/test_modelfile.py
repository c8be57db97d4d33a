"""A Modelfile says what the run's own template says, and names what it cannot say."""

import json

import gguf
import gotpl
import pytest

from specs import RunError
from trainer.data.forms.messages import Turn
from trainer.data.source import DataSource
from trainer.data.template import chat_template
from trainer.data.template.chat_template import ChatTemplate
from trainer.results.serving import model_file
from trainer.results.serving.modelfile import modelfile
from trainer.results.serving.spoken import Spoken, system_message

USER, ANSWER, NEXT = (
    Turn(role=role, content=text) for role, text in (("user", "Why?"), ("assistant", "So."), ("user", "And?"))
)


@pytest.fixture
def folder(tiny_tokenizer, tmp_path):
    """Makes the folder of a tokenizer with a template, or without any."""

    def made(template=None, *, puts_bos=False):
        home = tmp_path / "tokenizer"
        tiny_tokenizer.save_pretrained(home)
        for name in ("chat_template.jinja", "generation_config.json"):
            (home / name).unlink(missing_ok=True)
        settings = json.loads((home / "tokenizer_config.json").read_text())
        settings.pop("chat_template", None)
        (home / "tokenizer_config.json").write_text(json.dumps(settings))
        if puts_bos:
            whole = json.loads((home / "tokenizer.json").read_text())
            bos = settings["bos_token"]
            single = [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
            token = {bos: {"id": bos, "ids": [1], "tokens": [bos]}}
            whole["post_processor"] = {
                "type": "TemplateProcessing",
                "single": single,
                "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": token,
            }
            (home / "tokenizer.json").write_text(json.dumps(whole))
        if template:
            (home / "chat_template.jinja").write_text(template)
        return home

    return made


def filled(text, turns):
    template = text.partition('TEMPLATE """')[2].partition('"""')[0]
    messages = [{"Role": turn.role, "Content": turn.content} for turn in turns]
    return gotpl.render(template, {"System": "", "Messages": messages})


def test_a_model_without_a_template_is_spoken_to_in_headings(folder):
    spoken = Spoken(folder(puts_bos=True))
    turns = [USER, ANSWER, NEXT]
    said = spoken.asked(turns)
    assert said.startswith(f"{spoken.begins}### User:\n")
    assert spoken.begins == "<|im_start|>"
    in_jinja = ChatTemplate(spoken.jinja, dict(spoken.tokenizer.special_tokens_map))
    assert in_jinja.rendered([turn.message() for turn in turns], ask=True)[0] == said
    assert "endgeneration" not in spoken.jinja
    assert filled(modelfile("m.gguf", spoken, architecture="llama").text, turns) == said.removeprefix(spoken.begins)


def test_bos_is_left_to_the_server_only_where_the_tokenizer_puts_it_too(folder):
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}|{% endfor %}"
    assert Spoken(folder(template, puts_bos=True)).begins == "<|im_start|>"
    assert Spoken(folder(template)).begins == ""
    assert filled(modelfile("m.gguf", Spoken(folder(template)), architecture="llama").text, [USER]) == (
        "<|im_start|>Why?|"
    )


def test_marks_of_what_is_learned_are_taken_out_and_blanks_stay_cut(folder):
    marked = "{% for m in messages %}a {%- generation -%} {{ m.content }} {%- endgeneration %}{% endfor %}"
    spoken = Spoken(folder(marked))
    assert "generation" not in spoken.jinja
    assert ChatTemplate(spoken.jinja).rendered([USER.message()])[0] == "aWhy?"


def test_an_answer_ends_at_every_token_at_which_the_run_s_own_ends(folder):
    home = folder(chat_template.of_family("qwen3").source)
    (home / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    assert Spoken(home).stops() == ("<|endoftext|>", "<|im_end|>")


@pytest.mark.parametrize(
    ("name", "architecture", "said"),
    [
        pytest.param("gemma", "gemma", "no place for a system message", id="no system message"),
        pytest.param("llama3_2", "llama", "keeps the date of this export", id="the date"),
        pytest.param("qwen3", "qwen3", "calls of tools", id="tools"),
        pytest.param("gemma4_v5", "gemma4", "by its own code", id="Ollama's own renderer"),
        pytest.param("smolvlm", "llama", "cannot be written as Ollama's", id="not to be written"),
    ],
)
def test_what_a_modelfile_cannot_say_is_named(folder, name, architecture, said):
    spoken = Spoken(folder(chat_template.of_family(name).source))
    found = modelfile("m.gguf", spoken, architecture=architecture)
    assert any(said in note for note in found.notes)
    assert ("TEMPLATE" in found.text) == (name != "smolvlm")


def test_a_system_message_that_would_end_the_modelfile_is_named_and_left_out(folder):
    spoken = Spoken(folder(chat_template.of_family("qwen3").source))
    found = modelfile("m.gguf", spoken, architecture="llama", system='Say """ twice.')
    assert "SYSTEM" not in found.text
    assert any("system message of the data" in note for note in found.notes)


def head(path, template, *, scores):
    """Write the head of a GGUF file with a vocabulary of SentencePiece."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["a", "b", "ab"])
    writer.add_token_scores(scores)
    writer.add_add_bos_token(value=True)
    writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def test_the_file_is_told_whether_a_text_begins_with_bos(folder, tmp_path):
    template, file = chat_template.of_family("qwen3").source, tmp_path / "model.gguf"
    head(file, template, scores=[0.0, -1.0, -2.0])
    assert model_file.read_back(file, Spoken(folder(template))).architecture == "llama"
    assert not gguf.GGUFReader(file).get_field("tokenizer.ggml.add_bos_token").contents()


def test_a_vocabulary_without_an_order_of_joining_is_refused(folder, tmp_path):
    template, file = chat_template.of_family("qwen3").source, tmp_path / "model.gguf"
    head(file, template, scores=[-1000.0] * 3)
    with pytest.raises(RunError, match=r"tokenizer\.model"):
        model_file.read_back(file, Spoken(folder(template)))


def test_what_sees_and_hears_is_named_as_left_out(tmp_path):
    for config, said in (({"vision_config": {"depth": 2}}, "sees or hears"), ({"vision_config": None}, "")):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert said in "".join(model_file.left_out(tmp_path))
        assert bool(model_file.left_out(tmp_path)) == bool(said)


@pytest.mark.parametrize(
    ("systems", "shared"), [(["Be kind.", "Be kind."], "Be kind."), (["Be kind.", "Be brief."], ""), (["x", None], "")]
)
def test_the_system_message_is_that_of_all_rows_or_none(tmp_path, systems, shared):
    rows = [
        {"messages": [*([{"role": "system", "content": system}] if system else []), USER.message(), ANSWER.message()]}
        for system in systems
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert system_message(DataSource(path=str(tmp_path / "data.jsonl"))) == shared
    assert system_message(DataSource(path=str(tmp_path / "gone.jsonl"))) == ""
