"""The rows of a run: tokenized, with what was skipped noted, and split into what is learned and what is held out."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from specs import DataError, FinetunePlan
from trainer.dataset import Example, Finding, examples
from trainer.rendering import chat_text, labelled, rendered
from trainer.session import Session

_DEFAULT_PROMPTS = 3


def tokenized_rows(session: Session, tokenizer: PreTrainedTokenizerBase) -> tuple[Dataset, tuple[str, ...]]:
    """Return the tokenized rows and the prompts to ask before and after; note what was skipped."""
    findings: list[str] = []
    prompts: list[str] = []
    source, plan = session.run.data, session.plan

    def tokenized() -> Iterator[dict[str, Any]]:
        for entry in examples(source):
            tokens = None if isinstance(entry, Finding) else _training_row(entry, tokenizer, plan)
            if isinstance(entry, Finding):
                findings.append(entry.sentence)
            elif tokens is None:
                findings.append(f"Row {entry.row}: its answer begins after max_length ({plan.max_length} tokens).")
            else:
                if len(prompts) < _DEFAULT_PROMPTS:
                    prompts.extend(turn.content for turn in entry.turns[:1] if turn.role == "user")
                yield {**tokens, "group": _group(entry)}

    session.store.add_details(session.run.id, data_sha256=data_fingerprint(session))
    rows = list(tokenized())
    session.store.add_details(session.run.id, rows=len(rows), skipped=len(findings), findings=findings[:100])
    if not rows:
        raise DataError(Path(source.path).name, "has no row to train on", None, findings[0] if findings else "")
    if findings:
        session.store.add_event(session.run.id, "warning", f"{len(findings):,} rows skipped, such as: {findings[0]}")
    return Dataset.from_list(rows), source.prompts or tuple(prompts)


def data_fingerprint(session: Session) -> str:
    """Return the SHA-256 of the data file.

    Raises:
        DataError: If it is no longer the file that the run began with: the same curve could not go on.
    """
    path = Path(session.run.data.path)
    if not path.is_file():
        raise DataError(str(path), "is no file", None, "Put it back, or start a new run with other data")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    known = session.run.details.get("data_sha256", found)
    if found != known:
        raise DataError(path.name, "has changed since the run began", None, "Start a new run with the changed data")
    return found


def _training_row(example: Example, tokenizer: Any, plan: FinetunePlan) -> dict[str, Any] | None:
    """Return a row as TRL takes it: tokens with labels, or a preference pair in words."""
    if example.chosen is not None:
        prompt = chat_text(example.turns, tokenizer, ask=True)
        end = tokenizer.eos_token or ""
        return {"prompt": prompt, "chosen": f"{example.chosen}{end}", "rejected": f"{example.rejected}{end}"}
    text = rendered(example, tokenizer)
    return labelled(text, tokenizer, max_length=plan.max_length, whole=not plan.completion_only_loss)


def _group(example: Example) -> str:
    """Return what examples of one question share, so that no question is both learned and evaluated."""
    asked = "\n".join(turn.content for turn in example.turns if turn.role != "assistant")
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def held_out_rows(groups: Sequence[str], *, share: float, seed: int) -> list[int]:
    """Return the rows to evaluate on: whole groups in an order that the seed decides, about a share of all rows."""
    if not share:
        return []
    order = sorted(set(groups), key=lambda group: hashlib.sha256(f"{seed} {group}".encode()).digest())
    sizes, wanted = Counter(groups), max(1, round(share * len(groups)))
    before = [0, *itertools.accumulate(sizes[group] for group in order)]
    chosen = {group for group, count in zip(order, before, strict=False) if count < wanted}
    return [row for row, group in enumerate(groups) if group in chosen]
