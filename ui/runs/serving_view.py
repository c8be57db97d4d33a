"""Takes a run's model to Ollama, llama.cpp or vLLM: writes a folder, and says how to use it."""

import shlex

import streamlit as st

from trainer.results.serving.exporting import TARGETS
from trainer.results.serving.model_file import TYPES
from trainer.runs.contract import Run
from ui.parts import notices, text
from ui.runs.facts import run_data

_LABELS = {"ollama": "Ollama", "gguf": "GGUF", "vllm": "vLLM"}


def serving(run: Run) -> None:
    """Offer the model for other programs, and show what was written."""
    st.markdown("**Ollama, llama.cpp, vLLM**")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        to = st.segmented_control("For", [*TARGETS], default="ollama", format_func=_LABELS.__getitem__, key="serve to")
        file_type = st.selectbox(
            "Type",
            TYPES,
            key="serve type",
            width=120,
            disabled=to == "vllm",
            help="Of the GGUF file. F16 is the model as merged; Q8_0 takes half the room, Q4_K_M less than a third.",
        )
        asked = st.button("Write", icon=":material/deployed_code:", key="serve", disabled=to is None)
    if to:
        st.caption(f"Writes {TARGETS[to]}, into the run's folder.")
    if asked and to:
        with notices.errors(), st.spinner("Merging, converting and loading back ..."):
            _show(run, to, file_type)


def _show(run: Run, to: str, file_type: str) -> None:
    written = run_data.served(run, to, file_type)
    st.success(text.plain(f"Written to {written.folder}."), icon=":material/check:")
    for said in written.said:
        st.caption(text.plain(said))
    st.code("\n".join((f"cd {shlex.quote(str(written.folder))}", *written.commands)), "sh", wrap_lines=True)
