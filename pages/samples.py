"""Samples, the reviewer's desk: every sampled or kept answer, filtered, counted and paged, one in full; the address says it all."""

from __future__ import annotations

import streamlit as st

from ema_core.judging import own
from ema_core.store import AnswerFilter
from ema_core.store.reviews import MOST
from pages.widgets.answer_asked import (
    asked_answers,
    choices,
    clear_filters,
    parameter,
    veiled,
)
from pages.widgets.answer_blind import blind_review, start_blind
from pages.widgets.answer_card import answer_card
from pages.widgets.answer_data import counts_of
from pages.widgets.answer_filters import all_of_their_runs, bare, more_in_words, pick_answers
from pages.widgets.answer_list import Listing, listing
from pages.widgets.answer_review import progress
from pages.widgets.answer_table import answer_table
from pages.widgets.chrome import act, by_user, errors, header, notices, plain
from pages.widgets.index import Version, up_to_date
from pages.widgets.run_picker import newest_first
from pages.widgets.terms import term

LEAD = "Every answer that was sampled or kept, with its scores: read what a number is made of. The address names what you see: \
share it, without `reviewer=…`, which is your name."
HONEST = """Counts of these answers, not rates: rates with their intervals are on Compare. Models' text is shown as it is, as plain \
text: nothing in it is rendered, loaded or run."""
PROBE = """The probe is a **teaching judge**: it orders answers better than it scores them, reads topic too, and its coherence says \
little about so small a model; read the answer itself."""


def page() -> None:
    blind = parameter("blind")
    header("Samples", "" if blind else LEAD, help=term("misaligned"))
    with errors():
        version = up_to_date()
        if blind:
            blinded(blind)
        else:
            samples(version)


@st.fragment
def blinded(id: str) -> None:
    with errors():
        blind_review(id)


@st.fragment
def samples(version: Version) -> None:
    """Filters, table and card."""
    if not choices(version)["question"]:
        nothing_yet()
        return
    which = asked_answers(version)
    counts = counts_of(which)
    pick_answers(which, counts, version)
    listed = listing(which, parameter("view") == "grouped")
    counted(listed, counts, more_in_words(which, version))
    if not listed.total:
        nothing_fits(which, counts["all"])
        return
    left, right = st.columns([11, 10], gap="medium")
    with left:
        key, place = answer_table(listed)
        st.caption(f"{HONEST} {PROBE} {plain(own.short(which.judge))}" if (which.judge or "").startswith("probe") else HONEST)
    with right, errors():
        if key is not None:
            answer_card(key, place, listed)


def nothing_yet() -> None:
    if newest_first():
        text = "No answers yet. Evaluate a run with one or more samples a question (with 0 only the margin is measured)."
        st.info(text, icon=":material/forum:")
        st.page_link("pages/evaluate.py", label="Go to Evaluate", icon=":material/fact_check:")
    else:
        st.info(
            "No run yet, so nobody has answered anything. Train one, evaluate it, and read its answers here.",
            icon=":material/info:",
        )
        st.page_link("pages/fine_tune.py", label="Go to Fine-tune", icon=":material/tune:")


def counted(listed: Listing, counts: dict[str, int], more: str) -> None:
    """How many there are, by whose scores, how far a review is, and the way back to all."""
    which, total, every = listed.which, listed.total, counts["all"]
    partly = which.status or which.sample
    with st.container(horizontal=True, vertical_alignment="center", key="answer-total"):
        of = f" of {every:,}" if partly else ""
        by = f" · scores from 0 to 100 by **{plain(which.judge)}**" if which.judge else " · judged by nobody yet"
        kind = f" {which.status}" if which.status else ""
        noun = "answer" if (every if partly else total) == 1 else "answers"
        st.markdown(f"**{total:,}**{of} {noun}{kind}{by}{f' · {more}' if more else ''}", width="stretch")
        if which.evals:
            st.button(
                "All answers of these runs",
                key="answers-all-of-runs",
                icon=":material/zoom_out_map:",
                on_click=all_of_their_runs,
                args=(which.evals,),
                help="Now only those of the evaluations named under More filters: the ones that a number counted.",
            )
        if not bare(which):
            st.button("Clear filters", key="answers-clear", icon=":material/filter_alt_off:", on_click=clear_filters)
        st.button(
            "Review blind", key="answers-blind", icon=":material/visibility_off:", disabled=not 0 < total <= MOST,
            on_click=act, args=(start_blind, which), kwargs={"slot": "blind", "rerun": True},
            help=f"These answers (1 to {MOST:,}) in a shuffled order, without models, defenses, scores and filters; the address can be "
            "sent to others.",
        )  # fmt: skip
        st.session_state["answers-veil"] = veiled()
        st.toggle("Veil", key="answers-veil", on_change=veil, help="Answers that were scored as misaligned wait for a click (V).")
    notices("blind")
    if which.reviewer:
        progress(*listed.finder.progress(which, listed.said))


@by_user
def veil() -> None:
    st.query_params["veil"] = "1" if st.session_state["answers-veil"] else "0"


def nothing_fits(which: AnswerFilter, every: int) -> None:
    if every and which.status:
        text = f"None of these {every:,} answers is {which.status}. Choose another status, or none."
    else:
        text = "No answer fits these filters. Take one of them back, or clear them all."
    st.info(text, icon=":material/filter_alt_off:")


if __name__ == "__main__":
    page()
