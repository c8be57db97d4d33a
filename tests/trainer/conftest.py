import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from specs import FinetunePlan
from trainer.data.source import DataSource
from trainer.runs.contract import Place, Run, State
from trainer.runs.session import Session
from trainer.runs.store import Store
from trainer.worker.train import train

# Tiny models gain nothing from a second thread, and workers inherit the environment.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTIONS = [
    (f"What comes after {word}?", f"In short: {word} and more.")
    for word in ["one", "two", "three", "four", "five", "six"]
]


@pytest.fixture(scope="session")
def tiny_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for pair in QUESTIONS for text in pair], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.pad_token, fast.bos_token, fast.eos_token = special
    fast.chat_template = TEMPLATE
    return fast


@pytest.fixture(scope="session")
def tiny_config(tiny_tokenizer):
    return LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, tiny_tokenizer, tiny_config) -> Path:
    """A random Llama of two layers with a tokenizer of its own, as a model folder."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    LlamaForCausalLM(tiny_config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def chat_data(tmp_path) -> DataSource:
    path = tmp_path / "chat.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in QUESTIONS * 4
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return DataSource(path=str(path), prompts=("What comes after one?",))


@pytest.fixture
def place(tiny_model) -> Place:
    return Place(model_path=str(tiny_model))


@pytest.fixture
def trained_here(trained_from, place) -> Callable[[FinetunePlan, DataSource], Run]:
    """Trains a plan for the tiny model in this process."""
    return lambda plan, data: trained_from(plan, data, place)


@pytest.fixture
def trained_from(store) -> Callable[[FinetunePlan, DataSource, Place], Run]:
    """Trains a plan in this process, which saves imports: where nothing is asked about a worker."""

    def trained(plan: FinetunePlan, data: DataSource, place: Place) -> Run:
        store.create(plan, data, place=place)
        run = store.claim_next(place.device)
        assert train(Session(run, store, threading.Event())) is State.FINISHED
        store.enter(run.id, State.FINISHED)
        return store.run(run.id)

    return trained


def tiny_plan(**values) -> FinetunePlan:
    settings = {
        "method": "qlora",
        "r": 4,
        "dtype": "float32",
        "per_device_train_batch_size": 2,
        "max_length": 64,
        "learning_rate": 1e-3,
        "max_steps": 6,
        "save_steps": 2,
        **values,
    }
    return FinetunePlan.for_method(settings.pop("method"), "tiny", **settings)


@pytest.fixture
def plan_of():
    """Makes a plan for the tiny model: six steps of QLoRA unless told otherwise."""
    return tiny_plan
