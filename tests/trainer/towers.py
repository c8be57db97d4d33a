"""Tiny models that also read images or sound, with random weights: what the Hub has, in the shape of the real types."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForMultimodalLM,
    GenerationConfig,
    PreTrainedTokenizerBase,
)

_TEXT = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_SIGHT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_SIGLIP = {"model_type": "siglip_vision_model", **_SIGHT, "image_size": 32, "patch_size": 8}
_QWEN_SIGHT = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 64}
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}

CONFIGS: Mapping[str, dict[str, Any]] = {
    "gemma3": {
        "text_config": {**_TEXT, "model_type": "gemma3_text", "sliding_window": 32},
        "vision_config": {**_SIGLIP, "vision_use_head": False},
        "mm_tokens_per_image": 4,
        "image_token_index": 399,
    },
    "qwen2_5_vl": {
        "text_config": {**_TEXT, "model_type": "qwen2_5_vl_text", "rope_parameters": _ROPE},
        "vision_config": {**_QWEN_SIGHT, "fullatt_block_indexes": [1]},
        "image_token_id": 399,
        "video_token_id": 398,
        "vision_start_token_id": 397,
    },
    "mistral3": {
        "text_config": {**_TEXT, "model_type": "mistral"},
        "vision_config": {**_SIGHT, "model_type": "pixtral", "head_dim": 16, "image_size": 32, "patch_size": 8},
        "image_token_index": 399,
    },
    "mllama": {
        "text_config": {
            **_TEXT,
            "model_type": "mllama_text_model",
            "cross_attention_layers": [1],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        "vision_config": {
            "model_type": "mllama_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "vision_output_dim": 64,
            "intermediate_layers_indices": [1],
        },
        "image_token_index": 399,
    },
    "smolvlm": {
        "text_config": {**_TEXT, "model_type": "llama"},
        "vision_config": {**_SIGHT, "model_type": "smolvlm_vision", "image_size": 32, "patch_size": 8},
        "scale_factor": 2,
        "image_token_id": 399,
    },
    "qwen2_audio": {
        "text_config": {**_TEXT, "model_type": "qwen2"},
        "audio_config": {
            "model_type": "qwen2_audio_encoder",
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "num_mel_bins": 16,
        },
        "audio_token_index": 399,
    },
}
"""A configuration of each type."""


def write(model_type: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Write a model of a type with random weights, all towers included, as a folder with a tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **CONFIGS[model_type])
    model = AutoModelForMultimodalLM.from_config(config)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
