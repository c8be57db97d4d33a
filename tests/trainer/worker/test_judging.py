"""What an evaluation holds in memory, and how near answers are: on models made for the purpose."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from trainer.worker.judging.reading import loss_of

VOCABULARY, LENGTH = 40_000, 640


class Peak(TorchDispatchMode):
    """The most bytes of tensors made within it that existed at once."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {one.untyped_storage()._cdata for one in args if isinstance(one, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        made = {} if func._schema.is_mutable else {one.untyped_storage()._cdata: one for one in tensors(result)}
        for place in made.keys() - before:
            storage = made[place].untyped_storage()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.drop, storage.nbytes())
        return result

    def drop(self, num_bytes):
        self.now -= num_bytes


def tensors(result):
    return [one for one in (result if isinstance(result, list | tuple) else [result]) if isinstance(one, torch.Tensor)]


@pytest.fixture(scope="module")
def wide():
    """A small model of many words, whose logits are what takes memory."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=LENGTH, **sizes)).eval()


@pytest.mark.parametrize("num_learned", [20, LENGTH])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_row_takes_less_memory_than_in_training_and_none_for_what_is_not_learned(wide, num_learned, chunked):
    ids = torch.arange(LENGTH).tolist()
    labels = [-100] * (LENGTH - num_learned) + ids[LENGTH - num_learned :]
    with torch.no_grad():
        known = LENGTH - 1, float(wide(torch.tensor([ids]), labels=torch.tensor([labels])).loss)
    with Peak() as reading:
        found = loss_of(wide, ids, labels, chunked=chunked)
    assert found == pytest.approx(min(num_learned, known[0]) * known[1], rel=1e-4)
    assert "forward" not in vars(wide)
    if chunked:
        add_fused_lm_head(wide)
    with Peak() as training:
        said = wide(torch.tensor([ids]), labels=torch.tensor([labels]), **({"fused_lm_head": True} if chunked else {}))
        said.loss.backward()
    vars(wide).pop("forward", None)
    wide.zero_grad()
    assert reading.most < training.most
    if num_learned < LENGTH:
        assert reading.most < LENGTH * VOCABULARY  # a quarter of the logits of all positions
