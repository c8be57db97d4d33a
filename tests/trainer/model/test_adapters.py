"""Every adapter is trained through the trainer's own code, saved, loaded by PEFT alone, and resumed."""

import contextlib
import json
import shutil
import threading

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file

from specs import PlanError
from trainer.data.source import DataSource
from trainer.model.adapters import adapter_config, orthogonality
from trainer.model.build import base_model, build
from trainer.results import checkpoints
from trainer.runs.contract import State
from trainer.runs.export import RESULT
from trainer.runs.session import Session
from trainer.worker.loop.trainers import trainer_of
from trainer.worker.rows import tokenized_rows
from trainer.worker.train import _tokenizer as tokenizer_of
from trainer.worker.train import train

pytestmark = [
    # PEFT 0.21 reads a property that transformers 5.23 has renamed.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    # What transformers 5.23 generates with comes with positions, which PEFT 0.21 lets the model count itself.
    pytest.mark.filterwarnings("ignore:Position ids are not supported.*:UserWarning"),
    # TRL calls the copy of an adapter "ref", and PEFT finds these letters in "prefix_tuning_".
    pytest.mark.filterwarnings("ignore:Adapter name 'ref' should not be contained in the prefix.*:UserWarning"),
]

FOUR_BIT, EIGHT_BIT = {"load_in_4bit": True}, {"load_in_8bit": True}
BUDGET = {"method": "adalora", "init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 2, "lora_alpha": 32}
ADAPTERS = [
    pytest.param({"method": "lora"}, id="LoRA"),
    pytest.param({"method": "qlora"}, id="QLoRA nf4"),
    pytest.param({"method": "qlora", "bnb_4bit_quant_type": "fp4"}, id="QLoRA fp4"),
    pytest.param({"method": "lora-8bit"}, id="8-bit LoRA"),
    pytest.param({"method": "rslora"}, id="rsLoRA"),
    pytest.param({"method": "dora"}, id="DoRA"),
    pytest.param({"method": "lora", "loraplus_lr_ratio": 16.0}, id="LoRA+"),
    pytest.param({"method": "lora", "init_lora_weights": "pissa"}, id="PiSSA"),
    pytest.param(
        {"method": "lora", "rank_pattern": {r"layers\.1\..*q_proj": 9, "up_proj": 2}, "alpha_pattern": {"up_proj": 1}},
        id="ranks by layer",
    ),
    pytest.param(BUDGET, id="AdaLoRA"),
    pytest.param(BUDGET | FOUR_BIT, id="AdaLoRA over 4 bit"),
    pytest.param(BUDGET | EIGHT_BIT, id="AdaLoRA over 8 bit"),
    pytest.param({"method": "ia3"}, id="IA3"),
    pytest.param({"method": "ia3", "target_modules": ("k_proj", "down_proj")} | FOUR_BIT, id="IA3 over 4 bit"),
    pytest.param({"method": "ia3"} | EIGHT_BIT, id="IA3 over 8 bit"),
    pytest.param({"method": "prompt-tuning", "num_virtual_tokens": 6}, id="prompt tuning"),
    pytest.param(
        {"method": "prompt-tuning", "prompt_tuning_init": "SAMPLE_VOCAB", "gradient_checkpointing": True} | FOUR_BIT,
        id="prompt tuning over 4 bit, from words, checkpointed",
    ),
    pytest.param({"method": "prefix-tuning", "num_virtual_tokens": 6}, id="prefix tuning"),
    pytest.param({"method": "prefix-tuning"} | FOUR_BIT, id="prefix tuning over 4 bit"),
]


@pytest.fixture
def session_of(store, chat_data, place):
    """Makes a run of a plan and claims it."""

    def made(plan, data=chat_data):
        store.create(plan, data, place=place)
        return Session(store.claim_next(place.device), store, threading.Event())

    return made


@contextlib.contextmanager
def trainer_for(session):
    """Yield what trains a run, in this process."""
    tokenizer = tokenizer_of(session.run.model)
    model = build(session.plan, session.run.model, device="cpu")
    with tokenized_rows(session, tokenizer) as rows:
        yield trainer_of(session, model, tokenizer, rows)


def said(model):
    """What a model says to some tokens, as logits; what it says to virtual tokens before them is left out."""
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 35).reshape(2, 16), use_cache=False).logits[:, -16:]


