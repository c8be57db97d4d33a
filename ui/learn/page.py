"""Learn: the ideas behind the plan, each with something to play with and its sources."""

import streamlit as st

from ui.learn import start
from ui.learn.lessons import LESSONS
from ui.parts import notices

left, right = st.columns([3, 9], gap="large")
title = left.radio("Lesson", list(LESSONS), key="lesson", bind="query-params")
with right, notices.errors():
    st.title(title or next(iter(LESSONS)))
    begun = start.start()
    start.tell(begun)
    LESSONS[title or next(iter(LESSONS))](begun)
