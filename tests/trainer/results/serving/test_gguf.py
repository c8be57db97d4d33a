"""A run's model leaves as a GGUF file that transformers and llama.cpp read as the same model."""

import dataclasses
import json
import shutil

import gguf
import gotpl
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from specs import FinetunePlan, PlanError, RunError, paths
from tests.trainer.leaving import files_naming
from trainer.__main__ import main
from trainer.data.forms.messages import Turn
from trainer.data.source import DataSource
from trainer.results import merge
from trainer.results.serving import exporting, model_file, modelfile, tools
from trainer.results.serving.spoken import Spoken
from trainer.runs.contract import Answer, Place
from trainer.runs.export import RESULT
from trainer.runs.store import Store

# PEFT 0.21 reads a property that transformers 5.23 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

HAS_CONVERTER = (paths.llama_cpp() / tools.CONVERTER).is_file()
needs_converter = pytest.mark.skipif(not HAS_CONVERTER, reason="llama.cpp's converter is missing: make gguf fetches it")
QUESTIONS = ("What comes after one?", "Who are you?")
PLAN = FinetunePlan.for_method("lora", "small", r=4, dtype="float32", max_steps=1)
SYSTEM = "Answer in one word."


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """A random Llama with the demo model's tokenizer, which llama.cpp knows."""
    folder = tmp_path_factory.mktemp("small")
    tokenizer = AutoTokenizer.from_pretrained(paths.demo_model())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, small_model):
    """A store with a run whose adapter has random values, merged beforehand as the page merges it."""
    home = tmp_path_factory.mktemp("adapted")
    rows = [{"messages": [{"role": "system", "content": SYSTEM}, *_asked(number)]} for number in range(3)]
    data = home / "data.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    store = Store(home / "runs")
    run = store.create(PLAN, DataSource(path=str(data)), place=Place(model_path=str(small_model)))
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32)
    adapter = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    result = store.run_folder(run.id) / RESULT
    get_peft_model(base, adapter).save_pretrained(result)
    AutoTokenizer.from_pretrained(small_model).save_pretrained(result)
    merged = store.run_folder(run.id) / "merged-0"
    merge.merge(store, run, merged)
    store.set_answers(run.id, [Answer(prompt=one, base="", tuned=_answer(merged, one)) for one in QUESTIONS])
    return store, run, merged


def _asked(number):
    return [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": f"a{number}"}]


def _answer(folder, question):
    """What transformers answers with the merged model, as a run tells it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = Spoken(folder).asked((Turn(role="user", content=question),))
    asked = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    said = model.generate(**asked, do_sample=False, max_new_tokens=8, pad_token_id=0)[0, asked["input_ids"].shape[1] :]
    return f"{tokenizer.decode(said, skip_special_tokens=True).strip()} ..."


@pytest.fixture(scope="module")
def written(adapted, tmp_path_factory):
    """The run's folder for Ollama: converted once, for all that is asked about it."""
    store, run, _ = adapted
    return exporting.served(store, run, "ollama", tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def reader(written):
    return gguf.GGUFReader(written.folder / "model-F16.gguf")


@needs_converter
def test_the_file_holds_the_merged_model_rounded_to_16_bits(reader, adapted):
    values = AutoModelForCausalLM.from_pretrained(adapted[2], dtype=torch.float32).state_dict()
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == len(values) - 1, "the head is the table of words"
    for name, named in (("token_embd", "model.embed_tokens"), ("blk.1.ffn_down", "model.layers.1.mlp.down_proj")):
        weight = values[f"{named}.weight"]
        assert torch.equal(torch.tensor(tensors[f"{name}.weight"].data).reshape(weight.shape), weight.half())


@needs_converter
@pytest.mark.skipif(not tools.loads_back(), reason="xllamacpp is missing: make gguf fetches it")
def test_llama_cpp_answers_as_the_run_did(written):
    assert "Loaded by llama.cpp: 2 of 2 first answers are the run's, word for word." in written.said
    assert not [one for one in written.said if "otherwise" in one]


@needs_converter
def test_the_file_holds_the_run_s_template(reader, adapted):
    template = reader.get_field("tokenizer.chat_template").contents()
    assert template == (adapted[2] / "chat_template.jinja").read_text()
    assert not reader.get_field("tokenizer.ggml.add_bos_token").contents()


@needs_converter
def test_the_modelfile_speaks_to_the_model_as_the_run_does(written, adapted):
    text = (written.folder / modelfile.FILE).read_text()
    assert text.startswith("FROM ./model-F16.gguf\n")
    assert 'PARAMETER stop "<|im_end|>"\n' in text
    assert f'SYSTEM """{SYSTEM}"""\n' in text, "every row of the data has it"
    template = text.partition('TEMPLATE """')[2].partition('"""')[0]
    said = [{"Role": "user", "Content": "Why?"}]
    filled = gotpl.render(template, {"System": SYSTEM, "Messages": said})
    turns = [Turn(role="system", content=SYSTEM), Turn(role="user", content="Why?")]
    assert filled == Spoken(adapted[2]).asked(turns)


@needs_converter
def test_the_card_says_how_to_use_it_and_what_was_found(written, adapted):
    card = (written.folder / "README.md").read_text()
    assert f"ollama create lorafit-{adapted[1].id} -f Modelfile" in card
    assert all(one in card for one in written.said)
    store, run, merged = adapted
    for folder in (written.folder, merged):
        assert files_naming(folder, written.folder, store.folder, run.place.model_path) == []


def _quantizer():
    try:
        return tools.quantizer()
    except RunError:
        return None


@needs_converter
@pytest.mark.skipif(
    _quantizer() is None, reason="neither llama-quantize nor llama-cpp-python is here, which is compiled"
)
def test_four_bits_take_less_room(written, tmp_path):
    file, small = written.folder / "model-F16.gguf", tmp_path / "small.gguf"
    model_file.run_program([*tools.quantizer(), str(file), str(small), "Q4_K_M"])
    assert small.stat().st_size < 0.7 * file.stat().st_size
    assert "F16" not in {tensor.tensor_type.name for tensor in gguf.GGUFReader(small).tensors}


@needs_converter
def test_the_converter_knows_the_types_by_the_names_that_it_is_given():
    told = tools.converter().read_text()
    assert all(f'"{name}"' in told for name in model_file.DIRECT.values())


@needs_converter
def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused(tiny_model, tmp_path):
    with pytest.raises(RunError, match="how this one splits words"):
        model_file.made(tiny_model, Spoken(tiny_model), tmp_path / "model.gguf", "F16", scratch=tmp_path)


@needs_converter
def test_an_architecture_that_llama_cpp_does_not_know_is_refused_before_it_is_merged(adapted, tmp_path, small_model):
    other = tmp_path / "other"
    shutil.copytree(small_model, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "architectures": ["NovelForCausalLM"]}))
    store = Store(tmp_path / "runs")
    run = store.create(adapted[1].plan, adapted[1].data, place=Place(model_path=str(other)))
    shutil.copytree(adapted[0].run_folder(adapted[1].id) / RESULT, store.run_folder(run.id) / RESULT)
    with pytest.raises(RunError, match="NovelForCausalLM"):
        exporting.served(store, run, "gguf", tmp_path / "model")


