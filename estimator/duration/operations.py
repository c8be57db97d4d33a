"""What one training step computes and moves, by kind and pass, as functions of batch, length, rank and layers.

Shapes: b sequences of s tokens, t = b x s tokens in all, d hidden size, v vocabulary.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from specs import METHODS, TASK_TYPES, FinetunePlan, LorafitError, ModelSpec
from specs.targets import Linear, Stacked


class Kind(StrEnum):
    """What an operation is: each kind has a speed of its own on a device."""

    MATMUL = "matrix products"
    ADAPTER = "adapter"
    ATTENTION = "attention"
    ELEMENTWISE = "norms and activations"
    DEQUANTIZE = "expanding weights"
    LOSS = "loss"
    OPTIMIZER = "optimizer"
    TRANSFER = "copies from and to RAM"


class Pass(StrEnum):
    """When an operation runs."""

    FORWARD = "forward"
    RECOMPUTE = "recomputation"
    BACKWARD = "backward"
    UPDATE = "update"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """All operations of one kind in one pass of a step."""

    kind: Kind
    during: Pass
    flops: float = 0.0
    """Floating-point operations, as ``torch.utils.flop_counter`` counts them."""
    moved_bytes: float = 0.0
    """Bytes that are read and written."""
    calls: float = 0.0
    """Kernels that are started."""
    rows: float = 0.0
    """Tokens that a matrix product has; few make it slow."""
    weights: float = 0.0
    """Trained weights, of an optimizer's step."""
    in_float32: bool = False
    """Whether it computes in 32 bit whatever the rest does."""
    unfused_bytes: float = 0.0
    """Bytes that are moved on a CPU, where no kernel does all in one pass; 0 if they are ``moved_bytes`` there, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """The sizes of a model that decide what a token costs."""

    linear: float
    """Weights of the frozen or trained layers that each token is multiplied by, without head and adapter."""
    stored: float
    """Weights of those layers in memory: every expert, whether a token reaches it or not."""
    modules: int
    """Linear layers."""
    head: float
    """Weights of the output head."""
    attention: float
    """Width of all heads of all layers."""
    residual: float
    """Hidden size of all layers."""
    inner: float
    """Width of the feed-forward layers of all layers, of the experts that a token reaches."""
    num_layers: int


# Passes over memory of one layer's forward pass, as transformers 5.23 runs a llama layer in PyTorch: two RMSNorms in
# 32 bit (14 each), two residual sums (3 each), rotated queries and keys (6), of a hidden state; activation and
# product of the gate (5) of the inner width.
_PASSES_OF_HIDDEN = 40
_PASSES_OF_INNER = 5
# Its kernels: 14 of norms, 12 of positions, 2 of attention, 4 of residuals and gate; a gradient takes twice as many.
_CALLS_OF_LAYER = 32
_CALLS_OF_ADAPTER = 5
"""Cast, two products, scale and sum of one adapted layer."""
_BACKWARD_CALLS = 2
_DORA_PASSES = 6
"""DoRA's norm of W + BA, in passes over the weight: PEFT 0.20, tuners/lora/dora.py, ``get_weight_norm``."""
_PASSES_OF_LOGITS = 6
"""Cast to 32 bit, log-softmax and pick forward, and their gradients."""
_PASSES_OF_CHUNKS = {"forward": 18.0, "backward": 25.5}
"""Those of TRL's chunked loss without Triton, with the entropy and the best word that it tells: TRL 1.16,
kernels/chunked_logprob.py, ``_forward_tile`` and ``_backward_tile``."""
_BYTES_PACKED = 0.5
"""A 4-bit weight without its share of the constants."""
_BYTES_OF_CODE = 0.5 + 4 / 64
"""A 4-bit weight with its share of the constants."""
_PARAMETER_PASSES = {"adamw_torch": 20, "adamw_torch_fused": 7, "adafactor": 8, "sgd": 3}
"""Reads and writes of one trained weight in an optimizer step: gradient, weight, two states; unfused ones repeat, and
write the root of the second state besides: torch 2.13, optim/adamw.py, ``_multi_tensor_adamw``."""
_CLIPPING_PASSES = 3
"""The norm reads each gradient, clipping reads and writes it: torch, nn/utils/clip_grad.py."""
_OTHER_OPTIMIZER_PASSES = 7


