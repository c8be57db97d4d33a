"""Layers that wait in RAM compute what they compute on the device, and only one of them is there at a time."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trainer.model.build import build
from trainer.model.streaming import ALIGNMENT


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    """A random Llama of five layers whose output head is not its table of words, as a model folder."""
    folder = tmp_path_factory.mktemp("untied")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=320, num_hidden_layers=5, max_position_embeddings=64, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


WORDS = torch.arange(2 * 24).view(2, 24)


def steps(model) -> list[torch.Tensor]:
    """Return the losses of three steps and, last, the output without gradients."""
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.5)
    found = []
    for _ in range(3):
        loss = model(input_ids=WORDS, labels=WORDS, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.detach())
    with torch.no_grad():
        return [*found, model.eval()(input_ids=WORDS, use_cache=False).logits]


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="activations kept"),
        pytest.param({"gradient_checkpointing": True}, id="recomputed"),
        pytest.param({"gradient_checkpointing": True, "use_reentrant": True}, id="recomputed, reentrant"),
        pytest.param({"use_dora": True, "gradient_checkpointing": True}, id="DoRA"),
        pytest.param({"method": "ia3", "load_in_4bit": True}, id="IA3"),
    ],
)
def test_streamed_layers_give_the_same_losses_bit_for_bit(untied, plan_of, values):
    torch.manual_seed(0)
    kept = steps(build(plan_of(**values), str(untied), device="cpu"))
    torch.manual_seed(0)
    streamed = steps(build(plan_of(layer_offloading=True, **values), str(untied), device="cpu"))
    assert kept[0] > kept[2], "the steps learn something"
    assert all(torch.equal(one, other) for one, other in zip(kept, streamed, strict=True))


def storages(model) -> dict[int, int]:
    """Return the bytes of every storage that a model's parameters lie in, by its address."""
    found = [weight.untyped_storage() for weight in model.parameters()]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


def test_all_layers_share_one_place_and_the_table_of_words_is_elsewhere(untied, plan_of):
    kept, streamed = (build(plan_of(layer_offloading=on), str(untied), device="cpu") for on in (False, True))
    packed = [w for w in kept.parameters() if hasattr(w, "quant_state") and w.quant_state is not None]
    whole = sum(weight.nbytes for weight in packed)
    of_one = sum(-(-weight.nbytes // ALIGNMENT) * ALIGNMENT for weight in packed[: len(packed) // 5])
    words = kept.get_input_embeddings().weight.nbytes
    assert sum(storages(kept).values()) - sum(storages(streamed).values()) == whole - of_one + words
    assert words == 320 * 64 * 4


def test_the_output_is_that_of_the_layers_own_weights(untied, plan_of):
    model = build(plan_of(layer_offloading=True), str(untied), device="cpu").eval()
    base = model.get_base_model()
    with torch.no_grad():
        first = base(input_ids=WORDS, use_cache=False).logits
        # A second pass finds the last layer in the place of the first.
        assert torch.equal(base(input_ids=WORDS, use_cache=False).logits, first)
    assert copy.copy(base.hf_device_map) == {"": "cpu"}
