"""Texts with a class, and small models that read them, of the architectures that people fine-tune for it."""

import json

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BertConfig,
    DebertaV2Config,
    LlamaForCausalLM,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
)

from trainer.data.source import DataSource

GOOD, BAD = ("good", "great", "fine"), ("bad", "awful", "poor")
THINGS = ("thing", "film", "book", "day", "plan", "house", "song", "road")
WORDS = (*GOOD, *BAD, *THINGS, "a", "the", "and", "very")
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
_UNKNOWN = {"unk_token": "[UNK]"}
_SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
ENCODERS = {
    "bert": BertConfig(**_SIZES),
    "roberta": RobertaConfig(**_SIZES),
    "deberta-v2": DebertaV2Config(
        **_SIZES,
        relative_attention=True,
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        pooler_hidden_size=32,
    ),
    "modernbert": ModernBertConfig(
        **_SIZES, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2, local_attention=16
    ),
}


ENCODER_DECODERS = {
    "t5": T5Config(
        vocab_size=32,
        d_model=64,
        d_kv=32,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        n_positions=512,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    ),
    "bart": BartConfig(
        vocab_size=32,
        d_model=32,
        max_position_embeddings=64,
        **{
            f"{side}_{name}": number
            for side in ("encoder", "decoder")
            for name, number in {"layers": 2, "ffn_dim": 64, "attention_heads": 2}.items()
        },
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
    ),
}


def encoder_tokenizer(model_type):
    """A tokenizer of words that puts BERT's special tokens around one text or two."""
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate((*SPECIAL, *WORDS))}, **_UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = {"eos_token": "[SEP]"} if model_type in ENCODER_DECODERS else {}
    words.post_processor = processors.TemplateProcessing(
        single="$A [SEP]" if ends else "[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1" if model_type == "bert" else "[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if model_type == "bert" else [])]
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_input_names=names,
        **ends,
        **dict(zip(("pad_token", "cls_token", "sep_token", "unk_token", "mask_token"), SPECIAL, strict=True)),
    )


def model_folder(model_type, folder, tiny_config, tiny_tokenizer):
    """A folder with random weights of an architecture, as it comes from its pre-training."""
    torch.manual_seed(0)
    if model_type == "llama":
        LlamaForCausalLM(tiny_config).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
    elif model_type in ENCODER_DECODERS:
        AutoModelForSeq2SeqLM.from_config(ENCODER_DECODERS[model_type]).save_pretrained(folder)
        encoder_tokenizer(model_type).save_pretrained(folder)
    else:
        AutoModelForMaskedLM.from_config(ENCODERS[model_type]).save_pretrained(folder)
        encoder_tokenizer(model_type).save_pretrained(folder)
    return folder


def rows_of_opinions():
    """48 different texts whose class a word gives away; two of three are positive."""
    return [
        {"text": f"{start} {word} {thing}", "label": label}
        for label, start, words in (("pos", "the", GOOD), ("pos", "a very", GOOD), ("neg", "the", BAD))
        for word in words[:2]
        for thing in THINGS
    ]


def source_of(path, rows, **values):
    """Rows as a file of data."""
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return DataSource(path=str(path), **values)
