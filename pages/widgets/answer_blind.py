"""A blind review: questions and answers in a shuffled order, and nothing that says who gave them or what a judge said.

Whatever a page sends can be read in the browser, so nothing but texts, the reviewer's own verdicts and the review's own names of answers
is put on it: no key, address, help or label comes from a run, an evaluation or a score.
"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from ema_core.store import AnswerFilter, AnswerKey, BlindReview
from pages.widgets.answer_asked import anew, key_of, parameter, reviewer, veiled
from pages.widgets.answer_card import asked_part, said_part
from pages.widgets.answer_data import KEY
from pages.widgets.answer_review import notes_bar, progress, verdict_bar
from pages.widgets.answer_table import short
from pages.widgets.chrome import by_user, reader

PAGE = 15
LEAD = "A **blind review**: who gave an answer, and what any judge or other person said of it, is not shown and not sent here."


def blind_review(id: str) -> None:
    review = BlindReview.open(id)
    rows = reader().answers_named(review.keys, AnswerFilter(reviewer=reviewer()))
    if rows.empty:
        st.info("None of the answers of this review is there any more.", icon=":material/search_off:")
        return
    keys = [AnswerKey(*key) for key in rows[KEY].itertuples(index=False)]
    names = [review.name(key) for key in keys]
    place = names.index(parameter("answer")) if parameter("answer") in names else _first(rows)
    st.markdown(LEAD)
    if reviewer():
        progress(int((rows["mine"] != "").sum()), len(rows))
    left, right = st.columns([6, 5], gap="medium")
    with left:
        _table(rows, names, place)
    with right:
        _card(rows.iloc[place], keys, names, place)


def _first(rows: pd.DataFrame) -> int:
    """Where to begin: at the first without a verdict of mine."""
    open_ = (rows["mine"] == "").to_numpy().nonzero()[0]
    return int(open_[0]) if len(open_) else 0


def _table(rows: pd.DataFrame, names: list[str], place: int) -> None:
    page, pages = place // PAGE, -(-len(rows) // PAGE)
    here = rows.iloc[page * PAGE : (page + 1) * PAGE]
    view = pd.DataFrame(
        {
            "number": range(page * PAGE + 1, page * PAGE + 1 + len(here)),
            "mine": list(here["mine"]),
            "answer": ["" if veiled() else short(text) for text in here["answer"]],
            "question": [short(text) for text in here["question"]],
        }
    )
    key = key_of("blind-table")
    both = st.container(gap=None)
    with (both.container(), both.container())[st.session_state.get("blind-table", 0) % 2]:
        st.dataframe(
            view, hide_index=True, key=key, height=35 * (len(view) + 1) + 3, selection_mode="single-row",
            column_config={
                "number": st.column_config.NumberColumn("No.", width=50), "mine": st.column_config.TextColumn("My verdict", width=96),
                "answer": st.column_config.TextColumn("Answer", width=330), "question": st.column_config.TextColumn("Question", width=260),
            },
            on_select=lambda: _picked(key, names, page),
            selection_default={"selection": {"rows": [place - page * PAGE]}},
        )  # fmt: skip
    pager = key_of("blind-page")
    st.pagination(
        pages,
        default=page + 1,
        key=pager,
        max_visible_pages=5,
        on_change=lambda: _open(names[(st.session_state[pager] - 1) * PAGE]),
    )


def _card(row: pd.Series, keys: list[AnswerKey], names: list[str], place: int) -> None:
    with st.container(border=True, key="blind-card"):
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="blind-walk"):
            st.markdown(f"**{place + 1:,} of {len(keys):,}**", width="stretch")
            for label, key, to in (("Previous", "P", place - 1), ("Next", "N", place + 1)):
                there = 0 <= to < len(keys)
                st.button(
                    label, key=f"blind-{label.lower()}", shortcut=key, disabled=not there, on_click=_open,
                    args=(names[to] if there else "",),
                )  # fmt: skip
        following = names[min(place + 1, len(names) - 1)]

        verdict_bar(keys[place], lambda: _open(following), blind=True)
        asked_part(row.to_dict())
        seen = names[place] in st.session_state.get("unveiled", ())
        # all are veiled alike: a veil over some would tell their scores
        if veiled() and not seen:
            st.button("Show the answer", key="blind-unveil", shortcut="V", icon=":material/visibility:", on_click=_unveil, args=(names[place],))  # fmt: skip
        else:
            said_part("Answer", row["answer"])
        notes_bar(keys[place], lambda taken: _open(names[keys.index(taken.key)]), blind=True, among=keys)


def _unveil(name: str) -> None:
    st.session_state["unveiled"] = {*st.session_state.get("unveiled", ()), name}


@by_user
def _picked(key: str, names: list[str], page: int) -> None:
    chosen = st.session_state[key]["selection"]["rows"] if key == key_of("blind-table") else []
    if chosen and page * PAGE + chosen[0] < len(names):
        st.query_params["answer"] = names[page * PAGE + chosen[0]]


@by_user
def _open(name: str) -> None:
    st.query_params["answer"] = name
    anew("blind-table", "blind-page")


def start_blind(which: AnswerFilter) -> None:
    """A callback: the answers found now become a blind review, and the page shows that."""
    found = reader().answers(which)
    review = BlindReview.create([AnswerKey(*key) for key in found[KEY].itertuples(index=False)])
    st.session_state["reviewer"] = reviewer()  # not in the address, which is sent to others
    st.query_params.clear()
    st.query_params["blind"] = review.id
