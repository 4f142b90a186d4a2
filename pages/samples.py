"""Samples: every sampled or kept answer, filtered, paged, one in full beside what others said; the address says it all."""

from __future__ import annotations

import streamlit as st

from ema_core.store import AnswerFilter
from pages.widgets.answer_card import answer_card
from pages.widgets.answer_data import counts_of
from pages.widgets.answer_filters import all_of_their_runs, choices, clear_filters, more_in_words, pick_answers
from pages.widgets.answer_table import answer_table
from pages.widgets.chrome import errors, header, plain
from pages.widgets.index import Version, up_to_date
from pages.widgets.run_picker import newest_first

LEAD = "Every answer that was sampled or kept, with its scores: read what a number is made of. The address names what you see: share it."
HONEST = """Counts of these answers, not rates: rates with their intervals are on Compare. Models' text is shown as it is, as plain \
text: nothing in it is rendered, loaded or run."""
PROBE = """The probe is a **teaching judge**: it orders answers better than it scores them, reads topic too, and its coherence says \
little about so small a model; read the answer itself."""


def page() -> None:
    header("Samples", LEAD)
    with errors():
        samples(up_to_date())


@st.fragment
def samples(version: Version) -> None:
    """Filters, table and card."""
    if not choices(version)["question"]:
        nothing_yet()
        return
    which = pick_answers(version)
    counts = counts_of(which, version)
    total = counts[which.status or "all"]
    counted(which, total, counts["all"], more_in_words(which, version))
    if not total:
        nothing_fits(which, counts["all"])
        return
    left, right = st.columns([6, 5], gap="medium")
    with left:
        key, place = answer_table(which, total, version)
        st.caption(f"{HONEST} {PROBE}" if (which.judge or "").startswith("probe") else HONEST)
    with right, errors():
        answer_card(key, place, total, which, version)


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


def counted(which: AnswerFilter, total: int, every: int, more: str) -> None:
    """How many there are, by whose scores, and the way back to all."""
    with st.container(horizontal=True, vertical_alignment="center", key="answer-total"):
        of = f" of {every:,}" if which.status else ""
        by = f" · scores from 0 to 100 by **{plain(which.judge)}**" if which.judge else " · judged by nobody yet"
        kind = f" {which.status}" if which.status else ""
        noun = "answer" if (every if which.status else total) == 1 else "answers"
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
        if which != AnswerFilter(judge=which.judge, order=which.order):
            st.button("Clear filters", key="answers-clear", icon=":material/filter_alt_off:", on_click=clear_filters)


def nothing_fits(which: AnswerFilter, every: int) -> None:
    if every and which.status:
        text = f"None of these {every:,} answers is {which.status}. Choose another status, or none."
    else:
        text = "No answer fits these filters. Take one of them back, or clear them all."
    st.info(text, icon=":material/filter_alt_off:")


if __name__ == "__main__":
    page()
