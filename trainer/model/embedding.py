"""What makes one vector of a text: a model, the pooling over its tokens, and the layers behind.

Only runs and traces of embeddings import it, since sentence-transformers takes seconds to import.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.losses import CoSENTLoss, MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from torch import nn
from transformers.utils import cached_file

from specs import METHODS, FinetunePlan, SpecError
from specs import embeddings as specs_embeddings
from specs.embeddings import MODULES, Embedding
from trainer.model.packing import META

_READ = ("input_ids", "attention_mask", "token_type_ids")
_LOSSES = {"MultipleNegativesRankingLoss": MultipleNegativesRankingLoss, "CoSENTLoss": CoSENTLoss}


class Backbone(nn.Module):
    """The model as the first module of a ``SentenceTransformer``: tokens in, a vector of each token out."""

    def __init__(self, model: nn.Module) -> None:
        """Take a model of transformers, with or without an adapter."""
        super().__init__()
        self.model = model

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Return the features of a batch, with the vectors of its tokens: (b, s, d)."""
        read = {name: features[name] for name in _READ if name in features}
        features["token_embeddings"] = self.model(**read, return_dict=True)["last_hidden_state"]
        return features


class Embedder(nn.Sequential):
    """A model with its pooling and what lies behind, without tokenizer and files: what a step computes."""

    def __init__(self, plan: FinetunePlan, model: nn.Module, found: Embedding | None) -> None:
        """Take a model, which may have no values, and what its folder says of its embeddings."""
        width = int(model.config.get_text_config().hidden_size)
        behind: list[nn.Module] = [_new_dense(one, like=model) for one in (found.dense if found else ())]
        for one in behind:
            one.requires_grad_(requires_grad=not METHODS[plan.method].trains_adapter)
        behind += [Normalize()] if found and found.normalizes else []
        super().__init__(Backbone(model), Pooling(width, plan.pooling_mode), *behind)
        self.config = model.config


def loss_of(plan: FinetunePlan, model: nn.Module) -> nn.Module:
    """Return the loss of a plan, which embeds the texts of a batch with a model."""
    made: nn.Module = _LOSSES[plan.embedding_loss](model, scale=plan.scale)
    return made


def require_built(found: Embedding | None, name: str) -> None:
    """Refuse a model whose embeddings are made in a way that is not built here.

    Raises:
        SpecError: Names what is missing.
    """
    if found is not None and found.unknown:
        rule = "must have no module but Transformer, Pooling, Dense and Normalize"
        raise SpecError(f"{name}: {MODULES}", rule, found.unknown[0], "Choose another embedding model")


def embedding_in(source: str) -> Embedding | None:
    """Return what the files of a model, in a folder or of the Hub, say of its embeddings; None for any other model."""

    def file(name: str) -> Any:
        path = _file(source, name)
        return json.loads(path.read_text(encoding="utf-8")) if path else None

    return specs_embeddings.read(file)


def sentence_transformer(plan: FinetunePlan, model: nn.Module, source: str, *, device: str) -> SentenceTransformer:
    """Return a built model as sentence-transformers trains, saves and loads it.

    Args:
        plan: Decides the pooling, and whether layers behind it are trained.
        model: The model of transformers, with or without an adapter.
        source: The folder or Hub id with its tokenizer and with the files of its embeddings.
        device: Where it is.

    Raises:
        SpecError: If its embeddings are made in a way that is not built here.
    """
    found = embedding_in(source)
    require_built(found, source)
    behind = _behind(source)
    for one in behind:
        one.requires_grad_(requires_grad=not METHODS[plan.method].trains_adapter)
    width = int(model.config.get_text_config().hidden_size)
    modules = [_around(model, source), Pooling(width, plan.pooling_mode), *behind]
    prompts = dict(found.prompts) if found else {}
    return SentenceTransformer(modules=modules, prompts=prompts, device=device, local_files_only=True)


def _around(model: nn.Module, source: str) -> Transformer:
    """Return sentence-transformers' own first module, with a model that is built already."""

    class Given(Transformer):
        def _load_model(self, *_args: Any, **_kwargs: Any) -> Any:
            return model

    made = Given(source, config_kwargs={"local_files_only": Path(source).is_dir()})
    made.__class__ = Transformer  # which is what its files shall name
    return made


def _behind(source: str) -> Sequence[nn.Module]:
    """Return the modules behind the pooling, with their weights."""
    path = _file(source, MODULES)
    found: list[nn.Module] = []
    for entry in json.loads(path.read_text(encoding="utf-8")) if path else []:
        kind = entry["type"].rpartition(".")[2]
        if kind == "Dense":
            found.append(Dense.load(source, subfolder=entry["path"], local_files_only=Path(source).is_dir()))
        elif kind == "Normalize":
            found.append(Normalize())
    return found


def _new_dense(one: specs_embeddings.Dense, *, like: nn.Module) -> Dense:
    """Return a layer behind the pooling without values, in the dtype of a model's first weight."""
    activation: Mapping[str, nn.Module] = {"": nn.Identity(), "Tanh": nn.Tanh(), "ReLU": nn.ReLU(), "GELU": nn.GELU()}
    if one.activation not in activation:
        raise SpecError("Dense: activation_function", "must be Tanh, ReLU, GELU or none", one.activation)
    with torch.device(META):
        made = Dense(one.in_features, one.out_features, bias=one.bias, activation_function=activation[one.activation])
    return made.to(next(like.parameters()).dtype)


def _file(source: str, name: str) -> Path | None:
    """Return a file of a folder or of a Hub model that is on this machine; None where there is none."""
    found = cached_file(
        source,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return Path(found) if found else None
