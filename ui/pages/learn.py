"""Learn: the ideas behind the plan, each with something to move and its source."""

import streamlit as st

from ui import notices
from ui.lessons import LESSONS

left, right = st.columns([3, 9], gap="large")
title = left.radio("Lesson", list(LESSONS), key="lesson", bind="query-params")
with right, notices.errors():
    st.title(title or next(iter(LESSONS)))
    LESSONS[title or next(iter(LESSONS))]()
