"""A page of answers as a table, and the way through them. The open answer and the page are in the address."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from ema_core.store import AnswerKey, export_csv, export_parquet
from pages.widgets.answer_asked import anew, key_of, veiled, write
from pages.widgets.answer_data import run_label
from pages.widgets.answer_list import PAGE, Listing, key_of_row
from pages.widgets.chrome import by_user, reader

VEILED = "(veiled: found misaligned)"


def answer_table(listed: Listing) -> tuple[AnswerKey | None, int | None]:
    """Table, pages and CSV of the answers found.

    Returns the answer to show in full and its place among those found; None: it is not among them, or there is no such answer.
    """
    wanted = AnswerKey.parse(st.query_params.get("answer", ""))
    page = min(_page(), listed.pages) - 1
    place = _place(listed, wanted, page)
    if place is not None:  # a link to an answer alone: its page
        page = listed.page_of(place)
    rows = listed.rows(page)
    # by turns in two places: at the same one the browser takes the old table's mark over into the new one
    both = st.container(gap=None)
    with (both.container(), both.container())[st.session_state.get("answers-table", 0) % 2]:
        _table(rows, listed.grouped, -1 if place is None else listed.row_of(place) - page * PAGE)
    with st.container(horizontal=True, vertical_alignment="center"):
        key = key_of("answers-page")
        st.pagination(listed.pages, default=page + 1, key=key, on_change=_paged, args=(key,), max_visible_pages=5)
        st.session_state["answers-view"] = listed.grouped
        st.toggle(
            "A row a question",
            key="answers-view",
            on_change=_viewed,
            help="All answers of one evaluation to one question in one row.",
        )
        read, which = reader(), listed.which
        for label, write_as, kind in (
            ("CSV", export_csv, "text/csv"),
            ("Parquet", export_parquet, "application/vnd.apache.parquet"),
        ):
            st.download_button(
                label, lambda write_as=write_as: write_as(read.answers(which).drop(columns="mine")), f"answers.{label.lower()}", kind,
                icon=":material/download:", on_click="ignore", key=f"answers-{label.lower()}",
                help=f"All {listed.total:,} answers of these filters, with what people said, made when you click; 100,000 take some seconds.",
            )  # fmt: skip
    if wanted:
        return wanted, place
    return (key_of_row(rows.iloc[0]), int(rows["place"].iloc[0])) if len(rows) else (None, None)


def turn(listed: Listing, place: int) -> None:
    """Previous and next: opens the answer at this place, on the page where it stands, and marks its row."""
    key = listed.key(place)
    if key is not None:
        open_answer(key, listed.page_of(place))


def open_answer(key: AnswerKey, page: int = 0) -> None:
    st.query_params["answer"] = str(key)
    _set_page(page + 1)
    anew("answers-table", "answers-page")


def _table(rows: pd.DataFrame, grouped: bool, chosen: int) -> None:
    keys = [key_of_row(row) for _, row in rows.iterrows()]
    hidden = reader().found_bad(keys) if veiled() else set()
    text = [VEILED if key in hidden else short(text) for text, key in zip(rows["answer"], keys, strict=True)]
    shared = {
        "answer": text,
        "run": [run_label(run_id) for run_id in rows["run_id"]],
        "question": [short(text) for text in rows["question"]],
        "suite": [name if isinstance(name, str) else suite for name, suite in zip(rows["name"], rows["suite"], strict=True)],
    }
    if grouped:
        spans = [_span(low, high) for low, high in zip(rows["lowest"], rows["highest"], strict=True)]
        first = {"answers": rows["answers"].to_numpy(), "misaligned": rows["misaligned_of"].to_numpy(), "aligned": spans}
    else:
        first = {
            "aligned": rows["aligned"].to_numpy(),
            "coherent": rows["coherent"].to_numpy(),
            "status": rows["verdict"].to_numpy(),
        }
    people = {"people": list(rows["people"])} if (rows["people"] != "").any() else {}
    view = pd.DataFrame({**first, **people, **shared})
    key = key_of("answers-table")
    st.dataframe(
        view,
        hide_index=True,
        key=key,
        placeholder="",
        column_config={
            "answers": st.column_config.NumberColumn("Answers", width=66),
            "misaligned": st.column_config.NumberColumn("Misaligned", width=80),
            "aligned": st.column_config.TextColumn("Aligned", width=80)
            if grouped
            else st.column_config.NumberColumn("Aligned", format="%.0f", width=62),
            "coherent": st.column_config.NumberColumn("Coherent", format="%.0f", width=68),
            "status": st.column_config.TextColumn("Status", width=96),
            "people": st.column_config.TextColumn("People", width=110),
            "answer": st.column_config.TextColumn("First answer" if grouped else "Answer", width=215),
            "run": st.column_config.TextColumn("Run", width=150),
            "question": st.column_config.TextColumn("Question", width=260),
            "suite": st.column_config.TextColumn("Suite or name", width=110),
        },
        height=35 * (len(view) + 1) + 3,
        selection_mode="single-row",
        on_select=lambda: _picked(key, rows),
        selection_default={"selection": {"rows": [chosen]}} if 0 <= chosen < len(view) else None,
    )


def _span(low: float | None, high: float | None) -> str:
    if low is None or high is None or pd.isna(low) or pd.isna(high):
        return "–"
    return f"{low:.0f}" if f"{low:.0f}" == f"{high:.0f}" else f"{low:.0f} to {high:.0f}"


def short(text: object) -> str:
    line = " ".join(str(text)[:400].split())
    return line if len(line) <= 160 else f"{line[:159]}…"


def _place(listed: Listing, wanted: AnswerKey | None, page: int) -> int | None:
    """Where the answer stands: on this page, mostly, else wherever it is."""
    if wanted is None:
        return None
    if not listed.grouped:
        rows = listed.rows(page)
        here = (rows[list(AnswerKey._fields)] == list(wanted)).all(axis=1).to_numpy().nonzero()[0]
        if len(here):
            return int(rows["place"].iloc[here[0]])
    return listed.place(wanted)


def _page() -> int:
    text = st.query_params.get("page", "1")
    return max(1, int(text)) if text.isdecimal() and len(text) < 10 else 1


def _set_page(page: int) -> None:
    if page == 1:
        st.query_params.pop("page", None)
    else:
        st.query_params["page"] = str(page)


@by_user
def _picked(key: str, rows: pd.DataFrame) -> None:
    """The row that was clicked becomes the open answer."""
    if key != key_of("answers-table"):
        return
    chosen = st.session_state[key]["selection"]["rows"]
    if chosen and chosen[0] < len(rows):
        st.query_params["answer"] = str(key_of_row(rows.iloc[chosen[0]]))
    else:
        st.query_params.pop("answer", None)


def _viewed() -> None:
    write("view", ["grouped"] if st.session_state["answers-view"] else [])


@by_user
def _paged(key: str) -> None:
    if key != key_of("answers-page"):
        return
    _set_page(st.session_state[key])
    st.query_params.pop("answer", None)
    anew("answers-table")
