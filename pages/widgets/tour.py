"""The tour beside the pages: whose it is, the slim bar of the stop one is at, large type for a presenter."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from ema_core import tour
from ema_core.errors import EmaError
from pages.widgets.answer_asked import reviewer
from pages.widgets.chrome import by_user, errors, plain, reader
from pages.widgets.run_picker import run_info

PAGE = "pages/learn.py"
_KEY, _STOP, _PRESENTER, _GIVEN = "tour-key", "tour-stop", "presenter", "tour-key-given"
_browser = st.components.v2.component(
    "ema_tour_key", html="<span hidden></span>", js=Path(__file__).with_name("tour_key.js").read_text(encoding="utf-8"), isolate_styles=False
)  # fmt: skip
LARGE = """<style>
html { font-size: clamp(19px, 1.4vw, 30px); }
[data-testid="stSidebar"], [data-testid="stSidebarCollapsedControl"], [data-testid="stExpandSidebarButton"] { display: none; }
[data-testid="stMainBlockContainer"] { padding-top: 3.25rem; padding-bottom: 1rem; }
</style>"""
"""Streamlit measures in rem, its figures' type too, so the root's size is all that has to change."""


def person(stop: int = 0) -> str:
    """The key of whoever sits here: the session's, that of the address, else the one that the browser kept. ``stop``: the one on show."""
    if _KEY not in st.session_state:
        given = st.query_params.get("progress", "")
        st.session_state[_GIVEN] = tour.is_key(given)
        st.session_state[_KEY] = given if tour.is_key(given) else tour.new_key()
    key: str = st.session_state[_KEY]
    _browser(
        key="tour-browser", data={"key": key, "given": st.session_state.get(_GIVEN, False), "stop": stop}, on_key_change=_kept_by_browser, height=0
    )  # fmt: skip
    return key


def _kept_by_browser() -> None:
    kept = st.session_state["tour-browser"].get("key")
    if tour.is_key(kept) and not st.session_state.get(_GIVEN):
        st.session_state[_KEY] = kept


def begin(stop: int) -> None:
    """The tour is on, at this stop."""
    st.session_state[_STOP] = stop


def leave() -> None:
    st.session_state.pop(_STOP, None)
    st.query_params.pop("tour", None)


def at() -> int:
    """The stop that one is at, from 1; 0 while the tour is not on."""
    asked = str(st.query_params.get("tour", ""))
    if asked.isdecimal() and 1 <= int(asked) <= len(tour.read_stops()):
        begin(int(asked))
    return int(st.session_state.get(_STOP, 0))


def presenting() -> bool:
    """Whether type is large and the sidebar away."""
    if asked := st.query_params.get("presenter"):
        st.session_state[_PRESENTER] = asked == "1"
    return bool(st.session_state.get(_PRESENTER))


@by_user
def present(on: bool) -> None:
    st.session_state[_PRESENTER] = on
    if on:
        st.query_params["presenter"] = "1"
    else:
        st.query_params.pop("presenter", None)


def bar(page: str) -> None:
    """What the app shows above every page (``page``: its path in addresses): the tour's bar while the tour is on, a presenter's type."""
    with errors():
        if presenting():
            st.html(LARGE)
        if page == "learn":
            return
        if stop := at():
            _bar(stop, page.replace("-", "_"))
        elif presenting():
            st.button(
                "Leave the presenter view",
                key="presenter-leave",
                icon=":material/close_fullscreen:",
                on_click=present,
                args=(False,),
            )


def _bar(number: int, page: str) -> None:
    stops = tour.read_stops()
    stop, key = stops[number - 1], person()
    if page == stop.page and _as_asked(page) and page not in tour.read(key).visits.get(str(number), ()):
        tour.visited(key, number, page)
    over = str(number) in tour.read(key).done
    with st.container(border=True, horizontal=True, vertical_alignment="center", gap="small", key="tour-bar"):
        waits = any(check.kind == "verdicts" for check in stop.checks)
        with st.container(width="stretch", gap=None):
            (st.fragment(_line, run_every=3) if waits else _line)(number, key)
        more = over and number < len(stops)
        if more and st.button(f"Next stop: {stops[number].name}", key="tour-next", type="primary", icon=":material/arrow_forward:"):
            begin(number + 1)
            st.switch_page(PAGE, query_params={"stop": str(number + 1)})
        if st.button("Back to the tour", key="tour-back", type="secondary" if more else "primary", icon=":material/arrow_back:"):
            st.switch_page(PAGE, query_params={"stop": str(number)})
        st.button(
            "End the tour", key="tour-end", type="tertiary", icon=":material/close:", on_click=leave,
            help="Ends the tour. What you have done is kept; the page Learn goes on from there.",
        )  # fmt: skip


def _line(number: int, key: str) -> None:
    stops = tour.read_stops()
    stop = stops[number - 1]
    progress = tour.read(key)
    told = f"**Tour: stop {number} of {len(stops)}** · {plain(_filled(stop.short))}"
    for check in stop.checks:
        if check.kind == "verdicts":
            given = min(verdicts_of(key), int(check.number))
            told += f" · {given} of {check.number} given" + (", that will do" if given >= int(check.number) else "")
    if str(number) in progress.done:
        told = f":green[:material/check_circle:] **Tour: stop {number} of {len(stops)} is done**" + (
            "" if number < len(stops) else " · it was the last one"
        )
    elif stop.page in progress.visits.get(str(number), ()):
        told += " · opened; the questions wait on Learn"
    st.markdown(told)


def _filled(text: str) -> str:
    """A setting's name is on the tour's page, where it is known."""
    for name in set(tour.names_in(text)):
        text = text.replace("{" + name + "}", str(st.session_state.get(f"tour-says-{name}", "the setting")))
    return text


def _as_asked(page: str) -> bool:
    """Whether the page shows what the stop is about: on Fine-tune an undefended run, recorded or one's own."""
    if page != "fine_tune":
        return True
    return any(run_info(run_id).defense == "none" for run_id in st.query_params.get_all("run"))


def verdicts_of(key: str) -> int:
    """How many answers this person has given a verdict since the tour began."""
    progress = tour.read(key)
    name = reviewer()
    if name and name != progress.reviewer:
        progress = tour.reviews_as(key, name)
    try:
        rows = reader().said().rows
    except EmaError:
        return 0
    return sum(row.reviewer == progress.reviewer and bool(row.verdict) and row.time >= progress.started for row in rows)
