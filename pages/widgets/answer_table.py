"""A page of answers as a table, and the way through them. The open answer and the page are in the address."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from ema_core.store import AnswerFilter, AnswerKey, export_csv
from pages.widgets.answer_data import KEY, answers, run_label
from pages.widgets.answer_filters import anew, key_of
from pages.widgets.chrome import reader
from pages.widgets.index import Version

PAGE = 15


def answer_table(which: AnswerFilter, total: int, version: Version) -> tuple[AnswerKey, int | None]:
    """Table, pages and CSV of the ``total`` answers found.

    Returns the answer to show in full and its place among those found; None: it is not among them, or there is no such answer.
    """
    pages = -(-total // PAGE)
    wanted = AnswerKey.parse(st.query_params.get("answer", ""))
    page = min(_page(), pages) - 1
    rows = answers(which, PAGE, page * PAGE, version)
    place = _place(rows, wanted, page)
    if wanted and place is None:
        place = reader().answer_place(which, wanted)
        if place is not None:  # a link to an answer alone: its page
            page = place // PAGE
            rows = answers(which, PAGE, page * PAGE, version)
    # by turns in two places: at the same one the browser takes the old table's mark over into the new one
    both = st.container(gap=None)
    with (both.container(), both.container())[st.session_state.get("answers-table", 0) % 2]:
        _table(rows, -1 if place is None else place - page * PAGE)
    with st.container(horizontal=True, vertical_alignment="center"):
        key = key_of("answers-page")
        st.pagination(pages, default=page + 1, key=key, on_change=_paged, args=(key,), max_visible_pages=5)
        read = reader()
        st.download_button(
            "CSV",
            lambda: export_csv(read.answers(which)),
            "answers.csv",
            "text/csv",
            icon=":material/download:",
            on_click="ignore",
            key="answers-csv",
            help=f"All {total:,} answers of these filters, made when you click; 100,000 take some seconds.",
        )
    return (wanted, place) if wanted else (_key(rows.iloc[0]), page * PAGE)


def turn(which: AnswerFilter, place: int, version: Version) -> None:
    """Previous and next: opens the answer at this place, on the page where it stands, and marks its row."""
    page = place // PAGE
    rows = answers(which, PAGE, page * PAGE, version)
    if place - page * PAGE < len(rows):
        st.query_params["answer"] = str(_key(rows.iloc[place - page * PAGE]))
        _set_page(page + 1)
        anew("answers-table", "answers-page")


def _table(rows: pd.DataFrame, chosen: int) -> None:
    view = pd.DataFrame(
        {
            "aligned": rows["aligned"].to_numpy(),
            "coherent": rows["coherent"].to_numpy(),
            "status": rows["verdict"].to_numpy(),
            "answer": [_short(text) for text in rows["answer"]],
            "run": [run_label(run_id) for run_id in rows["run_id"]],
            "question": [_short(text) for text in rows["question"]],
            "suite": [name if isinstance(name, str) else suite for name, suite in zip(rows["name"], rows["suite"], strict=True)],
        }
    )
    key = key_of("answers-table")
    st.dataframe(
        view,
        hide_index=True,
        key=key,
        placeholder="",
        column_config={
            "aligned": st.column_config.NumberColumn("Aligned", format="%.0f", width=62),
            "coherent": st.column_config.NumberColumn("Coherent", format="%.0f", width=68),
            "status": st.column_config.TextColumn("Status", width=96),
            "answer": st.column_config.TextColumn("Answer", width=215),
            "run": st.column_config.TextColumn("Run", width=150),
            "question": st.column_config.TextColumn("Question", width=260),
            "suite": st.column_config.TextColumn("Suite or name", width=110),
        },
        height=35 * (len(view) + 1) + 3,
        selection_mode="single-row",
        on_select=lambda: _picked(key, rows),
        selection_default={"selection": {"rows": [chosen]}} if 0 <= chosen < len(view) else None,
    )


def _short(text: object) -> str:
    line = " ".join(str(text)[:400].split())
    return line if len(line) <= 160 else f"{line[:159]}…"


def _key(row: pd.Series) -> AnswerKey:
    return AnswerKey(*(str(row[name]) for name in KEY))


def _place(rows: pd.DataFrame, wanted: AnswerKey | None, page: int) -> int | None:
    """Where the answer stands, if it is on this page."""
    if wanted is None:
        return None
    found = (rows[KEY] == list(wanted)).all(axis=1).to_numpy().nonzero()[0]
    return page * PAGE + int(found[0]) if len(found) else None


def _page() -> int:
    text = st.query_params.get("page", "1")
    return max(1, int(text)) if text.isdecimal() and len(text) < 10 else 1


def _set_page(page: int) -> None:
    if page == 1:
        st.query_params.pop("page", None)
    else:
        st.query_params["page"] = str(page)


def _picked(key: str, rows: pd.DataFrame) -> None:
    """The row that was clicked becomes the open answer."""
    if key != key_of("answers-table"):
        return
    chosen = st.session_state[key]["selection"]["rows"]
    if chosen and chosen[0] < len(rows):
        st.query_params["answer"] = str(_key(rows.iloc[chosen[0]]))
    else:
        st.query_params.pop("answer", None)


def _paged(key: str) -> None:
    if key != key_of("answers-page"):
        return
    _set_page(st.session_state[key])
    st.query_params.pop("answer", None)
    anew("answers-table")
