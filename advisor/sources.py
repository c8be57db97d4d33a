"""The sources that the rules cite; each rule adds the place in the source."""

from advisor.advice import Source

QLORA = Source("Dettmers et al. 2023, QLoRA", "https://arxiv.org/abs/2305.14314")
QLORA_CODE = Source("QLoRA code and Guanaco scripts", "https://github.com/artidoro/qlora")
LEARNS_LESS = Source("Biderman et al. 2024, LoRA Learns Less and Forgets Less", "https://arxiv.org/abs/2405.09673")
RSLORA = Source("Kalajdzievski 2023, rsLoRA", "https://arxiv.org/abs/2312.03732")
LORA_ALPHA = Source("Zhang et al. 2026, The Hidden Power of Scaling Factor in LoRA", "https://arxiv.org/abs/2606.12883")
ADALORA = Source("Zhang et al. 2023, AdaLoRA", "https://arxiv.org/abs/2303.10512")
ADALORA_CODE = Source("AdaLoRA code", "https://github.com/QingruZhang/AdaLoRA")
PROMPT_TUNING = Source("Lester et al. 2021, Prompt Tuning", "https://arxiv.org/abs/2104.08691")
LORA_PLUS = Source("Hayou et al. 2024, LoRA+", "https://arxiv.org/abs/2402.12354")
VANILLA = Source("Learning Rate Matters: Vanilla LoRA May Suffice", "https://arxiv.org/abs/2602.04998")
TRL_REGRET = Source("TRL, LoRA Without Regret", "https://huggingface.co/docs/trl/lora_without_regret")
TRL_SFT = Source("TRL 1.16, SFTConfig", "https://huggingface.co/docs/trl/sft_trainer")
TRL_DPO = Source("TRL 1.16, DPOTrainer", "https://huggingface.co/docs/trl/dpo_trainer")
TRL_MEMORY = Source("TRL, Reducing Memory Usage", "https://huggingface.co/docs/trl/reducing_memory_usage")
PEFT_LORA = Source("PEFT, LoraConfig", "https://huggingface.co/docs/peft/package_reference/lora")
PEFT_MIXTURES = Source(
    "PEFT 0.21, weight conversion of mixtures; transformers 5 keeps experts as one parameter",
    "https://github.com/huggingface/peft/blob/v0.21.0/src/peft/utils/transformers_weight_conversion.py",
)
PEFT_FSDP = Source("PEFT, Fully Sharded Data Parallel", "https://huggingface.co/docs/peft/accelerate/fsdp")
PEFT_DEEPSPEED = Source("PEFT, DeepSpeed", "https://huggingface.co/docs/peft/accelerate/deepspeed")
PEFT_BENCHMARK = Source(
    "PEFT method comparison, MetaMathQA on Llama-3.2-3B",
    "https://github.com/huggingface/peft/tree/main/method_comparison",
)
TRANSFORMERS = Source(
    "transformers 5.23, TrainingArguments", "https://huggingface.co/docs/transformers/main_classes/trainer"
)
TRANSFORMERS_ATTENTION = Source(
    "transformers, Attention backends", "https://huggingface.co/docs/transformers/attention_interface"
)
BNB_EXPERTS = Source(
    "bitsandbytes issue 1849; bitsandbytes 0.50, nn/parametrize.py, 4 bit only",
    "https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1849",
)
TRANSFORMERS_CHECKPOINTING = Source(
    "transformers 5.23, PreTrainedModel.activation_checkpointing_enable",
    "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/modeling_utils.py",
)
AXOLOTL_STREAMING = Source(
    "Axolotl, layer_offloading; LoRAFit decision 0307",
    "https://github.com/axolotl-ai-cloud/axolotl/blob/main/src/axolotl/core/trainers/mixins/layer_offloading.py",
)
ZERO_OFFLOAD = Source("Ren et al. 2021, ZeRO-Offload", "https://arxiv.org/abs/2101.06840")
BNB_FSDP = Source(
    "bitsandbytes issues 89 and 1633, LLaMA-Factory issue 5619",
    "https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1633",
    "8-bit and paged optimizers under FSDP",
)
BNB_PLATFORMS = Source(
    "bitsandbytes 0.50, README, accelerator support",
    "https://github.com/bitsandbytes-foundation/bitsandbytes/blob/0.50.0/README.md#accelerator-support",
)
TRAINER = Source("LoRAFit trainer: what its runs refuse or have not been tested with", "")
KBIT = Source("TRL pull requests 4335 and 4457", "https://github.com/huggingface/trl/pull/4457")
TINKER = Source("Tinker cookbook, hyperparams", "https://github.com/thinking-machines-lab/tinker-cookbook")
TORCHTUNE = Source("torchtune recipes and tutorials", "https://github.com/pytorch/torchtune")
LLAMA_FACTORY = Source("LLaMA-Factory examples and README", "https://github.com/hiyouga/LLaMA-Factory")
UNSLOTH = Source(
    "Unsloth, LoRA hyperparameters guide",
    "https://docs.unsloth.ai/get-started/fine-tuning-llms-guide/lora-hyperparameters-guide",
)
UNSLOTH_NOTEBOOKS = Source("Unsloth notebooks", "https://github.com/unslothai/notebooks")
RASCHKA = Source(
    "Raschka 2023, Practical Tips for Finetuning LLMs Using LoRA",
    "https://magazine.sebastianraschka.com/p/practical-tips-for-finetuning-llms",
)
ZEPHYR = Source("Alignment Handbook, Zephyr recipes", "https://github.com/huggingface/alignment-handbook")
PREDIBASE = Source("Predibase documentation", "https://docs.predibase.com")
CPU_MEASURED = Source(
    "LoRAFit measurement, 2026-11-22: SmolLM2-135M-Instruct, forward and backward of 2 x 128 tokens on 2 cores of a "
    "Xeon with AVX512_BF16 at 2.3 GHz, torch 2.13.0, bitsandbytes 0.50.2, the best of 4 to 10: in float32 LoRA 0.94 s, "
    "QLoRA 1.00 s, 8-bit 1.22 s; in bfloat16 LoRA 1.62 s",
    "",
)
BERT = Source("Devlin et al. 2018, BERT", "https://arxiv.org/abs/1810.04805")
LORA = Source("Hu et al. 2021, LoRA", "https://arxiv.org/abs/2106.09685")
SBERT = Source(
    "sentence-transformers, training overview", "https://sbert.net/docs/sentence_transformer/training_overview.html"
)
SBERT_PEFT = Source(
    "sentence-transformers, examples, training with PEFT",
    "https://sbert.net/examples/sentence_transformer/training/peft/README.html",
)
SBERT_LOSSES = Source(
    "sentence-transformers, losses", "https://sbert.net/docs/package_reference/sentence_transformer/losses.html"
)
E5_MISTRAL = Source(
    "Wang et al. 2023, Improving Text Embeddings with Large Language Models", "https://arxiv.org/abs/2401.00368"
)
GRAD_CACHE = Source("Gao et al. 2021, GradCache", "https://arxiv.org/abs/2101.06983")
ESTIMATE = Source("LoRAFit estimator: replay of the traced training step on this device", "")
TEXTBOOK = Source("The textbook table (classic rules)", "")
