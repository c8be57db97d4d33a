"""Embeddings as people train them: decoders in 4 bit, wrong texts, scores, layers behind the pooling, own prompts."""

import json
import threading

import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM, Qwen3Config

from specs.portable.batches import batch_sizes, distinct_batches
from tests.trainer.classified import BAD, GOOD, THINGS, encoder_tokenizer, source_of
from tests.trainer.tasks import related_rows
from tests.trainer.waiting import losses_of
from trainer.results.merge import merge
from trainer.runs.contract import Place, State
from trainer.runs.export import RESULT
from trainer.runs.session import Session
from trainer.worker.train import train

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    """A folder as Qwen3-Embedding's and EmbeddingGemma's are: last token, prompts, a layer behind, left padding."""
    folder = tmp_path_factory.mktemp("embedder")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    config = Qwen3Config(
        **sizes, vocab_size=32, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = encoder_tokenizer("bart")
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(folder)
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    paths = ("", "1_Pooling", "2_Dense", "3_Normalize")
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    identity = "torch.nn.modules.linear.Identity"
    dense = {"in_features": 64, "out_features": 32, "bias": False, "activation_function": identity}
    said = {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": 64, "pooling_mode_lasttoken": True},
        "2_Dense/config.json": dense,
        "config_sentence_transformers.json": {"prompts": {"query": "the ", "document": ""}},
    }
    for path in paths[1:]:
        (folder / path).mkdir()
    for name, values in said.items():
        (folder / name).write_text(json.dumps(values))
    save_file({"linear.weight": torch.randn(32, 64) / 8}, folder / "2_Dense" / "model.safetensors")
    return folder


@pytest.fixture
def trained(store, plan_of, tmp_path, embedder):
    def done(rows, **values):
        settings = {"task_type": "FEATURE_EXTRACTION", "pooling_mode": "lasttoken", "per_device_train_batch_size": 8}
        steps = {"max_steps": 12, "save_steps": 6, "learning_rate": 5e-3}
        plan = plan_of(**{**settings, **steps, **values})
        store.create(plan, source_of(tmp_path / "rows.jsonl", rows), place=Place(model_path=str(embedder)))
        run = store.claim_next("cpu")
        assert train(Session(run, store, threading.Event())) is State.FINISHED
        store.enter(run.id, State.FINISHED)
        return store.run(run.id)

    return done


def test_a_decoder_in_4_bit_learns_and_is_merged_into_what_sentence_transformers_loads(trained, store, tmp_path):
    run = trained(related_rows(), method="qlora", eval_split=0.2)
    losses = losses_of(store, run.id)
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    merge(store, run, tmp_path / "merged")
    texts = ["the good thing", "a very good thing"]
    ours, merged = (
        SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        for folder in (store.run_folder(run.id) / RESULT, tmp_path / "merged")
    )
    assert ours.prompts["query"] == "the "
    assert torch.tensor(ours.encode(texts)).shape == (2, 32)
    assert torch.tensor(merged.encode(texts)) == pytest.approx(torch.tensor(ours.encode(texts)), abs=0.1)


def test_all_weights_and_the_layer_behind_are_trained_and_the_best_of_them_kept(trained, store, embedder):
    run = trained(related_rows(), method="full", eval_split=0.2, load_best_model_at_end=True)
    kept = SentenceTransformer(str(store.run_folder(run.id) / RESULT), device="cpu")
    begun = SentenceTransformer(str(embedder), device="cpu")
    assert not torch.equal(kept[2].linear.weight, begun[2].linear.weight)


def test_wrong_texts_are_read_and_scores_are_learned_in_their_order(trained):
    wrong = [{**row, "negative": row["anchor"].replace(*pair)} for row in related_rows() for pair in [("good", "bad")]]
    assert trained(wrong, method="lora", num_negatives=1).state is State.FINISHED
    scored = [
        {"sentence1": f"the {one} {thing}", "sentence2": f"a {other} {thing}", "score": float(other in GOOD)}
        for one in GOOD[:2]
        for other in (*GOOD[:2], *BAD[:2])
        for thing in THINGS
    ]
    run = trained(scored, method="lora", embedding_loss="CoSENTLoss", eval_split=0.2)
    assert run.measured["evaluation"].keys() == {"step", "spearman"}
    same = [{**row, "score": 1.0} for row in scored]
    assert "evaluation" not in trained(same, method="lora", embedding_loss="CoSENTLoss", eval_split=0.2).measured


def test_a_row_without_the_wrong_texts_of_the_plan_is_a_finding(trained):
    with pytest.raises(Exception, match="fewer than num_negatives"):
        trained(related_rows(), method="lora", num_negatives=1)


@pytest.mark.parametrize(("rows", "sizes"), [(16, [8, 8]), (17, [8, 7, 2]), (18, [8, 8, 2]), (3, [3]), (1, [1])])
def test_no_row_is_left_alone_in_a_batch(rows, sizes):
    assert batch_sizes(rows, 8) == sizes


def test_the_same_text_is_not_twice_in_a_batch_and_no_row_is_left_out():
    texts = [frozenset({number % 5, 100 + number}) for number in range(20)]
    batches = distinct_batches(texts, range(20), batch_sizes(20, 4))
    assert sorted(row for batch in batches for row in batch) == list(range(20))
    assert all(len({row % 5 for row in batch}) == len(batch) for batch in batches)
    same = [frozenset({1})] * 4
    assert sorted(row for batch in distinct_batches(same, range(4), [2, 2]) for row in batch) == [0, 1, 2, 3]
