"""Entry of ``streamlit run app.py``: the server and who it lets in; as Streamlit's script, the pages.

Streamlit imports this file once for the server, and runs it as ``__main__`` whenever a page is drawn.
"""

import streamlit as st

from specs.paths import REPO, assets
from ui.parts import given, notices
from ui.server.door import Door

# Streamlit draws no ring around a focused link of its navigation, and on a phone hides it behind a bare arrow. The
# name of an open menu it darkens, so that nobody can read it on a dark page.
_REACHED = """<style>
[data-testid="stTopNavLink"]:focus-visible, [data-testid="stSidebarNavLink"]:focus-visible {
    outline: 3px solid light-dark(#3D4FB5, #97A3F5); outline-offset: 1px; }
[data-testid="stExpandSidebarButton"] button, button[data-testid="stExpandSidebarButton"] { width: auto; }
button[kind="tertiary"][aria-expanded="true"] { color: light-dark(#3D4FB5, #97A3F5) !important; }
[data-testid="stExpandSidebarButton"]::after { content: "Menu"; font-size: 0.95rem; padding: 0 0.3rem; }
</style>"""
# Escape closes an open list; in a closed one it would also take away what was chosen, without a word.
_KEPT = """<script>
if (!window.keepsChoices) {
    window.keepsChoices = true;
    document.addEventListener("keydown", (pressed) => {
        const list = pressed.key === "Escape" && pressed.target.closest('[role="combobox"][aria-expanded="false"]');
        if (list && !list.closest('[role="dialog"]')) pressed.stopPropagation();
    }, true);
}
</script>"""


def pages() -> None:
    """Name the pages and draw the one that is asked for."""
    st.set_page_config(page_title="LoRAFit", page_icon=str(assets() / "logo-mark.svg"), layout="wide")
    st.logo(str(assets() / "logo.svg"), size="large")
    st.html(_REACHED)
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
    st.html(_KEPT, unsafe_allow_javascript=True)


if __name__ == "__main__":
    pages()
else:
    _door = Door()
    app = st.App(REPO / "app.py", middleware=_door.guards, lifespan=_door.opened)
