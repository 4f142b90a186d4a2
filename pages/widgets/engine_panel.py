"""Is the engine there, and what can it do? Torch-free; the page never holds a model."""

from __future__ import annotations

import streamlit as st

from ema_core.errors import EmaError
from ema_core.generation.engine import Capabilities, Engine, engine_status
from ema_core.jobs import launch
from ema_core.jobs.status import worker_status
from ema_core.settings import settings
from pages.widgets.chrome import act, errors, notices, plain

OURS = Capabilities(scale=True, steps=True, judge=True, identity=True, persona=True, divergence=True)


def capabilities() -> Capabilities:
    """Our own engine's, running or not; another server is asked, and none is assumed of one that cannot be reached."""
    url = settings().engine_url
    return _asked(url) if url else OURS


@st.cache_data(ttl=20, show_spinner=False)
def _asked(url: str) -> Capabilities:
    try:
        return Engine.here().capabilities()
    except EmaError as error:
        return Capabilities(why_not=error.message)


@st.cache_data(ttl=20, show_spinner=False)
def served(url: str) -> tuple[list[str], str]:
    """The models of another server, and why there are none."""
    try:
        return Engine.here().models(), ""
    except EmaError as error:
        return [], f"{error.message} {error.hint}".strip()


@st.fragment(run_every=2)
def engine_line() -> None:
    """One line: who answers, or a button that starts it; and what slows it."""
    with errors():
        if url := settings().engine_url:
            st.caption(f"{plain(url)} answers (EMA\\_ENGINE\\_URL); {plain(capabilities().why_not)}.".replace("; .", "."))
            return
        there = engine_status().alive
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
            st.caption("Engine", width="content")
            st.badge("ready" if there else "not running", color="green" if there else "red")
            worker = worker_status()
            if there and worker.alive and worker.job:
                st.caption("The worker is at work too, on the same processor: answers come slower.", width="content")
            if not there:
                st.button(
                    "Start the engine", key="start-engine", on_click=act, args=(launch.start_engine,),
                    kwargs={"slot": "engine", "done": "The engine is starting; that takes some seconds. You can ask already."},
                    help="`ema app` starts it, and brings it back when it has died.",
                )  # fmt: skip
        notices("engine")
