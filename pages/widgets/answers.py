"""Sampled answers with their scores: filters, a page of the table, one answer in full. Foreign text is shown as plain text."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from ema_core.evaluation.evaluate import NOT_JUDGED
from ema_core.judging import COHERENT_ABOVE, MISALIGNED_BELOW
from ema_core.store import export_csv
from pages.widgets.answer_data import EXPORTED, FLAGS, KEY, answers, judges_of, run_label, why_unscored
from pages.widgets.chrome import plain
from pages.widgets.index import Version
from pages.widgets.run_picker import run_link

PAGE = 20
ANY, ANY_SUITE, ANY_RUN = "any status", "both suites", "all chosen runs"
ORDERS: dict[str, tuple[list[str], bool]] = {
    "least aligned first": (["aligned"], True),
    "most aligned first": (["aligned"], False),
    "least coherent first": (["coherent"], True),
    "longest first": (["tokens"], False),
    "as asked": ([], True),
}


@st.fragment
def answer_table(run_ids: Sequence[str], version: Version) -> None:
    """Filters, table and detail card. Filters, page and the open answer are in the URL."""
    judges = judges_of(tuple(run_ids), version)
    judge = judges[0] if judges else None
    if len(judges) > 1:
        judge = st.selectbox(
            "Judge", judges, key="judge", bind="query-params", on_change=_first_page, help="Two judges' scores are not comparable."
        )
    frame = answers(tuple(run_ids), judge, version)
    if frame.empty:
        st.info(
            "No sampled answers of these runs yet. Evaluate them above with one or more samples a question; "
            "with 0 samples only the margin is measured, and Compare shows it.",
            icon=":material/forum:",
        )
        return
    found = _filtered(frame, run_ids)
    _counts(frame, found, judge)
    if found.empty:
        st.info("No answer fits these filters. Choose another status, or clear the search.", icon=":material/filter_alt_off:")
        return
    pages = -(-len(found) // PAGE)
    here = min(_page(), pages) - 1
    left, right = st.columns([3, 2], gap="medium")
    with left:
        place = _open_place(found)
        # by turns in two places: at the same one the browser takes the old table's mark over into the new one
        both = st.container(gap=None)
        with (both.container(), both.container())[st.session_state.get("answers-table", 0) % 2]:
            _table(found.iloc[here * PAGE : (here + 1) * PAGE], place - here * PAGE, several=len(run_ids) > 1)
        with st.container(horizontal=True, vertical_alignment="center"):
            key = _key("answers-page")
            st.pagination(pages, default=here + 1, key=key, on_change=_paged, args=(key,), max_visible_pages=5)
            st.download_button(
                "CSV",
                lambda: export_csv(found[EXPORTED]),
                "answers.csv",
                "text/csv",
                icon=":material/download:",
                on_click="ignore",
                key="answers-csv",
                help=f"All {len(found)} answers of these filters.",
            )
    with right:
        _card(found, place if place >= 0 else here * PAGE, judge)


def _filtered(frame: pd.DataFrame, run_ids: Sequence[str]) -> pd.DataFrame:
    with st.container(horizontal=True, key="answer-filters"):
        only = ANY_RUN
        if len(run_ids) > 1:
            only = st.selectbox(
                "Run",
                [ANY_RUN, *run_ids],
                format_func=lambda run: run if run == ANY_RUN else run_label(run),
                key="answers-run",
                on_change=_first_page,
                width=230,
            )
        suite = st.selectbox(
            "Suite", [ANY_SUITE, "general", "in-domain"], key="suite", bind="query-params", on_change=_first_page, width=130
        )
        status = st.selectbox("Status", [ANY, *FLAGS], key="status", bind="query-params", on_change=_first_page, width=150)
        order = st.selectbox("Order", list(ORDERS), key="order", bind="query-params", on_change=_first_page, width=180)
        text = st.text_input(
            "Search",
            key="q",
            bind="query-params",
            on_change=_first_page,
            icon=":material/search:",
            placeholder="question or answer",
            width=200,
        )
    keep = pd.Series(True, index=frame.index)
    if only != ANY_RUN:
        keep &= frame["run_id"] == only
    if suite != ANY_SUITE:
        keep &= frame["suite"] == suite
    if status != ANY:
        keep &= frame[status]
    if text := (text or "").strip():
        keep &= frame["question"].str.contains(text, case=False, regex=False) | frame["answer"].str.contains(
            text, case=False, regex=False
        )
    by, ascending = ORDERS[order]
    found = frame[keep]
    return (found.sort_values(by, ascending=ascending, kind="stable") if by else found).reset_index(drop=True)


def _counts(frame: pd.DataFrame, found: pd.DataFrame, judge: str | None) -> None:
    of = f"**{len(found)}**" + (f" of {len(frame)}" if len(found) < len(frame) else "") + " answers: "
    st.markdown(
        of + ", ".join(f"{int(found[name].sum())} {name}" for name in FLAGS),
        help=(
            f"misaligned: alignment below {MISALIGNED_BELOW} and coherence above {COHERENT_ABOVE}; "
            f"incoherent: coherence below {COHERENT_ABOVE}; refused: a word of refusal among the first ten; an answer may be in "
            "several. Counts of these answers, not rates: rates with their intervals are on Compare."
        ),
    )
    said = [f"Scores by {judge}, 0 to 100."] if judge else []
    if found["suite"].eq("in-domain").any():
        said.append(f"Empty: {NOT_JUDGED}.")
    st.caption(plain(" ".join(said)))


def _table(rows: pd.DataFrame, chosen: int, several: bool) -> None:
    view = pd.DataFrame(
        {
            "aligned": rows["aligned"].to_numpy(),
            "coherent": rows["coherent"].to_numpy(),
            "status": rows["verdict"].to_numpy(),
            "answer": [_short(text) for text in rows["answer"]],
            "run": [run_label(run_id) for run_id in rows["run_id"]],
            "question": [_short(text) for text in rows["question"]],
        }
    )
    key = _key("answers-table")
    st.dataframe(
        view,
        hide_index=True,
        key=key,
        placeholder="",
        column_order=None if several else [name for name in view if name != "run"],
        column_config={
            "run": st.column_config.TextColumn("Run", width=150),
            "aligned": st.column_config.NumberColumn("Aligned", format="%.0f", width=70),
            "coherent": st.column_config.NumberColumn("Coherent", format="%.0f", width=70),
            "status": st.column_config.TextColumn("Status", width=110),
            "answer": st.column_config.TextColumn("Answer", width=300),
            "question": st.column_config.TextColumn("Question", width="large"),
        },
        height=35 * (len(view) + 1) + 3,
        selection_mode="single-row",
        on_select=lambda: _picked(key, rows),
        selection_default={"selection": {"rows": [chosen]}} if 0 <= chosen < len(view) else None,
    )


def _short(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 160 else f"{line[:159]}…"


def _card(found: pd.DataFrame, place: int, judge: str | None) -> None:
    row = found.iloc[place]
    with st.container(border=True, key="answer-card"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**Answer {place + 1} of {len(found)}**", width="stretch")
            for label, icon, to in (("Previous", "chevron_left", place - 1), ("Next", "chevron_right", place + 1)):
                st.button(
                    label,
                    icon=f":material/{icon}:",
                    key=f"answer-{label.lower()}",
                    on_click=_turn,
                    args=(found, to),
                    disabled=not 0 <= to < len(found),
                )
        if judge and not row["not scored"]:
            first, second = st.columns(2)
            first.metric("Aligned", f"{row['aligned']:.0f}", help=f"0 to 100, by {judge}")
            second.metric("Coherent", f"{row['coherent']:.0f}", help=f"0 to 100, by {judge}")
        else:
            st.markdown(f"Not scored: {plain(why_unscored(row))}.")
        marks = [name for name in FLAGS[:4] if row[name]]
        if marks:
            with st.container(horizontal=True):
                for name in marks:
                    st.badge(name, color="red" if name == "misaligned" else "orange")
        if isinstance(row["system"], str) and row["system"]:
            st.caption("System prompt")
            st.text(row["system"])
        st.caption("Question")
        st.text(row["question"])
        st.caption("Answer")
        if str(row["answer"]).strip():
            st.text(row["answer"])
        else:
            st.caption("The model said nothing: its first token ended the answer.")
        scale = "" if row["scale"] == 1 else f", adapter × {row['scale']:g}"
        state = "final adapter" if pd.isna(row["step"]) else f"checkpoint at step {row['step']:.0f}"
        facts = [
            f"{row['suite']} · {row['question_id']} · answer {row['k'] + 1:.0f} to it",
            f"{row['tokens']:.0f} tokens" + (f", cut at {row['max_tokens']:.0f}" if row["finish"] == "length" else ""),
            f"{state}{scale}, temperature {row['temperature']:g}",
            f"judge {row['judge']}" if isinstance(row["judge"], str) else "no judge",
        ]
        st.caption(plain(" · ".join(facts)))
        run_link(row["run_id"])


def _name(row: pd.Series) -> str:
    return "~".join(str(row[name]) for name in KEY)


def _open_place(found: pd.DataFrame) -> int:
    """Where the answer named in the URL stands among those found; -1 where it does not."""
    wanted = st.query_params.get("answer", "").split("~")
    if len(wanted) != len(KEY):
        return -1
    places = found.index[(found[KEY] == wanted).all(axis=1)]
    return int(places[0]) if len(places) else -1


# A table cannot be told which row is marked, nor a pagination its page, once it is there; under another key it can. What the
# browser still sends of one that was replaced is not the user's.
def _key(name: str) -> str:
    return f"{name}-{st.session_state.get(name, 0)}"


def _anew(*names: str) -> None:
    for name in names:
        st.session_state[name] = st.session_state.get(name, 0) + 1


def _page() -> int:
    text = st.query_params.get("page", "1")
    return max(1, int(text)) if text.isdecimal() else 1


def _set_page(page: int) -> None:
    if page == 1:
        st.query_params.pop("page", None)
    else:
        st.query_params["page"] = str(page)


def _picked(key: str, rows: pd.DataFrame) -> None:
    """The row that was clicked becomes the open answer."""
    if key != _key("answers-table"):
        return
    chosen = st.session_state[key]["selection"]["rows"]
    if chosen and chosen[0] < len(rows):
        st.query_params["answer"] = _name(rows.iloc[chosen[0]])
    else:
        st.query_params.pop("answer", None)


def _turn(found: pd.DataFrame, place: int) -> None:
    """Previous and next: opens the answer, on the page where it stands, and marks its row."""
    st.query_params["answer"] = _name(found.iloc[place])
    _set_page(place // PAGE + 1)
    _anew("answers-table", "answers-page")


def _paged(key: str) -> None:
    if key != _key("answers-page"):
        return
    _set_page(st.session_state[key])
    st.query_params.pop("answer", None)
    _anew("answers-table")


def _first_page() -> None:
    """Other filters: another table, from its first page on."""
    _set_page(1)
    st.query_params.pop("answer", None)
    _anew("answers-table", "answers-page")
