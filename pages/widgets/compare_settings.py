"""The scorecard on top of Compare, the actions under it, and all numbers behind it."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from ema_core.evaluation.summary import summary
from pages.widgets import criteria, scorecard
from pages.widgets.chrome import plain
from pages.widgets.compare_export import evals_in_words, table_as_csv
from pages.widgets.compare_report import report_button
from pages.widgets.terms import term

PAGE = 25


def scorecard_part(settings: pd.DataFrame, of_runs: pd.DataFrame) -> None:
    """The four criteria of each setting with their marks, and the way to the answers behind it."""
    st.subheader("Scorecard", anchor=False, help=term("twin"))
    if settings.empty:
        st.info(
            "None of the chosen runs is done, so there is no setting to compare; the runs stand alone below.",
            icon=":material/info:",
        )
        return
    labels = criteria.one_line(settings)
    _, *said = summary(settings, labels, str(settings["judge"].iloc[0]))
    st.markdown("\n".join(f"- {plain(text)}" for text in said))
    with st.container(key="scorecard"):
        pages = -(-len(settings) // PAGE)
        page = st.pagination(pages, key="settings-page") if pages > 1 else 1
        shown = scorecard.page_rows(settings, page, PAGE)
        alt = (
            "Scorecard: settings by general misalignment, narrow behaviour, benign task and coherence, with marks against the twin"
        )
        st.table(scorecard.cells(shown, settings), border="horizontal", hide_index=True, alt=alt)
    first = settings.iloc[0]
    if undone := int(of_runs["status"].ne("done").sum()):
        st.caption(f"{undone} of the chosen runs not done: in no setting, alone in the table of runs.")
    st.caption(
        "Bold: the difference to the undefended twin (same model, data, recipe and seed), with its 95 % interval for "
        f"**{first['estimand']}** (over topics). *Better* and *worse*: corrected for all marks of this table (Holm), from three seeds on. "
        f"General, narrow, benign: **margin (no judge)**, nats a token. Coherence and rates: judge **{plain(first['judge'])}**. "
        "Numbers in link colour lead to the answers that they count: as the judge has them; *corrected* by what it is off by on labelled answers."
    )
    _actions(settings, of_runs, labels)
    with st.expander("What the words mean"):
        st.markdown("\n".join(f"- **{word}**: {meaning}" for word, meaning in criteria.MEANINGS.items()))


def _actions(settings: pd.DataFrame, of_runs: pd.DataFrame, labels: dict[str, str]) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", key="setting-actions"):
        key = st.selectbox(
            "Look closer at", list(labels), format_func=lambda key: labels.get(key, key), key="look-closer", width=260
        )
        runs = list(of_runs.loc[of_runs["setting_key"] == key, "run_id"])
        for label, icon, page, query in (
            ("All its answers", "forum", "samples", {"setting": key, "judge": settings["judge"].iloc[0]}),
            ("Its training curves", "show_chart", "fine_tune", {"run": runs, "part": "Runs"}),
            ("Inside its first run", "neurology", "inside", {"run": runs[:1]}),
        ):
            st.page_link(f"pages/{page}.py", label=label, icon=f":material/{icon}:", query_params=query)
        told = {name: settings[name].map(", ".join) for name in ("runs", "twin_runs")}
        table_as_csv("Settings as CSV", settings.assign(evals=settings["evals"].map(evals_in_words), **told), "settings")
        report_button(list(of_runs["run_id"]), str(settings["judge"].iloc[0]))


def numbers_part(settings: pd.DataFrame) -> None:
    """Every number of the settings, with its interval, its n, and what was asked, answered and scored."""
    if settings.empty:
        return
    with st.container(key="settings-table"):
        pages = -(-len(settings) // PAGE)
        page = st.pagination(pages, key="numbers-page") if pages > 1 else 1
        shown = scorecard.page_rows(settings, page, PAGE)
        st.table(criteria.setting_cells(shown), border="horizontal", hide_index=True, alt="All numbers of the settings")
    first = settings.iloc[0]
    st.caption(
        f"Brackets: 95 % intervals for **{first['estimand']}** (over topics; the forms of a question are one topic). General "
        f"answers and coherence: judge **{plain(first['judge'])}**. Margins: **margin (no judge)**. *Better* and *worse*: against "
        "the undefended twin, corrected for all marks of this table (Holm), from three seeds on. Numbers in link colour lead to the "
        "answers that they count."
    )
