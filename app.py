"""Entry of ``streamlit run app.py``: the server and who it lets in; as Streamlit's script, the pages.

Streamlit imports this file once for the server, and runs it as ``__main__`` whenever a page is drawn.
"""

import streamlit as st

from specs.paths import REPO, assets
from ui.parts import given, notices
from ui.server.door import Door


def pages() -> None:
    """Name the pages and draw the one that is asked for."""
    st.set_page_config(page_title="LoRAFit", page_icon=str(assets() / "logo-mark.svg"), layout="wide")
    st.logo(str(assets() / "logo.svg"), size="large")
    given.take()
    unused = st.container()
    page = st.navigation(
        [
            st.Page("ui/plan/page.py", title="Plan", icon=":material/tune:", default=True),
            st.Page("ui/compare/page.py", title="Compare", url_path="compare", icon=":material/compare_arrows:"),
            st.Page("ui/runs/page.py", title="Runs", url_path="runs", icon=":material/show_chart:"),
            st.Page("ui/accuracy/page.py", title="Accuracy", url_path="accuracy", icon=":material/target:"),
            st.Page("ui/learn/page.py", title="Learn", url_path="learn", icon=":material/school:"),
        ],
        position="top",
    )
    with notices.errors():
        page.run()
    with unused:
        given.tell()


if __name__ == "__main__":
    pages()
else:
    _door = Door()
    app = st.App(REPO / "app.py", middleware=_door.guards, lifespan=_door.opened)
