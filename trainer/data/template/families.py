"""Which chat template stands for a model whose own is not on this machine: one of those that TRL ships."""

import re
from dataclasses import dataclass

GENERAL = "qwen3"
"""Stands for what no row of the table knows: it renders calls, reasoning and system prompts."""

_README = "TRL 1.16, trl/chat_templates/README.md"
_META = "Meta's models without Instruct, and Google's without it, are published without a chat template"
_EARLIER = "Published before chat templates; transformers 5 has no default for them"


@dataclass(frozen=True, slots=True)
class Family:
    """Models that share a chat template."""

    model_type: str
    """Pattern of transformers' ``model_type``, whole; also of the text tower alone."""
    name: str
    """Pattern of the name in lower case, anywhere in it; empty fits every name."""
    template: str
    """TRL's file without its ending; empty where these models have no chat template."""
    source: str


FAMILIES = (
    Family("qwen2|llama", r"deepseek-r1-distill", "deepseek_r1_distill", _README),
    Family("llama", r"llama-3\.2.*instruct", "llama3_2", _README),
    Family("llama", r"llama-3\.[13].*instruct", "llama3_1", _README),
    Family("llama", r"llama-3-.*instruct", "llama3", _README),
    Family("llama", r"^meta-llama/(?!.*(instruct|chat))|^huggyllama/", "", _META),
    Family("qwen2|qwen2_moe", r"", "qwen2_5", _README),
    Family("qwen2_vl(_text)?|qwen2_5_vl(_text)?", r"", "qwen2_5_vl", _README),
    Family("qwen3|qwen3_moe", r"instruct-2507", "qwen3_instruct_2507", _README),
    Family("qwen3|qwen3_moe", r"", "qwen3", _README),
    Family("qwen3_vl(_moe)?(_text)?", r"", "qwen3_vl", _README),
    Family("qwen3_5(_moe)?(_text)?", r"qwen3\.8", "qwen3_8", _README),
    Family("qwen3_5(_moe)?(_text)?", r"qwen3\.6", "qwen3_6", _README),
    Family("qwen3_5(_moe)?(_text)?", r"-(0\.8|2)b", "qwen3_5_nothink", _README),
    Family("qwen3_5(_moe)?(_text)?", r"", "qwen3_5_think", _README),
    Family("gemma|gemma2|gemma3(_text)?", r"^google/(?!.*-it)", "", _META),
    Family("gemma|gemma2", r"", "gemma", _README),
    Family("gemma3(_text)?", r"", "gemma3", _README),
    Family("gemma4(_text|_unified|_unified_text)?", r"", "gemma4_v5", _README),
    Family("diffusion_gemma(_text)?", r"", "diffusion_gemma", _README),
    Family("phi3", r"phi-3\.5", "phi3_5", _README),
    Family("phi3", r"phi-3-", "phi3", _README),
    Family("glm4_moe", r"", "glm4moe", _README),
    Family("gpt_oss", r"", "gptoss", _README),
    Family("deepseek_v3", r"", "deepseekv3", _README),
    Family("cohere", r"", "cohere", _README),
    Family("cohere2", r"", "cohere2", _README),
    Family("lfm2_vl", r"lfm2\.5", "lfm2_2_5_vl", _README),
    Family("lfm2|lfm2_moe", r"lfm2\.5", "lfm2_2_5_v2", _README),
    Family("lfm2|lfm2_moe", r"", "lfm2_v2", _README),
    Family("nemotron_h", r"3\.5-lightning", "nemotron_3_5_lightning", _README),
    Family("nemotron_h", r"-3-ultra", "nemotron_3_ultra", _README),
    Family("nemotron_h", r"-3-super", "nemotron_3_super", _README),
    Family("nemotron_h", r"-3-nano", "nemotron_3_nano", _README),
    Family("muse_glimmer(_text)?", r"", "muse_glimmer", _README),
    Family("smolvlm", r"", "smolvlm", _README),
    Family("idefics3", r"", "idefics3", _README),
    Family("llava_next", r"", "llava_next", _README),
    Family("bloom|gpt2|gpt_neo|gpt_neox|gptj|opt|phi|starcoder2", r"", "", _EARLIER),
)
"""Every family that is known; the first that fits counts."""


def family(model_type: str, name: str) -> Family | None:
    """Return the family of a model, or None if none is known."""
    return next(
        (
            entry
            for entry in FAMILIES
            if re.fullmatch(entry.model_type, model_type) and re.search(entry.name, name.lower())
        ),
        None,
    )