@pytest.mark.parametrize("values", ADAPTERS)
def test_what_is_saved_says_what_was_trained(session_of, tiny_model, plan_of, tmp_path, values):
    plan = plan_of(**{"learning_rate": 2e-2, "max_steps": 6, "save_steps": 100, **values})
    with trainer_for(session_of(plan)) as trainer:
        before = {name: weight.clone() for name, weight in trainer.model.named_parameters() if weight.requires_grad}
        trainer.train()
    moved = [name for name, weight in trainer.model.named_parameters() if name in before]
    assert any(not torch.equal(before[name], trainer.model.get_parameter(name)) for name in moved)
    trainer.model.save_pretrained(tmp_path / "saved")
    loaded = PeftModel.from_pretrained(base_model(plan, tiny_model, device="cpu"), tmp_path / "saved")
    assert torch.allclose(said(loaded), said(trainer.model), atol=1e-5)
    assert not torch.allclose(said(base_model(plan, tiny_model, device="cpu")), said(loaded), atol=1e-3)


@pytest.mark.parametrize("values", ADAPTERS)
def test_a_resumed_run_goes_on_as_if_it_had_never_ended(session_of, plan_of, values):
    plan = plan_of(**{"learning_rate": 1e-2, "max_steps": 6, "save_steps": 3, **values})
    session, losses, adapters = session_of(plan), [], []
    for resumed in (None, str(checkpoints.folder_of(session.folder, 3))):
        with trainer_for(session) as trainer:
            trainer.train(resume_from_checkpoint=resumed)
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        adapters.append({name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad})
    assert losses[1] == losses[0]  # the checkpoint remembers the first three
    assert all(torch.allclose(adapters[0][name], adapters[1][name], atol=1e-5) for name in adapters[0])


@pytest.mark.parametrize("method", ["prompt-tuning", "prefix-tuning"])
def test_answers_heed_the_virtual_tokens(tiny_model, plan_of, method):
    model = build(plan_of(method=method), tiny_model, device="cpu").eval()
    weights = next(weight for weight in model.parameters() if weight.requires_grad)
    torch.nn.init.normal_(weights, std=3.0, generator=torch.Generator().manual_seed(1))
    tokens, expected = torch.arange(3, 11).reshape(1, 8), []
    options = {
        "attention_mask": torch.ones_like(tokens), "do_sample": False, "use_cache": True, "pad_token_id": 0,
        "min_new_tokens": 6, "max_new_tokens": 6, "output_logits": True, "return_dict_in_generate": True,
    }  # fmt: skip
    with torch.no_grad():
        answered = torch.cat(model.generate(input_ids=tokens, **options).logits)
        with model.disable_adapter():
            alone = torch.cat(model.generate(input_ids=tokens, **options).logits)
        for _ in range(6):
            expected.append(model(input_ids=tokens, use_cache=False).logits[:, -1])
            tokens = torch.cat((tokens, expected[-1].argmax(-1, keepdim=True)), dim=1)
    assert torch.allclose(answered, torch.cat(expected), atol=1e-4)
    assert not torch.allclose(answered, alone, atol=1e-2)


def living_ranks(folder):
    """The ranks that AdaLoRA left to each module of an adapter."""
    saved = load_file(folder / "adapter_model.safetensors")
    return {name: int((weight != 0).sum()) for name, weight in saved.items() if name.endswith("lora_E")}


def test_adalora_ends_with_the_ranks_of_its_target_and_keeps_them_when_made_longer(session_of, plan_of):
    plans = [plan_of(**{"max_steps": steps, "save_steps": 3, "learning_rate": 1e-2, **BUDGET}) for steps in (6, 9)]
    first = session_of(plans[0])
    assert train(first) is State.FINISHED
    first.store.enter(first.run.id, State.FINISHED)
    ranks = living_ranks(first.folder / RESULT)
    assert len(ranks) == 14  # of seven modules in each of two layers
    assert sum(ranks.values()) == 2 * 14
    assert len(set(ranks.values())) > 1, "no module is worth more than another"
    longer = session_of(plans[1])
    shutil.copytree(checkpoints.folder_of(first.folder, 6), checkpoints.folder_of(longer.folder, 6))
    assert train(longer) is State.FINISHED
    assert living_ranks(longer.folder / RESULT) == ranks


def test_adalora_keeps_its_best_weights_with_the_ranks_they_had(session_of, plan_of):
    plan = plan_of(
        **BUDGET | {"max_steps": 8, "save_steps": 2, "eval_split": 0.25, "load_best_model_at_end": True},
        learning_rate=0.3,
    )
    session = session_of(plan)
    with trainer_for(session) as trainer:
        trainer.train()
    best = load_file(
        checkpoints.folder_of(session.folder, trainer.state.best_global_step) / "adapter_model.safetensors"
    )
    weights = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert best
    assert all(torch.equal(weight, weights[_in_model(name)]) for name, weight in best.items())
    assert checkpoints.trained_bytes(trainer.model) > sum(
        file.stat().st_size
        for file in checkpoints.folder_of(session.folder, 8).iterdir()
        if file.suffix in {".pt", ".safetensors"}
    )


def _in_model(name):
    """The name that a saved tensor has in the model."""
    return name + ".default"


