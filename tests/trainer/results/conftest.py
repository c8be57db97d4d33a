import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from trainer.runs.contract import Place
from trainer.runs.export import RESULT


@pytest.fixture
def adapter_run(store, plan_of, chat_data, tiny_model, tiny_tokenizer):
    """Makes a run whose result is an adapter with random values."""

    def made(config=None, method="qlora", **settings):
        run = store.create(plan_of(method=method), chat_data, place=Place(model_path=str(tiny_model)))
        values = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "init_lora_weights": False, **settings}
        with torch.random.fork_rng():
            torch.manual_seed(len(store.runs()))
            model = get_peft_model(
                AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32),
                config or LoraConfig(task_type="CAUSAL_LM", **values),
            )
            model.save_pretrained(store.run_folder(run.id) / RESULT)
        tiny_tokenizer.save_pretrained(store.run_folder(run.id) / RESULT)
        return run.id

    return made
