"""The dashboard: page list and shared chrome. Started by `ema app`."""

from pathlib import Path

import streamlit as st

from pages.widgets import person, recorded, tour, worker_panel

# An icon by name would come from a CDN.
ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" fill="none" stroke-width="3" stroke-linecap="round">
<path d="M4 6C10 26 20 26 28 27" stroke="#0f766e"/><path d="M4 6C12 14 20 14 28 15" stroke="#d55e00"/></svg>"""

st.set_page_config(page_title="EMA Lab", page_icon=ICON, layout="wide")
st.html(Path(__file__).parent / "pages" / "style.css")
inside = person.known()
page = st.navigation(
    [
        st.Page("pages/home.py", title="Home", icon=":material/home:", default=True),
        st.Page("pages/learn.py", title="Learn", icon=":material/school:", url_path="learn"),
        st.Page("pages/fine_tune.py", title="Fine-tune", icon=":material/tune:", url_path="fine-tune"),
        st.Page("pages/inside.py", title="Inside a run", icon=":material/neurology:", url_path="inside"),
        st.Page("pages/studies.py", title="Studies", icon=":material/grid_view:", url_path="studies"),
        st.Page("pages/assets.py", title="Vectors and scores", icon=":material/explore:", url_path="assets"),
        st.Page("pages/evaluate.py", title="Evaluate", icon=":material/fact_check:", url_path="evaluate"),
        st.Page("pages/chat.py", title="Chat", icon=":material/forum:", url_path="chat"),
        st.Page("pages/samples.py", title="Samples", icon=":material/manage_search:", url_path="samples"),
        st.Page("pages/judges.py", title="Judges", icon=":material/balance:", url_path="judges"),
        st.Page("pages/imports.py", title="Import and export", icon=":material/import_export:", url_path="imports"),
        st.Page("pages/compare.py", title="Compare", icon=":material/compare_arrows:", url_path="compare"),
        *([st.Page("pages/room.py", title="Room", icon=":material/groups:", url_path="room")] if person.enabled() else []),
    ],
    position="sidebar" if inside else "hidden",
    expanded=True,  # else the last of more than twelve pages hide behind "View more"
)
if person.gate(inside):
    recorded.unpack()
    person.here(page.title)
    with st.sidebar:
        person.sidebar()
        worker_panel.sidebar()
    with st.container(key="above-page"):  # one place, so that the page's own parts keep theirs when the bar comes or goes
        tour.bar(page.url_path)
    with person.in_turn():
        page.run()
