"""The command for vLLM names the smallest rank that it takes, and adapters that it cannot read are refused.

Checked once against vLLM itself, which is too large to install here: ``MaxLoRARanks`` and ``PEFTHelper`` were taken out
of the wheel of 0.33.0 (their imports stubbed), and ``PEFTHelper.from_local_dir(...).validate_legal(...)`` accepted the
first eight and refused the others with its own reasons, except ``target_parameters``, types that are not LoRA and
``trainable_token_indices``, which it fails on later or ignores; 2026-11-27.
"""

import pytest

from specs import RunError
from trainer.results.serving import vllm

PLAIN = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "bias": "none", "target_modules": ["q_proj"]}

SERVED = [
    ({"r": 1}, 1),
    ({"r": 2}, 8),
    ({"r": 16}, 16),
    ({"r": 17}, 32),
    ({"r": 300}, 320),
    ({"r": 512, "use_rslora": True}, 512),
    ({"r": 8, "rank_pattern": {"q_proj": 48}}, 64),
    ({"r": 8, "init_lora_weights": "gaussian", "modules_to_save": None, "rank_pattern": None}, 8),
]
REFUSED = [
    ({"r": 513}, "rank up to 512"),
    ({"rank_pattern": {"q_proj": 1024}}, "got 1024"),
    ({"use_dora": True}, "use_dora"),
    ({"modules_to_save": ["embed_tokens", "lm_head"]}, "modules_to_save"),
    ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    ({"target_parameters": ["mlp.experts.down_proj"]}, "target_parameters"),
    ({"bias": "all"}, "bias=all"),
    ({"lora_bias": True}, "lora_bias"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
    ({"peft_type": "IA3"}, "IA3"),
    ({"peft_type": "ADALORA"}, "ADALORA"),
    ({"peft_type": "MISS"}, "MISS"),
]


@pytest.mark.parametrize(("values", "rank"), SERVED)
def test_the_rank_is_the_smallest_that_vllm_takes(values, rank):
    assert vllm.max_lora_rank({**PLAIN, **values}) == rank


@pytest.mark.parametrize(("values", "said"), REFUSED)
def test_what_vllm_cannot_read_is_refused_with_the_way_out(values, said):
    with pytest.raises(RunError, match="trainer merge") as refused:
        vllm.max_lora_rank({**PLAIN, **values})
    assert said in str(refused.value)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "BEFT"])
def test_what_cannot_be_merged_either_is_refused_with_another_way_out(kind):
    with pytest.raises(RunError, match=f"the type {kind}, only LoRA. Serve it with PEFT, which alone reads it."):
        vllm.max_lora_rank({**PLAIN, "peft_type": kind})
