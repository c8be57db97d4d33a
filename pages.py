"""The app: names the pages, nothing else."""

import streamlit as st

from specs.paths import assets
from ui.parts import given

st.set_page_config(page_title="LoRAFit", page_icon=str(assets() / "logo-mark.svg"), layout="wide")
st.logo(str(assets() / "logo.svg"), size="large")
given.take()
unused = st.container()
st.navigation(
    [
        st.Page("ui/plan/page.py", title="Plan", icon=":material/tune:", default=True),
        st.Page("ui/compare/page.py", title="Compare", url_path="compare", icon=":material/compare_arrows:"),
        st.Page("ui/runs/page.py", title="Runs", url_path="runs", icon=":material/show_chart:"),
        st.Page("ui/accuracy/page.py", title="Accuracy", url_path="accuracy", icon=":material/target:"),
        st.Page("ui/learn/page.py", title="Learn", url_path="learn", icon=":material/school:"),
    ],
    position="top",
).run()
with unused:
    given.tell()