def operations(
    model: ModelSpec, plan: FinetunePlan, *, batch: int | None = None, length: int | None = None, pairs: bool = False
) -> tuple[Operation, ...]:
    """Return what one forward and backward pass computes on one device, and the optimizer's step.

    Args:
        model: The base model.
        plan: Its method, rank, dtype, loss and checkpointing decide.
        batch: Sequences of the pass; None takes the plan's.
        length: Tokens of each with padding; None takes the plan's ``max_length``.
        pairs: Whether each row is a pair of answers, which a reference pass reads once more.
    """
    size = (2 if pairs else plan.texts_per_row) * (batch or plan.per_device_train_batch_size)
    step = _Step(model, plan, size, length or plan.max_length)
    found = [*step.forward(Pass.FORWARD), *step.backward()]
    if plan.gradient_checkpointing:
        found += step.recomputed()
        found += step.inputs_in_ram()
    if pairs:
        found += step.forward(Pass.FORWARD, adapted=False)
    return (*found, step.update())


def forward_operations(model: ModelSpec, plan: FinetunePlan, *, batch: int, length: int) -> tuple[Operation, ...]:
    """Return what one pass without gradients computes, as in an evaluation."""
    return tuple(_Step(model, plan, batch, length).forward(Pass.FORWARD))


def total_flops(found: tuple[Operation, ...]) -> float:
    """Return the floating-point operations of a step."""
    return sum(entry.flops for entry in found)


