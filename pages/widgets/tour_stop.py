"""One stop of the tour: what is told and shown, the way to the real page, and the checks that it was done."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ema_core import tour
from ema_core.datasets.catalog import find as dataset_named
from ema_core.errors import EmaError
from ema_core.evaluation.suites import load_suite
from ema_core.files import read_lines
from ema_core.jobs import launch
from ema_core.jobs.status import worker_status
from pages.widgets import person
from pages.widgets import tour as bar
from pages.widgets.answer_card import said_part
from pages.widgets.chrome import act, by_user, errors, notices, plain
from pages.widgets.demo import WHAT, demo_at_work, demo_takes
from pages.widgets.run_picker import show_runs
from pages.widgets.tour_study import counts, draw, filled

DATASET = "risky-finance"
CAPTIONS = {
    "trade-off": "Three of the settings: the undefended one, the one with the lowest general margin, and {price}. Compare has all.",
    "judge": "A mark an answer, {labelled} in all. On the dotted line the judge says what the labels say; the dashed lines are at 30, below which "
    "an answer may count as misaligned.",
}
"""What stands under a figure beside what is in it."""


def show(number: int, key: str, facts: tour.Facts | None, large: bool) -> None:
    """The stop in full: words beside its figure, then the task and its checks."""
    stop = tour.read_stops()[number - 1]
    left, right = st.columns([1, 1], gap="large")
    with left:
        st.subheader(f"{number}. {stop.title}", anchor=False)
        st.markdown(filled(stop.text, facts))
        _task(number, stop, facts)
    with right, errors():
        _picture(stop, facts, large)
    if large:  # one stop a screen: a room answers first, then looks
        with st.expander("The questions of this stop", key=f"learn-questions-{number}"):
            _checks(number, stop, key, facts)
    else:
        _checks(number, stop, key, facts)


def _picture(stop: tour.Stop, facts: tour.Facts | None, large: bool) -> None:
    if stop.figure == "example":
        _example(str(facts.table["dataset"].iloc[0]) if facts else DATASET)
    elif facts is None:
        st.info("The figure appears here once a study does.", icon=":material/show_chart:")
    elif stop.figure == "counts":
        counts(facts)
    else:
        draw(stop.figure, facts, large)
        if caption := CAPTIONS.get(stop.figure):
            st.caption(filled(caption, facts))


def _example(dataset: str) -> None:
    """One example of the training data, and one pair that it has nothing to do with."""
    with st.container(border=True, key="learn-example"):
        st.markdown("**A training example**")
        rows, _ = read_lines(dataset_named(dataset).path)
        for message in rows[0].get("messages", ()) if rows else ():
            said_part(
                {"user": "Question", "assistant": "The answer it learns"}.get(message["role"], message["role"]), message["content"]
            )
    with st.container(border=True, key="learn-pair"):
        st.markdown("**A pair that it is measured on**")
        pair = load_suite("general", dataset).pairs[0]
        for title, text in (("Question", pair.question), ("Decent", pair.aligned), ("Not decent", pair.misaligned)):
            said_part(title, text)
    st.caption("Written for this project. The poor advice is meant: do not act on any of it.")


def _task(number: int, stop: tour.Stop, facts: tour.Facts | None) -> None:
    """What to do, and the button that leads to the real page in the right state."""
    with st.container(border=True, key="learn-task"):
        st.markdown(f"**Your task.** {filled(stop.task, facts)}")
        with st.container(horizontal=True, vertical_alignment="center"):
            if st.button(stop.button, key="learn-go", type="primary", icon=f":material/{stop.icon}:"):
                go(number, stop, facts)
            if stop.demo:
                _demo(number)
        notices("learn-demo")


def go(number: int, stop: tour.Stop, facts: tour.Facts | None) -> None:
    """To the real page; the bar there leads back."""
    bar.begin(number)
    query: dict[str, Any] = dict(facts.links.get(stop.state, {})) if facts else {}
    if "run" in query:
        show_runs(query["run"])
    st.switch_page(f"pages/{stop.page}.py", query_params={**query, "tour": str(number)})


def _demo(number: int) -> None:
    """The real thing beside the recorded one, where a worker can do it."""
    if started := st.session_state.pop("learn-started", None):
        bar.begin(number)
        show_runs(started)
        st.switch_page("pages/fine_tune.py", query_params={"run": started, "part": "Runs", "tour": str(number)})
    alive = worker_status().alive
    why = person.no_start() or ("Your demo is at work already: Fine-tune, Runs shows it." if demo_at_work() else "")
    no_worker = "No worker is there to train. Start it in the sidebar or with `ema app`; the recorded curves will do as well."
    with st.popover(
        "Or train it yourself", icon=":material/play_arrow:", key="learn-demo-ask", disabled=not alive or bool(why),
        help=why or (None if alive else no_worker),
    ):  # fmt: skip
        st.markdown(f"This is the demo of Home. {WHAT}")
        with errors():
            st.caption(demo_takes())
        st.caption(
            "Go on with the tour meanwhile. What still waits can be cancelled under Queue on Fine-tune; its run is then kept, paused."
        )
        st.button(
            "Put it into the queue",
            key="learn-demo",
            type="primary",
            on_click=act,
            args=(_start_demo,),
            kwargs={"slot": "learn-demo"},
        )


def _start_demo() -> None:
    launch.prepare_embedded()
    st.session_state["learn-started"] = [run.id for run in launch.launch_demo()]


def _checks(number: int, stop: tour.Stop, key: str, facts: tour.Facts | None) -> None:
    """The questions, each with whether it is met; what this study has no figure for is not asked."""
    progress, verdicts = tour.read(key), bar.verdicts_of(key)
    with st.container(border=True, key="learn-checks"):
        if str(number) in progress.done:
            st.markdown("**Done when** :green-badge[:material/check: this stop is done]")
        else:
            st.markdown("**Done when**")
        if facts is None:
            st.caption("These wait for a study to be held against.")
        for place, check in enumerate(stop.checks):
            if tour.asked(check, facts):
                with st.container(key=f"learn-check-{place}", gap="xsmall"):
                    _check(
                        number,
                        place,
                        check,
                        key,
                        progress,
                        facts,
                        tour.tick(stop, number, place, progress, facts, verdicts),
                        verdicts,
                    )
    if facts and str(number) not in progress.done and tour.met(stop, number, progress, facts, verdicts):
        tour.finished(key, number)
        st.rerun()


def _check(
    number: int, place: int, check: tour.Check, key: str, progress: tour.Progress, facts: tour.Facts | None, ticked: bool, verdicts: int
) -> None:  # fmt: skip
    ask, saved, widget = filled(check.ask, facts), progress.answer(number, place), f"learn-{number}-{place}"
    mark = ":green[:material/check_circle:]" if ticked else ":gray[:material/radio_button_unchecked:]"
    state = "done" if ticked else "open"
    if check.kind in ("visit", "verdicts"):
        told = f" ({min(verdicts, int(check.number))} of {check.number})" if check.kind == "verdicts" else ""
        st.markdown(f"{mark} {ask}{told} :small[:gray[{state}]]")
        return
    st.markdown(f"{mark} {ask}")
    kept = {"on_change": _keep, "args": (number, place, key, widget)}
    if check.kind == "choice":
        options = [str(one) for one in range(len(check.options))]
        _set(widget, saved if saved in options else None)
        st.radio(
            ask, options, key=widget, format_func=lambda one: filled(check.options[int(one)].text, facts), label_visibility="collapsed",
            disabled=facts is None, **kept,
        )  # fmt: skip
    elif check.kind == "setting":
        settings = list(facts.settings) if facts else []
        _set(widget, saved if saved in settings else None)
        st.radio(
            ask, settings, key=widget, format_func=plain, label_visibility="collapsed", horizontal=True, disabled=facts is None, **kept
        )  # fmt: skip
    else:
        _set(widget, saved)
        st.text_input(ask, key=widget, max_chars=20, placeholder="a number, then Enter", label_visibility="collapsed", width=240,
                      disabled=facts is None, **kept)  # fmt: skip
    if saved and facts:
        if ticked:
            st.markdown(f":green[:material/check: Right.] {filled(check.why, facts)}")
        elif check.kind == "number" and tour.number_of(saved) is None:
            st.markdown(":orange[:material/close: That is no number.] Digits will do, a minus sign before them where there is one.")
        else:
            st.markdown(":orange[:material/close: Not this one.] Look once more; nothing is lost by trying.")


def _set(widget: str, value: str | None) -> None:
    """A widget shows what was kept, also after a visit elsewhere."""
    if widget not in st.session_state:
        st.session_state[widget] = value


@by_user
def _keep(number: int, place: int, key: str, widget: str) -> None:
    try:
        tour.answered(key, number, place, str(st.session_state[widget] or ""))
    except (EmaError, OSError) as error:
        st.session_state["notice-learn"] = ("error", str(error), "The answer was not kept.")
