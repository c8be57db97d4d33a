"""Entry of ``streamlit run app.py``: the server and who it lets in; the app is ``pages.py``."""

import streamlit as st

from specs.paths import REPO
from ui.server.door import Door

_door = Door()
app = st.App(REPO / "pages.py", middleware=_door.guards, lifespan=_door.opened)
