"""Which checkpoint to keep: named with its losses, made the result, and then used by everything that uses a result."""

import dataclasses
import os
import threading

import pytest
import torch
from safetensors.torch import load_file

from specs import RunError
from trainer.__main__ import main
from trainer.results import best, checkpoints, evaluation
from trainer.results.chat import TUNED
from trainer.results.voices import Voices
from trainer.runs import processes
from trainer.runs.cards import judged, model_card
from trainer.runs.contract import Metric
from trainer.runs.export import result_folder
from trainer.runs.session import Session

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


NAME = "adapter_model.safetensors"


@pytest.fixture
def run(learned):
    return learned


def losses(*known):
    return [Metric(step=step, eval_loss=loss) for step, loss in known]


def test_the_best_step_is_named_with_its_losses_and_how_to_use_it(run, store):
    found = best.best(store, run, losses((20, 1.0), (40, 1.5)))
    assert found.is_better
    assert found.sentence(run.id) == (
        "Step 20 was the best of 2 evaluations: its held-out loss is 1.0000, that of the result 1.5000. "
        f"To use it: python -m trainer keep {run.id} 20."
    )


@pytest.mark.parametrize(
    ("known", "words"),
    [
        pytest.param([(20, 1.5), (40, 1.0)], "Keep the weights of step 40", id="the last one is the best"),
        pytest.param([(20, 0.995), (40, 1.0)], "Keep the weights of step 40", id="half a percent is nothing"),
        pytest.param([(10, 1.0), (40, 1.5)], "It is no longer saved.", id="a step without a checkpoint"),
        pytest.param([(10, 1.2), (20, 1.0), (30, 1.5)], "that after step 30 1.5000", id="the result was not evaluated"),
    ],
)
def test_what_is_said_of_other_losses(run, store, known, words):
    assert words in best.best(store, run, losses(*known)).sentence(run.id)


def test_one_evaluation_says_nothing(run, store):
    assert best.told(store, run, losses((40, 1.0))) == []
    loads = dataclasses.replace(run, plan=dataclasses.replace(run.plan, load_best_model_at_end=True))
    assert not best.best(store, loads, losses((20, 1.0), (40, 1.5))).is_better


def test_a_kept_checkpoint_is_what_is_asked_and_told_and_can_be_taken_back(run, store, monkeypatch, capsys):
    monkeypatch.setenv("LORAFIT_RUNS", str(store.folder))
    store.add_measured(run.id, judged={"step": 40, "sentence": "Better."})
    last, early = (load_file(checkpoints.folder_of(store.run_folder(run.id), step) / NAME) for step in (40, 20))
    assert main(["keep", run.id, "20"]) == 0
    back = f"python -m trainer keep {run.id} 40."
    assert capsys.readouterr().out == (
        f"The result of run {run.id} is now the weights of step 20. To take it back: {back}\n"
    )
    kept = store.run(run.id)
    assert (kept.step, kept.result_step, judged(kept)) == (40, 20, "")
    assert "The weights are those of step 20." in model_card(kept, store.metrics(run.id))
    with Voices(Session(kept, store, threading.Event())).model(TUNED) as model:
        loaded = {name: weight for name, weight in model.named_parameters() if "lora_B" in name}
    for name, weight in loaded.items():
        assert torch.equal(weight, early[name.replace(".default", "")])
    assert main(["keep", run.id, "40"]) == 0
    assert all(torch.equal(value, last[name]) for name, value in load_file(result_folder(store, run) / NAME).items())
    assert judged(store.run(run.id)) == "Better."


def test_what_cannot_be_kept_is_refused_in_a_sentence(run, store):
    with pytest.raises(RunError, match=r"is no step of run .* with a complete checkpoint, got 3. Choose 40 or 20"):
        best.keep(store, run, 3)
    folder = store.run_folder(run.id) / evaluation.FOLDER
    folder.mkdir()
    (folder / "process").write_text(processes.identity(os.getpid()))
    with pytest.raises(RunError, match="is being evaluated"):
        best.keep(store, run, 20)
    with pytest.raises(RunError, match="must be over before its result changes, got queued"):
        best.keep(store, store.extend(run.id, 10), 20)
