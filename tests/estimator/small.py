"""Small models of many architectures, with the features that change what a step allocates."""

from specs import ModelSpec

SIZES = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}

CONFIGS = {
    "llama": {"model_type": "llama", **SIZES},
    "mistral with a window": {"model_type": "mistral", **SIZES, "sliding_window": 1024},
    "qwen2 with biases and a tied head": {"model_type": "qwen2", **SIZES, "tie_word_embeddings": True},
    "qwen3 with norms of queries and keys": {"model_type": "qwen3", **SIZES, "head_dim": 48},
    "gemma2 with soft caps": {"model_type": "gemma2", **SIZES, "head_dim": 32, "sliding_window": 512},
    "gemma3 with two kinds of layers": {
        "model_type": "gemma3_text",
        **SIZES,
        "head_dim": 32,
        "num_hidden_layers": 6,
        "sliding_window": 512,
    },
    "phi3 with fused projections": {"model_type": "phi3", **SIZES, "pad_token_id": 0},
    "gpt2 with Conv1D": {
        "model_type": "gpt2",
        "vocab_size": 1000,
        "n_embd": 256,
        "n_layer": 4,
        "n_head": 8,
        "n_positions": 2048,
    },
    "gpt_neox with parallel blocks": {"model_type": "gpt_neox", **SIZES},
    "opt with learned positions": {
        "model_type": "opt",
        **SIZES,
        "ffn_dim": 1024,
        "word_embed_proj_dim": 256,
    },
    "starcoder2 with layer norms": {"model_type": "starcoder2", **SIZES},
    "qwen3_moe with experts": {
        "model_type": "qwen3_moe",
        **SIZES,
        "head_dim": 32,
        "moe_intermediate_size": 192,
        "num_experts": 8,
        "num_experts_per_tok": 2,
    },
}

UNUSUAL = {
    "llama4 with chunks and routers": {
        "model_type": "llama4_text",
        **SIZES,
        "head_dim": 32,
        "num_hidden_layers": 8,
        "intermediate_size_mlp": 704,
        "num_local_experts": 4,
        "attention_chunk_size": 1024,
    },
    "deepseek_v3 with latent attention": {
        "model_type": "deepseek_v3",
        **SIZES,
        "num_key_value_heads": 8,
        "kv_lora_rank": 32,
        "q_lora_rank": 48,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 32,
        "v_head_dim": 32,
        "n_routed_experts": 8,
        "moe_intermediate_size": 64,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
    },
    "gpt_oss with sinks": {
        "model_type": "gpt_oss",
        **SIZES,
        "head_dim": 32,
        "num_hidden_layers": 6,
        "num_local_experts": 4,
        "sliding_window": 2048,
    },
    "falcon with one key": {"model_type": "falcon", **SIZES, "multi_query": True, "new_decoder_architecture": False},
}
"""Architectures with unusual layers, attention or experts."""


def model(name: str) -> ModelSpec:
    """Return one of the small models."""
    return ModelSpec.from_config({**CONFIGS, **UNUSUAL}[name], name=name)
