"""Conversations: a real process that answers piece by piece, and gives its memory back whenever it should."""

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from specs import RunError
from tests.patience import PATIENCE
from trainer.data.forms.messages import Turn
from trainer.failure import PassedOnError
from trainer.results.chat import BASE, TUNED, Conversation, Question
from trainer.runs.contract import Place, State
from trainer.runs.export import RESULT

# PEFT 0.21 reads a property that transformers 5.23 has renamed.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]


@pytest.fixture(scope="module")
def answering_run(tmp_path_factory, tiny_model, tiny_tokenizer):
    """A run that is over, with an adapter that changes what the model says."""
    from tests.trainer.conftest import tiny_plan  # noqa: PLC0415 - a fixture of one function serves no module
    from trainer.data.source import DataSource  # noqa: PLC0415
    from trainer.runs.store import Store  # noqa: PLC0415

    store = Store(tmp_path_factory.mktemp("chat") / "runs")
    run = store.create(tiny_plan(), DataSource(path="none"), place=Place(model_path=str(tiny_model)))
    store.request_stop(run.id)
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", lora_alpha=64, init_lora_weights=False)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    get_peft_model(base, config).save_pretrained(store.run_folder(run.id) / RESULT)
    tiny_tokenizer.save_pretrained(store.run_folder(run.id) / RESULT)
    return store, store.run(run.id)


def asked(voice=TUNED, words="What comes after one?", **values):
    return Question(turns=(Turn(role="user", content=words),), voice=voice, max_new_tokens=60, **values)


def ended(conversation):
    try:
        process = psutil.Process(conversation.process_id)
    except psutil.NoSuchProcess:
        return True
    return psutil.wait_procs([process], timeout=PATIENCE)[1] == []


def test_a_conversation_answers_in_pieces_with_both_voices_until_a_run_takes_the_device(answering_run, plan_of):
    store, run = answering_run
    with Conversation(store, run) as conversation:
        pieces = list(conversation.answer(asked()))
        assert len(pieces) > 1
        assert conversation.speed > 0
        tuned, base = "".join(pieces), "".join(conversation.answer(asked(BASE)))
        assert tuned != base
        assert "".join(conversation.answer(asked())) == tuned
        stream = conversation.answer(asked())
        assert tuned.startswith(next(stream))
        stream.close()
        assert "".join(conversation.answer(asked(BASE))) == base
        with pytest.raises(PassedOnError, match="must be the id of a stored run"):
            list(conversation.answer(asked("20200101-000000-0000")))
        with pytest.raises(PassedOnError, match="must be shorter than 256 tokens"):
            list(conversation.answer(asked(words="one " * 300)))
        other = store.create(plan_of(), run.data)
        store.claim_next("cpu")
        with pytest.raises(RunError, match=f"which run {other.id} is using"):
            Conversation(store, run)
        assert ended(conversation)
        with pytest.raises(PassedOnError, match=f"Run {other.id} has started on this device"):
            list(conversation.answer(asked()))
        store.enter(other.id, State.FAILED)
        assert not conversation.is_open


def test_a_conversation_that_is_closed_or_unused_or_whose_server_died_ends(answering_run):
    with Conversation(*answering_run, idle_seconds=0.5) as idle, Conversation(*answering_run) as orphan:
        orphan._input.close()  # what the end of the server's process does to the pipe
        with Conversation(*answering_run) as closed:
            pass
        assert not closed.is_open
        assert ended(orphan)
        assert ended(idle)
        with pytest.raises(PassedOnError, match="Unloaded after"):
            list(idle.answer(asked()))


def test_a_run_without_a_result_has_nobody_to_talk_to(store, plan_of, chat_data):
    run = store.create(plan_of(), chat_data)
    with pytest.raises(RunError, match="has saved no adapter yet"):
        Conversation(store, run)