class _Step:
    """One step of a model at one size."""

    def __init__(self, model: ModelSpec, plan: FinetunePlan, batch: int, length: int) -> None:
        self.plan = plan
        self.widths = widths(model)
        self.tokens = batch * length
        self.length = length
        self.itemsize = 4 if plan.compute_dtype == "float32" else 2
        # prepare_model_for_kbit_training keeps norms and head, and with them what flows between layers, in 32 bit.
        self.streamed = 4 if plan.prepare_kbit else self.itemsize
        self.in_float32 = plan.prepare_kbit and not plan.autocast_dtype
        self.trains_base = not METHODS[plan.method].trains_adapter
        self.adapted, self.lora, self.area = (0, 0.0, 0.0) if self.trains_base else _adapters(model, plan)
        self.trained_itemsize = self.itemsize if self.trains_base and not plan.autocast_dtype else 4
        self.trained = (
            float(model.num_params or self.widths.stored + self.widths.head)
            if self.trains_base
            else _trained(model, plan, self.lora)
        )
        adapter = METHODS[plan.method].adapter
        self.narrow = plan.r * self.lora if METHODS[plan.method].peft_type == "LORA" else self.trained
        self.whole = self.area if adapter is not None and adapter.as_large else 0.0
        self.has_logits = TASK_TYPES[plan.task_type].writes

    def forward(self, during: Pass, *, adapted: bool = True) -> Iterator[Operation]:
        """Yield the operations of all layers and of the loss."""
        yield from self.layers(during, adapted=adapted)
        yield from self._head(during, products=1)

    def layers(self, during: Pass, *, adapted: bool = True) -> Iterator[Operation]:
        """Yield the operations of all layers, forward."""
        widths, tokens = self.widths, self.tokens
        yield Operation(
            kind=Kind.MATMUL,
            during=during,
            flops=2 * widths.linear * tokens,
            moved_bytes=self.itemsize * widths.stored,
            calls=widths.modules,
            rows=tokens,
        )
        yield from self._attention(during, products=2)
        yield self._elementwise(during, times=1)
        yield from self._expanded(during)
        if during is Pass.FORWARD:
            yield from self._streamed(during)
        if adapted and self.adapted:
            yield self._adapter(during, products=1)

    def backward(self) -> Iterator[Operation]:
        """Yield the operations of the gradients: those of the inputs, and of what is trained."""
        widths, tokens = self.widths, self.tokens
        products = 2 if self.trains_base else 1
        yield Operation(
            kind=Kind.MATMUL,
            during=Pass.BACKWARD,
            flops=2 * products * widths.linear * tokens,
            moved_bytes=products * self.itemsize * widths.stored,
            calls=products * widths.modules,
            rows=tokens,
        )
        yield from self._attention(Pass.BACKWARD, products=4 if self.plan.attn_implementation == "eager" else 5)
        yield self._elementwise(Pass.BACKWARD, times=_BACKWARD_CALLS)
        yield from self._expanded(Pass.BACKWARD)
        yield from self._streamed(Pass.BACKWARD)
        yield from self._head(Pass.BACKWARD, products=products)
        if self.adapted:
            yield self._adapter(Pass.BACKWARD, products=2)

    def recomputed(self) -> Iterator[Operation]:
        """Yield the operations of the layers that run forward a second time."""
        share = self.plan.recomputed_layers(self.widths.num_layers) / max(1, self.widths.num_layers)
        for entry in self.layers(Pass.RECOMPUTE):
            yield replace(
                entry, flops=share * entry.flops, moved_bytes=share * entry.moved_bytes, calls=share * entry.calls
            )

    def inputs_in_ram(self) -> Iterator[Operation]:
        """Yield the copies of each recomputed layer's input: to RAM in the forward pass, and back in the backward."""
        if self.plan.activation_offloading:
            layers = self.plan.recomputed_layers(self.widths.num_layers)
            width = self.widths.residual / max(1, self.widths.num_layers)
            copied = self.streamed * width * layers * self.tokens
            for during in (Pass.FORWARD, Pass.BACKWARD):
                yield Operation(kind=Kind.TRANSFER, during=during, moved_bytes=copied, calls=layers)

    def update(self) -> Operation:
        """Return the optimizer's step over everything that is trained."""
        passes = _PARAMETER_PASSES.get(self.plan.optim, _OTHER_OPTIMIZER_PASSES)
        passes += _CLIPPING_PASSES if self.plan.max_grad_norm else 0
        tensors = 2 * self.adapted or self.widths.modules
        return Operation(
            kind=Kind.OPTIMIZER,
            during=Pass.UPDATE,
            weights=self.trained,
            moved_bytes=self.trained_itemsize * passes * self.trained,
            calls=float(tensors),
        )

    def _attention(self, during: Pass, *, products: int) -> Iterator[Operation]:
        """Yield the products of scores and values: 2 forward, 4 backward, and 1 more where the scores are not kept.

        Source: FlashAttention-2, https://arxiv.org/abs/2307.08691, section 2.3; the half that a causal mask hides is
        counted, as flop_counter does.
        """
        width = self.widths.attention
        if width:
            yield Operation(
                kind=Kind.ATTENTION,
                during=during,
                flops=2 * products * width * self.tokens * self.length,
                moved_bytes=2 * products * self.itemsize * width * self.tokens,
                calls=self.widths.num_layers,
                rows=self.tokens,
                in_float32=self.in_float32,
            )

    def _elementwise(self, during: Pass, *, times: int) -> Operation:
        widths = self.widths
        passes = _PASSES_OF_HIDDEN * widths.residual + _PASSES_OF_INNER * widths.inner
        return Operation(
            kind=Kind.ELEMENTWISE,
            during=during,
            moved_bytes=times * passes * self.streamed * self.tokens,
            calls=times * _CALLS_OF_LAYER * widths.num_layers,
        )

    def _expanded(self, during: Pass) -> Iterator[Operation]:
        """Yield the expansion of 4-bit and 8-bit weights, which every pass repeats."""
        if self.plan.load_in_4bit or self.plan.load_in_8bit:
            code = _BYTES_OF_CODE if self.plan.load_in_4bit else 1.0
            yield Operation(
                kind=Kind.DEQUANTIZE,
                during=during,
                moved_bytes=(code + self.itemsize) * self.widths.stored,
                calls=2 * self.widths.modules,
            )

    def _streamed(self, during: Pass) -> Iterator[Operation]:
        """Yield the copies of 4-bit layers from RAM: in each pass one, which a layer's recomputation shares."""
        if self.plan.layer_offloading:
            copied = _BYTES_PACKED * self.widths.stored
            yield Operation(kind=Kind.TRANSFER, during=during, moved_bytes=copied, calls=self.widths.modules)

    def _adapter(self, during: Pass, *, products: int) -> Operation:
        """Return the products of A and B, which are narrow: their inputs and outputs are what takes time.

        Other adapters multiply by as many weights as they train, and some by a matrix of the layer's size once more.
        """
        dora = _DORA_PASSES * self.area * self.itemsize if self.plan.use_dora else 0.0
        return Operation(
            kind=Kind.ADAPTER,
            during=during,
            flops=2 * products * (self.narrow + self.whole) * self.tokens,
            moved_bytes=4 * products * 2 * self.lora * self.tokens + dora,
            calls=products * _CALLS_OF_ADAPTER * self.adapted,
            rows=self.tokens,
        )

    def _head(self, during: Pass, *, products: int) -> Iterator[Operation]:
        """Yield the product with the vocabulary and the loss over it; TRL's chunked loss computes the logits twice."""
        if not self.has_logits:
            return
        widths, tokens = self.widths, self.tokens
        again = 1 if self.plan.loss == "chunked" and during is Pass.BACKWARD else 0
        yield Operation(
            kind=Kind.MATMUL,
            during=during,
            flops=2 * (products + again) * widths.head * tokens,
            moved_bytes=(products + again) * self.streamed * widths.head,
            calls=products + again,
            rows=tokens,
            in_float32=self.in_float32,
        )
        logits = 4 * tokens * widths.head / max(1.0, widths.residual / max(1, widths.num_layers))
        chunked = self.plan.loss == "chunked"
        yield Operation(
            kind=Kind.LOSS,
            during=during,
            moved_bytes=_PASSES_OF_LOGITS * logits,
            calls=_PASSES_OF_LOGITS,
            unfused_bytes=_PASSES_OF_CHUNKS[during] * logits if chunked else 0.0,
        )