def test_adalora_stopped_early_saves_every_rank_that_lives(session_of, plan_of, tmp_path, tiny_model):
    plan = plan_of(**{"max_steps": 12, "save_steps": 100, "learning_rate": 1e-2, **BUDGET, "deltaT": 3})
    session = session_of(plan)
    with trainer_for(session) as trainer:
        trainer.add_callback(_StopAfter(session, 5))
        trainer.train()
    trainer.model.save_pretrained(tmp_path / "saved")
    loaded = PeftModel.from_pretrained(base_model(plan, tiny_model, device="cpu"), tmp_path / "saved")
    assert trainer.state.global_step == 5
    assert torch.allclose(said(loaded), said(trainer.model), atol=1e-5)


class _StopAfter:
    """Asks a run to stop when it has made some steps."""

    def __init__(self, session, steps):
        self._session, self._steps = session, steps

    def __getattr__(self, name):
        if not name.startswith("on_"):
            raise AttributeError(name)
        return self._look

    def _look(self, _args, state, _control, **_):
        if state.global_step >= self._steps - 1:
            self._session.stop.set()


def test_adalora_without_a_step_to_take_ranks_away_is_refused(session_of, plan_of):
    plan = plan_of(**BUDGET | {"max_steps": -1, "num_train_epochs": 0.1})
    with pytest.raises(PlanError, match=r"tinit: with tfinal \(2\) must leave some of the run's 2 steps, got 1"):
        train(session_of(plan))


def test_orthogonality_is_what_peft_adds_to_the_loss(tiny_model, plan_of):
    plan = plan_of(**BUDGET)
    model = build(plan, tiny_model, device="cpu")
    ids = torch.arange(3, 35).reshape(2, 16)
    with_it = model(input_ids=ids, labels=ids).loss
    model.peft_config["default"].orth_reg_weight = 0.0
    without = model(input_ids=ids, labels=ids).loss
    model.peft_config["default"].orth_reg_weight = 0.5
    assert orthogonality(model).item() == pytest.approx((with_it - without).item(), rel=1e-4)
    assert orthogonality(build(plan_of(method="lora"), tiny_model, device="cpu")) is None


def test_both_losses_of_adalora_are_one_number(session_of, plan_of):
    losses = []
    for loss in ("chunked", "full"):
        session = session_of(plan_of(**{"loss": loss, "max_steps": 5, **BUDGET}))
        with trainer_for(session) as trainer:
            trainer.train()
        session.store.enter(session.run.id, State.FAILED)
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_matches_no_module_is_refused_with_the_nearest_names(tiny_model, plan_of, field):
    plan = plan_of(method="lora", **{field: {"q_porj": 4}})
    with pytest.raises(PlanError, match=rf"{field}: must name linear modules of the model, got q_porj.*q_proj"):
        build(plan, tiny_model, device="cpu")


def test_ranks_are_those_of_the_pattern(tiny_model, plan_of):
    plan = plan_of(method="lora", r=4, rank_pattern={r"layers\.1\..*q_proj": 9, "up_proj": 2})
    ranks = {
        name.partition("layers.")[2].partition(".lora_A")[0]: len(weight)
        for name, weight in build(plan, tiny_model, device="cpu").named_parameters()
        if "lora_A" in name
    }
    assert (ranks["0.self_attn.q_proj"], ranks["1.self_attn.q_proj"]) == (4, 9)
    assert (ranks["0.mlp.up_proj"], ranks["1.mlp.up_proj"], ranks["1.mlp.down_proj"]) == (2, 2, 4)


def test_ia3_scales_what_the_feed_forward_block_reads_inside(tiny_model, plan_of):
    base = base_model(plan_of(method="ia3"), tiny_model, device="cpu")
    model = get_peft_model(base, adapter_config(plan_of(method="ia3"), base))
    inside = {name.rpartition(".")[2] for name, part in model.named_modules() if getattr(part, "is_feedforward", False)}
    assert inside == {"down_proj"}


@pytest.fixture
def preferences(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"What comes after {word}?", "chosen": f"{word} and more.", "rejected": "No."}
        for word in ("one", "two", "three", "four") * 2
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return DataSource(path=str(path))


@pytest.mark.parametrize("method", ["ia3", "prompt-tuning", "prefix-tuning"])
def test_preference_pairs_are_learned_by_other_adapters_too(session_of, preferences, plan_of, method):
    session = session_of(plan_of(method=method, learning_rate=2e-2, max_steps=8), preferences)
    with trainer_for(session) as trainer:
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert set(trainer.model.peft_config) == {"default"}


def test_preference_pairs_are_refused_to_adalora_in_one_sentence(session_of, preferences, plan_of):
    with pytest.raises(PlanError, match="method: adalora supports one adapter, but DPO starts with two"):
        train(session_of(plan_of(**BUDGET), preferences))
