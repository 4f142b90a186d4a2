"""Learn: a tour of six stops over the real pages, each with a task and a check that it was done; a view for a presenter."""

from __future__ import annotations

import streamlit as st

from ema_core import tour
from pages.widgets import tour as bar
from pages.widgets import tour_stop
from pages.widgets.chrome import act, errors, header, notices, only_inside, plain
from pages.widgets.terms import glossary, term
from pages.widgets.tour_study import facts_here

LEAD = """A tour in six short stops, about half an hour in all: what emergent misalignment is, how it comes about, what helps against it, what that \
costs, and what the numbers do **not** say. Nothing has to be known before. Each stop has a task on a real page; a bar there leads back."""


def page() -> None:
    only_inside()
    stops, large = tour.read_stops(), bar.presenting()
    number = _asked(len(stops))
    key = bar.person(number)
    if not large:
        header("Learn", LEAD)
    notices("learn")
    with errors():
        facts, why = facts_here()
        _remember(facts)
        done = set(tour.read(key).done)
        _steps(stops, number, done, large)
        if facts is None:
            nothing_yet(why)
        tour_stop.show(number, key, facts, large)
        if not large:
            _walk(number, len(stops), large, str(number) in done)
            _around(key, facts, len(done), stops)


def _asked(last: int) -> int:
    """The stop that the address names, else the one that one is at."""
    text = str(st.query_params.get("stop", ""))
    return min(max(int(text), 1), last) if text.isdecimal() else bar.at() or 1


def _remember(facts: tour.Facts | None) -> None:
    """Names that the bar on other pages speaks of."""
    for name in ("price", "lowest"):
        if facts and name in facts.texts:
            st.session_state[f"tour-says-{name}"] = facts.texts[name]


def _steps(stops: tuple[tour.Stop, ...], number: int, done: set[str], large: bool) -> None:
    """Where one is, what is done, and the way to any stop."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="learn-steps"):
        if large:
            st.markdown(f"**Stop {number} of {len(stops)}**", width="stretch")
            _walk(number, len(stops), large, str(number) in done)
            _presenter(large)
        else:
            for place, stop in enumerate(stops, 1):
                st.button(
                    f"{place}. {stop.name}", key=f"learn-stop-{place}", type="primary" if place == number else "secondary",
                    icon=":material/check_circle:" if str(place) in done else ":material/radio_button_unchecked:",
                    on_click=_open, args=(place,), help=f"{'Done' if str(place) in done else 'Not done yet'}; about {stop.minutes} minutes",
                )  # fmt: skip
    if not large:
        with st.container(horizontal=True, vertical_alignment="center", gap="medium", key="learn-progress"):
            st.progress(len(done) / len(stops), text=f"{len(done)} of {len(stops)} stops done", width="stretch")
            _presenter(large)


def _presenter(large: bool) -> None:
    st.session_state["learn-presenter"] = large
    st.toggle(
        "Presenter view", key="learn-presenter", on_change=lambda: bar.present(st.session_state["learn-presenter"]),
        help="Large type, no sidebar, one stop a screen; the arrow keys turn. It holds on the other pages, too, until it is left.",
    )  # fmt: skip


def _open(number: int) -> None:
    st.query_params["stop"] = str(number)


def nothing_yet(why: str) -> None:
    st.info(
        f"{plain(why)} The tour can be read without one; its questions wait for its numbers. The demo on Home makes two runs and evaluates them.",
        icon=":material/info:",
    )
    st.page_link("pages/home.py", label="Go to Home", icon=":material/home:")


def _walk(number: int, last: int, large: bool, done: bool) -> None:
    with st.container(horizontal=True, width="content" if large else "stretch", key="learn-walk"):
        st.button(
            "Previous stop", key="learn-previous", icon=":material/chevron_left:", disabled=number == 1, on_click=_open, args=(number - 1,),
            shortcut="Left" if large else None,
        )  # fmt: skip
        st.button(
            "Next stop", key="learn-next", icon=":material/chevron_right:", disabled=number == last, on_click=_open, args=(number + 1,),
            shortcut="Right" if large else None, type="primary" if done and number < last else "secondary",
        )  # fmt: skip


def _around(key: str, facts: tour.Facts | None, done: int, stops: tuple[tour.Stop, ...]) -> None:
    """What the numbers rest on, the words of the field, and beginning again."""
    if done == len(stops):
        st.success(
            "All six stops are done. From here: another data set or strength on Fine-tune, your own questions in Chat.",
            icon=":material/flag:",
        )
    if facts:
        what = f"The recorded study {plain(facts.recorded)}" if facts.recorded else "A study of this home"
        st.caption(
            f"{what}: model {plain(facts.texts['model'])}, {len(facts.settings)} settings, {len(facts.runs)} runs. Margins: no judge; "
            f"brackets: 95 % intervals over topics, for questions like these. Answers: judge {plain(facts.judge)}.",
            help=term("interval"),
        )
    with st.expander("Words of the field", key="learn-terms"):
        glossary()
    with st.popover("Begin again", icon=":material/restart_alt:", key="learn-reset-ask"):
        st.markdown("Forgets what you answered and opened on this tour. Verdicts on answers stay.")
        st.button("Forget my progress", key="learn-reset", on_click=act, args=(_reset, key, stops))


def _reset(key: str, stops: tuple[tour.Stop, ...]) -> None:
    tour.reset(key)
    bar.leave()
    for number, stop in enumerate(stops, 1):
        for place in range(len(stop.checks)):
            st.session_state.pop(f"learn-{number}-{place}", None)
    st.query_params["stop"] = "1"


if __name__ == "__main__":
    page()
