"""What is around a measured step, as a row and its versions tell: the loop, older libraries, how PyTorch reserved."""

import re
from collections.abc import Mapping
from typing import Any

from estimator.replay.reservation import Circumstances
from estimator.tape.conditions import Conditions, KvCache
from specs import PlanError

# The version of transformers whose loss pads and shifts the labels instead of copying the logits; loss/loss_utils.py.
_LABELS_SHIFTED_SINCE = (4, 50)

# The version of TRL that no longer calls prepare_model_for_kbit_training; github huggingface/trl #4457.
_EMBEDDINGS_LEFT_SINCE = (0, 26)

# transformers has warmed up the allocator since https://github.com/huggingface/transformers/pull/36428, and loaded what
# it quantized by threads from version 5 until https://github.com/huggingface/transformers/pull/44576.
_WARMED_UP_SINCE = (4, 50)
_LOADED_BY_THREADS_SINCE = (5, 0)
_LOADED_BY_THREADS_UNTIL = (5, 4)

# The version of peft that empties the cache after prepare_model_for_kbit_training; https://github.com/huggingface/peft/pull/3293.
_CACHE_EMPTIED_SINCE = (0, 20)

# The versions of transformers and TRL whose trainers switch the KV cache off, and the one of transformers that copies
# keys and values into it: training_args.py, ``use_cache``; sft_trainer.py, ``compute_loss``; cache_utils.py.
_CACHE_OFF_SINCE = (5, 0)
_CACHE_OFF_IN_TRL_SINCE = (0, 22)
_CACHE_COPIED_SINCE = (4, 56)

# The version of transformers whose trainer takes FSDP2 unless told otherwise; training_args.py, fsdp_config["version"].
_FSDP_2_SINCE = (5, 0)


def conditions(entry: Mapping[str, str]) -> Conditions:
    """Return the loop around the step of a row, and what its libraries did differently."""
    values: dict[str, Any] = {
        name: switch(name, entry[name]) for name in ("caller_holds_outputs", "kv_repeated") if entry.get(name)
    }
    values["outputs_unconverted"] = not switch("outputs_converted", entry.get("outputs_converted") or "true")
    values.update({name: entry[name] for name in ("bnb_forward", "attention_kernel", "padding") if entry.get(name)})
    values.setdefault("padding", "none")
    versions = entry.get("versions", "")
    values["kv_cache"] = _kv_cache(entry)
    values["liger_loss"] = has_liger_loss(entry)
    values["shifted_logits"] = _before(versions, "transformers", _LABELS_SHIFTED_SINCE)
    values["embeddings_cast_back"] = (
        entry.get("prepare_kbit", "").lower() == "true"
        and entry.get("autocast", "").lower() == "true"
        and _before(versions, "trl", _EMBEDDINGS_LEFT_SINCE)
    )
    return Conditions(**values)


def _kv_cache(entry: Mapping[str, str]) -> KvCache:
    """Return what of a KV cache the outputs of a row's step hold.

    Checkpointing switches it off. Trainers of their time are known; a loop that holds the outputs itself must say so.
    """
    versions = entry.get("versions", "")
    if switch("gradient_checkpointing", entry.get("gradient_checkpointing") or "false"):
        return "none"
    holds = switch("caller_holds_outputs", entry.get("caller_holds_outputs") or "false")
    by_trl = "trl" in versions and not _before(versions, "trl", _CACHE_OFF_IN_TRL_SINCE)
    by_trainer = not holds and not by_trl and _before(versions, "transformers", _CACHE_OFF_SINCE)
    if not switch("use_cache", entry.get("use_cache") or str(by_trainer).lower()):
        return "none"
    return "referenced" if _before(versions, "transformers", _CACHE_COPIED_SINCE) else "copied"


def has_liger_loss(entry: Mapping[str, str]) -> bool:
    """Return whether a row was measured with Liger's fused loss, which a plan cannot choose."""
    return entry.get("loss") == "fused"


def circumstances(entry: Mapping[str, str]) -> Circumstances:
    """Return how the libraries of a row load and reserve; older bitsandbytes means older transformers."""
    versions = entry.get("versions", "")
    named = re.search(r"\btransformers\b", versions) is not None
    older = _before(versions, "transformers", _LOADED_BY_THREADS_UNTIL) if named else _is_older(entry)
    by_threads = older and not _before(versions, "transformers", _LOADED_BY_THREADS_SINCE)
    return Circumstances(
        expandable_segments=switch("expandable_segments", entry.get("expandable_segments") or "false"),
        loaded_by_threads=by_threads,
        # The published figures agree with a training step's, so they leave out what threads allocated while loading.
        reset_after_loading=by_threads,
        cache_emptied=not _before(versions, "peft", _CACHE_EMPTIED_SINCE),
        warmed_up=not _before(versions, "transformers", _WARMED_UP_SINCE),
        fsdp_version=1 if _before(versions, "transformers", _FSDP_2_SINCE) else 2,
        outputs_carried=_carries(entry),
    )


def _carries(entry: Mapping[str, str]) -> bool:
    """Return whether the loop of a row drops what a step returned only after the next forward pass.

    Raises:
        PlanError: If it does so with outputs that it does not hold.
    """
    dropped = switch("outputs_dropped", entry.get("outputs_dropped") or "true")
    if not dropped and not switch("caller_holds_outputs", entry.get("caller_holds_outputs") or "false"):
        way_out = "Set caller_holds_outputs to true, or outputs_dropped too"
        raise PlanError("outputs_dropped", "can be false only where the loop holds outputs", dropped, way_out)
    return not dropped


def _is_older(entry: Mapping[str, str]) -> bool:
    return entry.get("bnb_forward") == "dequantize"


def _before(versions: str, library: str, since: tuple[int, int]) -> bool:
    """Return whether a line such as ``torch=2.4.1 transformers=4.48.1`` names an older version of a library.

    Raises:
        PlanError: If it names the library without a version: what the memory was would be a guess.
    """
    found = re.search(rf"\b{library}[= ]+(\d+)\.(\d+)", versions)
    if found is None and re.search(rf"\b{library}\b", versions):
        raise PlanError("versions", f"must say which version of {library} ran, such as {library}=5.23.0", versions[:60])
    return found is not None and (int(found[1]), int(found[2])) < since


def switch(name: str, text: str) -> bool:
    """Return what a cell says that is true or false.

    Raises:
        PlanError: If it says something else.
    """
    if text.lower() not in {"true", "false", "1", "0"}:
        raise PlanError(name, "must be true or false", text)
    return text.lower() in {"true", "1"}
