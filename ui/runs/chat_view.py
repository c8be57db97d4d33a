"""Chat with the model of a run."""

from collections.abc import Iterator, Mapping
from itertools import chain

import streamlit as st

from specs import TASK_TYPES, LorafitError
from trainer.data.forms.messages import Turn
from trainer.results.chat import BASE, TUNED
from trainer.runs.contract import Run
from ui.parts import notices, text
from ui.runs.facts import conversations, run_data, wording

VOICES = {TUNED: "Tuned model", BASE: "Base model"}


def chat(run: Run) -> None:
    """Show the chat with the tuned or the base model."""
    writes = TASK_TYPES[run.plan.task_type].writes
    if not run_data.has_adapter(run):
        st.caption(f"Once the run has saved its result, you can {'chat with' if writes else 'try'} the model here.")
        return
    notices.fragment(_chat if writes else _try)(run)


def _try(run: Run) -> None:
    """Ask for a text and show what is found in it."""
    said = wording.of(run.plan)
    with st.form("classify", border=False):
        label = said.asked_of_two if run.details.get("texts", 1) == 2 else said.asked
        words = st.text_area(label, key="classified", max_chars=20_000, height=120)
        asked = st.form_submit_button(said.talk, icon=":material/label:")
    if not asked or not words.strip():
        st.caption("The first text loads the model in a separate process, which unloads after 10 idle minutes.")
        return
    try:
        turns = [Turn(role="user", content=words.strip())]
        with st.spinner(said.working if conversations.is_open(run) else "Loading the model ..."):
            found = "".join(conversations.answer(run, turns, voice=TUNED, temperature=0.0))
    except LorafitError as error:
        st.error(text.plain(str(error)), icon=":material/error:")
        return
    st.markdown(text.plain(found))
    if said.told:
        st.caption(said.told)


def _chat(run: Run) -> None:
    said: list[tuple[Turn, str]] = st.session_state.setdefault(f"chat_{run.id}", [])
    voices = {**VOICES, **conversations.others(run)}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        voice = _voice(run, voices)
        temperature = st.slider(
            "temperature",
            0.0,
            1.5,
            0.0,
            0.1,
            key="temperature",
            width=220,
            help="0 always picks the most likely token.",
        )
        if conversations.is_open(run) or said:
            st.button(
                "End conversation",
                icon=":material/close:",
                key="end_chat",
                on_click=_end,
                args=(run,),
                help="Clears the conversation and frees the memory.",
            )
    window = st.container(border=True, height=360, autoscroll=True)
    with window:
        if not said:
            st.caption("The first question loads the model in a separate process, which unloads after 10 idle minutes.")
        for turn, note in said:
            with st.chat_message(turn.role):
                st.markdown(text.paragraphs(turn.content) or "No answer.")
                if note:
                    st.caption(note)
    if words := st.chat_input("Ask the model", key="asked", max_chars=20_000):
        with window:
            _ask(run, said, words, (voice, voices[voice]), temperature)


def _voice(run: Run, voices: Mapping[str, str]) -> str:
    """Ask who answers: the tuned model, its base, or another adapter of the same base; the conversation goes on."""
    if len(voices) == len(VOICES):
        return st.segmented_control(
            "Who answers", list(voices), default=TUNED, required=True, format_func=voices.__getitem__, key="voice"
        )
    return st.selectbox(
        "Who answers",
        list(voices),
        format_func=voices.__getitem__,
        key=f"voice {run.id}",
        width=340,
        help="Other adapters of the same base model are loaded beside this one: to switch takes no time. "
        "The router and quantized models are loaded anew.",
    )


def _ask(run: Run, said: list[tuple[Turn, str]], words: str, voice: tuple[str, str], temperature: float) -> None:
    """Show a question and its answer.

    Args:
        run: Whose conversation it is.
        said: The conversation so far, which both are added to.
        words: The question.
        voice: Who answers, and what that is called.
        temperature: Of the answer.
    """
    question = Turn(role="user", content=words)
    with st.chat_message("user"):
        st.markdown(text.paragraphs(words))
    heard: list[str] = []
    with st.chat_message("assistant"):
        try:
            pieces = conversations.answer(
                run, [*(turn for turn, _ in said), question], voice=voice[0], temperature=temperature
            )
            with st.spinner("Thinking ..." if conversations.is_open(run) else "Loading the model ..."):
                first = next(pieces, "")
            st.write_stream(_shown(chain([first], pieces), heard))
        except LorafitError as error:
            st.error(text.plain(str(error)), icon=":material/error:")
            return
        speed = conversations.speed(run)
        note = text.plain(voice[1]) + (f", {speed:.1f} tokens/s" if speed else "")
        st.caption(note)
    said += [(question, ""), (Turn(role="assistant", content="".join(heard)), note)]


def _shown(pieces: Iterator[str], heard: list[str]) -> Iterator[str]:
    """Yield pieces with their Markdown escaped, and keep them unescaped in ``heard``."""
    for piece in pieces:
        heard.append(piece)
        yield text.plain(piece).replace("\n", "  \n")


@notices.guarded
def _end(run: Run) -> None:
    st.session_state.pop(f"chat_{run.id}", None)
    conversations.close(run)
