"""The page offers a run's model to Ollama, llama.cpp and vLLM: what is written and how to use it are said."""

import json

import pytest
from tokenizers import Tokenizer, models

from trainer.runs.export import RESULT
from ui.parts import text
from ui.runs.facts import run_data


@pytest.fixture
def adapted(finished):
    """A run with the files of an adapter of rank 24."""
    run = finished([2.0, 1.0])
    result = run_data.store().run_folder(run.id) / RESULT
    result.mkdir()
    config = {"peft_type": "LORA", "r": 24, "lora_alpha": 24, "base_model_name_or_path": run.model}
    (result / "adapter_config.json").write_text(json.dumps(config))
    (result / "adapter_model.safetensors").touch()
    Tokenizer(models.WordLevel({"a": 0}, "a")).save(str(result / "tokenizer.json"))
    return run


def write(page, run, to):
    app = page("runs", run=run.id)
    choice = next(group for group in app.button_group if group.key == "serve to")
    choice.set_value(to).run()
    return app.button(key="serve").click().run()


def test_the_adapter_leaves_for_vllm_with_its_command_and_rank(page, adapted):
    app = write(page, adapted, "vllm")
    (folder,) = run_data.store().run_folder(adapted.id).glob("export-*-vllm")
    assert text.plain(f"Written to {folder}.") in [box.value for box in app.success]
    shown = next(block.value for block in app.code if "vllm serve" in block.value)
    assert shown.startswith(f"cd {folder}\nvllm serve HuggingFaceTB/SmolLM2-135M-Instruct ")
    assert "--max-lora-rank 32 " in shown
    again = write(page, adapted, "vllm")
    assert not again.error, "what was written before is replaced"


def test_what_is_missing_for_a_gguf_file_is_said_in_a_sentence(page, adapted, monkeypatch, tmp_path):
    monkeypatch.setenv("LORAFIT_LLAMA_CPP", str(tmp_path))
    app = write(page, adapted, "ollama")
    assert any("make gguf" in box.value for box in app.error)
