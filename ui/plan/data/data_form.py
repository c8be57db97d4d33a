"""The inputs about the data: which, which of its splits, with thinking or without, and what to ask before and after."""

from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from specs import LorafitError
from trainer.data.readers import Reader
from trainer.data.source import DataSource, Thinking
from ui.parts import given, uploads
from ui.parts.notices import guarded
from ui.plan.data import columns_form, datasets
from ui.plan.data.datasets import Choice

_URL: Literal["query-params"] = "query-params"
_PROMPTS = "prompts"
_TAKEN = "uploads taken"
LONGEST_IN_ADDRESS = 300
"""Characters of questions that the address still takes up."""
_THINKING: dict[str, Thinking] = {"Learn it": "keep", "Leave it out": "drop"}
_A_SHARE = "A share of the rows"
_KEPT_HERE = "must be the demo's data or a file that is kept here"


def ask(reader: Callable[[], Reader], more: DeltaGenerator) -> Choice:
    """Ask for the training data and what a run should know about it.

    Args:
        reader: Whose template shows rows while their columns are named.
        more: Where to ask for what few people need to say.
    """
    names = datasets.labels()
    given.expect("data", _KEPT_HERE)
    if (last := st.session_state.get("data", names[0])) not in names:
        given.refuse("data", last, _KEPT_HERE)
    label = st.selectbox(
        "Data",
        names,
        key="data",
        bind=_URL,
    )
    _own_file()
    chosen = label or names[0]
    split, evaluation_split = _splits(chosen)
    choice = Choice(label=chosen, split=split, evaluation_split=evaluation_split)
    with suppress(LorafitError):  # the page says itself that the tokenizer or the file cannot be read
        columns_form.ask(choice, reader())
    thinking = _thinking(choice)
    with more:
        prompts = _questions()
    return Choice(label=chosen, split=split, evaluation_split=evaluation_split, thinking=thinking, prompts=prompts)


def _own_file() -> None:
    """Offer to upload a file, behind a button that closes once the file is taken."""
    number = st.session_state.setdefault(_TAKEN, 0)
    with st.popover("Use your own file", icon=":material/upload_file:", width="stretch", key=f"own file {number}"):
        st.file_uploader(
            "Training data",
            type=list(uploads.KINDS),
            key=f"upload {number}",
            max_upload_size=uploads.MOST_BYTES // 2**20,
            on_change=_keep_upload,
            args=(f"upload {number}",),
        )
        st.caption(
            "Chat messages, instructions, pairs of answers, texts with a class, or plain text; one example per line or "
            "row. The file stays on this machine."
        )


def _splits(label: str) -> tuple[str, str]:
    """Ask which split of a file is trained and which evaluates, where it has several."""
    names = datasets.splits(label)
    if not names:
        return "train", ""
    left, right = st.columns(2)
    usual = names.index("train") if "train" in names else 0
    given.one_of("split", names)
    trained = left.selectbox("Train on", names, index=usual, key="split", bind=_URL)
    others = [_A_SHARE, *(name for name in names if name != trained)]
    given.one_of("evaluate", others)
    evaluated = right.selectbox(
        "Evaluate on",
        others,
        key="evaluate",
        bind=_URL,
    )
    return trained, "" if evaluated == _A_SHARE else evaluated


def _thinking(choice: Choice) -> Thinking:
    """Ask whether reasoning is learned, where the data has any."""
    if not datasets.has_thinking(choice):
        return "keep"
    given.one_of("thinking", list(_THINKING))
    picked = st.segmented_control(
        "Thinking",
        list(_THINKING),
        default="Learn it",
        required=True,
        key="thinking",
        bind=_URL,
    )
    st.caption("The data has reasoning before its answers: learned with them, or left out of what the model reads.")
    return _THINKING[picked]


def words_of(source: DataSource) -> str:
    """Return what the form calls the way in which a run reads reasoning."""
    return next(words for words, thinking in _THINKING.items() if thinking == source.thinking)


def _questions() -> tuple[str, ...]:
    """Ask what the base and the tuned model are asked; a few words stay in the address."""
    st.session_state.setdefault(_PROMPTS, st.query_params.get(_PROMPTS, ""))
    typed = st.text_area(
        "Questions asked before and after",
        key=_PROMPTS,
        height=68,
        placeholder="One per line, for the base model and the tuned one. Empty: rows that are not learned.",
    )
    kept = typed.strip() if len(typed) <= LONGEST_IN_ADDRESS else ""
    if kept:
        st.query_params[_PROMPTS] = kept
    elif _PROMPTS in st.query_params:
        del st.query_params[_PROMPTS]
    return tuple(line.strip() for line in typed.splitlines() if line.strip())


@guarded
def _keep_upload(key: str) -> None:
    """Keep a new upload and choose it; what is drawn next is a new place for files, which is closed and empty."""
    upload = st.session_state[key]
    if upload is not None:
        st.session_state[_TAKEN] += 1
        st.session_state["data"] = datasets.add(upload, upload.name)