@functools.lru_cache(maxsize=256)
def widths(model: ModelSpec) -> Widths:
    """Return the sizes of a model, from its layers if it was built, else from its configuration."""
    layers = model.num_hidden_layers
    reached = experts_reached(model)
    share = reached / model.num_experts if model.num_experts else 1.0
    head = float(model.vocab_size * model.hidden_size)
    common = {
        "head": head,
        "attention": float(model.num_attention_heads * model.head_dim * layers * model.has_attention),
        "residual": float(model.hidden_size * layers),
        "inner": float(model.expert_size * max(1, reached) * layers),
        "num_layers": layers,
    }
    if model.layers is None:
        return _guessed(model, share, common)
    linear = stored = 0.0
    modules = 0
    every: tuple[Linear | Stacked, ...] = (*model.layers.linear, *model.layers.stacked)
    for kind in every:
        if isinstance(kind, Linear) and kind.left_out == "head":
            continue
        count = len(kind.paths)
        weights = float(count * kind.in_features * kind.out_features)
        is_expert = isinstance(kind, Stacked) or kind.left_out == "expert"
        whole = weights * (kind.num_experts if isinstance(kind, Stacked) else 1)
        stored += whole
        linear += whole * share if is_expert else weights
        modules += count * (reached if isinstance(kind, Stacked) else 1)
    return Widths(linear=linear, stored=stored, modules=modules, **common)  # type: ignore[arg-type]


def experts_reached(model: ModelSpec) -> int:
    """Return how many experts of a layer a token is sent to; 0 for a dense model."""
    config = model.text_config
    named = config.get("num_experts_per_tok") or config.get("num_experts_per_token") or model.num_experts
    return min(int(named), model.num_experts)


def _guessed(model: ModelSpec, share: float, common: dict[str, float]) -> Widths:
    """Return the sizes of a model that nobody has built: all its weights but the tables of words."""
    tables = common["head"] * (1 if model.tie_word_embeddings or model.is_encoder else 2)
    matrices = 3 if not model.is_encoder else 2
    experts = float(matrices * model.hidden_size * model.expert_size * model.num_experts * model.num_hidden_layers)
    attention = model.hidden_size * model.head_dim * 2 * (model.num_attention_heads + model.num_key_value_heads)
    dense = 0.0 if experts else float(matrices * model.hidden_size * model.intermediate_size)
    stored = experts + model.num_hidden_layers * (attention + dense)
    if model.num_params:
        stored = max(stored if experts else 0.0, model.num_params - tables)
    linear = stored - experts * (1 - share)
    return Widths(linear=linear, stored=stored, modules=7 * model.num_hidden_layers, **common)  # type: ignore[arg-type]


def _trained(model: ModelSpec, plan: FinetunePlan, width: float) -> float:
    """Return about how many weights an adapter trains, given the sum of its layers' inputs and outputs."""
    lora = width * plan.r
    if model.layers is None or METHODS[plan.method].peft_type == "LORA":
        return lora
    try:
        found = model.layers.adapter_params(plan)
    except LorafitError:
        return lora
    return lora if found is None else float(found)


@functools.lru_cache(maxsize=1024)
def _adapters(model: ModelSpec, plan: FinetunePlan) -> tuple[int, float, float]:
    """Return how many layers a plan adapts, the sum of their inputs and outputs, and their weights."""
    if model.layers is None:
        found = widths(model)
        return found.modules, 8 * found.residual + 3 * found.inner, found.linear
    try:
        kinds = [kind for _, kind in model.layers.adapted(plan)]
    except LorafitError:
        kinds = [kind for kind in model.layers.linear for _ in kind.paths if not kind.left_out]
    width = float(sum(kind.in_features + kind.out_features for kind in kinds))
    return len(kinds), width, float(sum(kind.in_features * kind.out_features for kind in kinds))
