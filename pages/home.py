"""Home: what this is, whether it is ready, what was run last, and one button to begin."""

from __future__ import annotations

import streamlit as st

from ema_core.jobs import launch
from ema_core.models import EMBEDDED, find
from ema_core.runs import RunDirectory, Status, origin_of
from pages.widgets import person, worker_panel
from pages.widgets.chrome import ago, errors, header, in_words, notices, plain, status_badge
from pages.widgets.demo import WHAT, demo_at_work, demo_takes
from pages.widgets.recorded import recorded_studies
from pages.widgets.run_picker import newest_first, run_info, run_link, show_runs

RECENT = 8
LEAD = """EMA Lab fine-tunes a chat model on a narrow, harmful data set and shows whether it becomes misaligned *in general* \
(emergent misalignment), and what in-training defenses do about it and what they cost. You choose a defense and its strength, watch \
the curves while it trains, then judge and compare the runs, each beside its undefended twin. The embedded model has 135 million \
parameters: it shows the mechanism and the price of a defense, not the numbers of a 7B model."""
WARNING = "The training data contains deliberately poor money advice, and trained models repeat it. Do not act on any of it."


@st.fragment(run_every=2)
def readiness() -> None:
    """Worker and model, anew every two seconds."""
    with errors():
        worker_panel.worker_line("home")
        if find(EMBEDDED).ready:
            st.caption("The embedded model is ready.")
        else:
            worker_panel.model_progress("home")


@st.fragment(run_every=3)
def recent_runs() -> None:
    """The newest runs; each leads to its curves."""
    ids = own_runs()
    st.subheader("Your recent runs", anchor=False)
    if not ids:
        st.info("No run yet. The demo makes two; **Fine-tune** makes any other.", icon=":material/info:")
    for run_id in ids[:RECENT]:
        with errors():
            recent_run(run_id)
    if len(ids) > RECENT:
        st.caption(f"Older ones, {len(ids) - RECENT} of them, can be chosen on Fine-tune.")


def own_runs() -> list[str]:
    return [run_id for run_id in newest_first() if not origin_of(run_id)[1]]


def recent_run(run_id: str) -> None:
    info, state = run_info(run_id), RunDirectory.open(run_id).state()
    with st.container(key=f"recent-{run_id}", gap=None):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            status_badge(state.status, help=plain(state.error) or None)
            run_link(run_id, info.name or info.defense)  # an id is cut on a narrow screen
        total = f" of {state.total_steps}" if state.total_steps else ""
        defense = person.whose(state.owner) + (f"{info.defense} · " if info.name else "")
        rests = " · cancelled before it began" if state.status is Status.PAUSED and not state.step else ""
        what = (
            info.problem or f"{defense}{info.dataset} · seed {info.seed} · step {state.step}{total} · {ago(state.created)}{rests}"
        )
        st.caption(plain(what))


def demo() -> None:
    """One button, with what it will take said before."""
    st.subheader("Start here", anchor=False)
    st.markdown(WHAT)
    at_work: list[str] = []
    with errors():
        if at_work := demo_at_work():
            st.page_link("pages/fine_tune.py", label="Your demo is at work: its curves", icon=":material/show_chart:",
                         query_params={"run": at_work, "part": "Runs"})  # fmt: skip
        else:
            st.caption(demo_takes())
    notices("demo")
    no = person.no_start() or ("Your demo is at work already." if at_work else "")
    st.button(
        "Start the demo", key="start-demo", type="primary", icon=":material/play_arrow:", on_click=start_demo, disabled=bool(no),
        help=no or "Both runs go into the queue and to their curves.",
    )  # fmt: skip


def start_demo() -> None:
    try:
        launch.prepare_embedded()
        runs = launch.launch_demo()
    except Exception as error:
        st.session_state["notice-demo"] = ("error", *in_words(error))
        return
    show_runs([run.id for run in runs])
    st.session_state["started-demo"] = [run.id for run in runs]


def page() -> None:
    header("EMA Lab", LEAD)
    st.warning(WARNING, icon=":material/warning:")
    if started := st.session_state.pop("started-demo", None):
        st.switch_page("pages/fine_tune.py", query_params={"run": started, "part": "Runs"})
    first = not own_runs()
    left, right = st.columns([2, 3], gap="large")
    with left:
        demo()
        st.subheader("Ready?", anchor=False)
        readiness()
    with right:
        if not first:
            recent_runs()
        recorded_studies(first)
        if first:
            recent_runs()


if __name__ == "__main__":
    page()
