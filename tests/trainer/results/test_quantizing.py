"""A run's model in fewer bits: smaller, measured before and after, and asked like the others."""

import importlib.util
import json
import threading

import pytest
import torch
from transformers import AutoModelForCausalLM

from specs import RunError
from tests.trainer.leaving import files_naming
from trainer.__main__ import main
from trainer.commands import chatting
from trainer.results import disk, quantizing
from trainer.results.chat import TUNED
from trainer.results.voices import Voices
from trainer.runs.session import Session
from trainer.worker.quantizing import quantize

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@pytest.fixture
def session(learned, store):
    return Session(learned, store, threading.Event())


def test_a_quantized_model_is_smaller_is_measured_and_answers(session, learned, store, tmp_path):
    quantize(session, "nf4")
    found = quantizing.kept(store, learned)["nf4"]
    loss, general = found["compared"]
    assert (loss["name"], loss["rows"], loss["of"]) == ("loss", 8, "model in 16 bit")
    assert general["name"] == "general"
    assert loss["base"] == pytest.approx(loss["tuned"], abs=0.5)
    assert loss["base"] != loss["tuned"]
    assert found["after_bytes"] < 0.8 * found["before_bytes"]
    assert found["sentence"].startswith("NF4: ")
    folder = quantizing.folder(store, learned, "nf4")
    card = (folder / "README.md").read_text()
    assert found["sentence"] in card
    assert files_naming(folder, store.folder, learned.place.model_path) == []
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert again.is_loaded_in_4bit
    voices = Voices(session)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad(), voices.model("nf4") as rounded:
        said = rounded(input_ids=ids).logits
    with torch.no_grad(), voices.model(TUNED) as tuned:
        assert 0 < float((tuned(input_ids=ids).logits - said).abs().max()) < 5
    assert [*chatting._voices(store, learned)] == ["tuned", "base", "nf4"]
    copy = quantizing.copied(store, learned, "nf4", tmp_path / "copy")
    assert {path.name for path in copy.iterdir()} == {path.name for path in folder.iterdir()}
    assert folder in next(one for one in disk.found(store, []) if one.kind == "merged").paths


def test_what_was_quantized_before_the_result_changed_is_not_its_own(session, learned, store):
    folder = quantizing.folder(store, learned, "nf4")
    old = folder.with_name("quantized-20-nf4")
    old.mkdir()
    (old / quantizing.FOUND).write_text(json.dumps({"way": "nf4"}))
    assert quantizing.kept(store, learned) == {}
    with pytest.raises(RunError, match="has no model in NF4"), Voices(session).model("nf4"):
        pass


def test_what_cannot_be_quantized_is_refused_before_anything_is_loaded(learned, store, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("LORAFIT_RUNS", str(store.folder))
    if importlib.util.find_spec("torchao") is None:
        assert main(["quantize", learned.id, "--to", "torchao-int8"]) == 2
        assert "needs torchao==0.18.0, which is not installed. Install it: " in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    assert main(["quantize", learned.id, "--to", "nf4", "--folder", str(tmp_path / "full")]) == 2
    assert "must be a new or empty folder" in capsys.readouterr().err
    with pytest.raises(RunError, match="--to: must be one of nf4, fp4, int8, torchao-int8, got int2"):
        quantizing.quantized(store, learned, "int2")


def test_a_line_says_who_answers_and_a_wrong_name_changes_nothing(learned, store, capsys):
    assert chatting._switched(store, learned, "/use base", TUNED) == "base"
    assert capsys.readouterr().err == "The base model answers.\n"
    assert chatting._switched(store, learned, "/use nobody", TUNED) == TUNED
    assert "--voice: must be one of tuned, base, got nobody" in capsys.readouterr().err
