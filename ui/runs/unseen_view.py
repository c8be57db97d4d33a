"""Other rows for the evaluation of a run that learned all of its own: a file of the person's, or the run once more."""

from dataclasses import replace

import streamlit as st

from trainer.data.source import DataSource
from trainer.runs.contract import Run
from ui.parts import uploads
from ui.parts.links import AGAIN

HELD_OUT = "0.1"
"""Share of the rows that the next run is offered to hold out."""


def ask(run: Run) -> DataSource | None:
    """Say that a run held nothing out, offer the two ways out of it, and return the file that was given."""
    if run.parts:
        st.caption(
            "Its runs share their data, and one may have learned what another held out: only other rows can judge it. "
            f"On the command line: `python -m trainer evaluate {run.id} --data FILE`"
        )
    else:
        st.caption(
            "This run learned every row of its data, and a model must be judged by other rows: give a file of them, or "
            f"train again with some held out. On the command line: `python -m trainer evaluate {run.id} --data FILE`"
        )
        if st.button("Train again, 10% held out", icon=":material/content_cut:", key="hold out"):
            st.switch_page("ui/plan/page.py", query_params={AGAIN: run.id, "eval_split": HELD_OUT})
    upload = st.file_uploader(
        "Other rows, with the same columns as the run's data",
        type=list(uploads.KINDS),
        key=f"other rows of {run.id}",
        max_upload_size=uploads.MOST_BYTES // 2**20,
    )
    if upload is None:
        return None
    path = uploads.kept(upload, upload.name, uploads.folder())
    return replace(run.data, path=str(path), split="train", evaluation_split="", prompts=())
