"""The script that Streamlit runs: page configuration and navigation."""

from __future__ import annotations

import streamlit as st

from fer_lightning.app import faces_page, runs_page
from fer_lightning.app.cards import STYLE

st.set_page_config(page_title="Facial expressions", page_icon=":material/face:", layout="wide")
st.html(STYLE)
pages = [
    st.Page(faces_page.page, title="Faces", icon=":material/face:", url_path="faces", default=True),
    st.Page(runs_page.page, title="Results", icon=":material/leaderboard:", url_path="results"),
]
st.navigation(pages, position="top").run()