def test_vllm_gets_the_adapter_with_its_template_and_card(adapted, tmp_path):
    store, run, _ = adapted
    served = exporting.served(store, run, "vllm", tmp_path / "adapter")
    assert served.commands == (
        f"vllm serve {run.model} --enable-lora --lora-modules lorafit-{run.id}=. --max-lora-rank 8"
        " --chat-template chat_template.jinja",
    )
    names = {path.name for path in served.folder.iterdir()}
    assert names >= {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "README.md"}
    card = (served.folder / "README.md").read_text()
    assert served.commands[0].replace(run.model, "BASE_MODEL") in card
    assert run.model not in card


def test_the_command_line_writes_it_and_needs_a_folder(adapted, tmp_path, monkeypatch, capsys):
    store, run, _ = adapted
    monkeypatch.setenv("LORAFIT_RUNS", str(store.folder))
    assert main(["export", run.id, "--to", "vllm"]) == 2
    assert "--folder: says where --to writes" in capsys.readouterr().err
    assert main(["export", run.id, "--to", "vllm", "--folder", str(tmp_path / "a")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-2] == f"cd {tmp_path / 'a'}"
    assert told[-1].startswith("vllm serve ")
    assert (tmp_path / "a" / "adapter_config.json").is_file()
    folder, zipped = ["--folder", str(tmp_path / "b")], ["--zip", str(tmp_path / "z.zip")]
    for useless, said in (
        (folder, "--folder: says where --to writes, and needs it"),
        (["--type", "Q8_0"], "--type: is that of a GGUF file, got Q8_0"),
        (["--to", "vllm", *folder, "--type", "F16"], "--type: is that of a GGUF file, got F16"),
        (["--to", "vllm", *folder, *zipped], "--zip: writes another file than --to"),
        (["--json", *zipped], "--zip: writes another file than --json"),
    ):
        assert main(["export", run.id, *useless]) == 2
        assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"to": "mlc"}, "must be one of ollama, gguf, vllm", id="an unknown program"),
        pytest.param({"file_type": "Q2_K"}, "must be one of F16, BF16, Q8_0, Q4_K_M", id="an unknown type"),
        pytest.param({"folder": paths.assets()}, "new or empty folder", id="a folder with files"),
    ],
)
def test_what_cannot_be_written_is_refused(adapted, tmp_path, change, said):
    store, run, _ = adapted
    with pytest.raises(RunError, match=said):
        exporting.served(store, run, **{"to": "gguf", "folder": tmp_path / "model", **change})


def test_without_a_converter_the_way_to_get_it_is_said(adapted, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAFIT_LLAMA_CPP", str(tmp_path))
    with pytest.raises(RunError, match="make gguf"):
        exporting.served(adapted[0], adapted[1], "gguf", tmp_path / "model")


def test_a_model_that_writes_no_text_is_not_served(adapted, tmp_path):
    store, run, _ = adapted
    classes = dataclasses.replace(run, plan=dataclasses.replace(run.plan, task_type="SEQ_CLS", loss="full"))
    with pytest.raises(PlanError, match="CAUSAL_LM"):
        exporting.served(store, classes, "vllm", tmp_path / "model")
