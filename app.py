"""Entry of ``streamlit run app.py``: names the pages, nothing else."""

import streamlit as st

from catalog.paths import assets

st.set_page_config(page_title="LoRAFit", page_icon=str(assets() / "logo-mark.svg"), layout="wide")
st.logo(str(assets() / "logo.svg"), size="large")
st.navigation(
    [
        st.Page("ui/pages/plan.py", title="Plan", icon=":material/tune:", default=True),
        st.Page("ui/pages/compare.py", title="Compare", icon=":material/compare_arrows:"),
        st.Page("ui/pages/runs.py", title="Runs", icon=":material/show_chart:"),
        st.Page("ui/pages/accuracy.py", title="Accuracy", icon=":material/target:"),
        st.Page("ui/pages/learn.py", title="Learn", icon=":material/school:"),
    ],
    position="top",
).run()
