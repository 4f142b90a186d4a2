"""Settings by the four criteria, and the way to the answers behind them."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from pages.widgets import criteria
from pages.widgets.chrome import plain
from pages.widgets.compare_export import evals_in_words, table_as_csv

PAGE = 25


def setting_part(settings: pd.DataFrame, of_runs: pd.DataFrame) -> None:
    """The table of the four criteria, what it rests on, and the way to the answers behind it."""
    st.subheader("Settings", anchor=False)
    if settings.empty:
        st.info(
            "None of the chosen runs is done, so there is no setting to compare; the runs stand alone below.",
            icon=":material/info:",
        )
        return
    with st.container(key="settings-table"):
        pages = -(-len(settings) // PAGE)
        page = st.pagination(pages, key="settings-page") if pages > 1 else 1
        shown = settings.iloc[PAGE * (page - 1) : PAGE * page]
        st.table(criteria.setting_cells(shown), border="horizontal", hide_index=True)
    first = settings.iloc[0]
    if undone := int(of_runs["status"].ne("done").sum()):
        st.caption(f"{undone} of the chosen runs not done: in no setting, alone in the table of runs below.")
    st.caption(
        f"Brackets: 95 % intervals for **{first['estimand']}** (over topics; the forms of a question are one topic). General "
        f"answers and coherence: judge **{plain(first['judge'])}**. Margins: **margin (no judge)**. *Better* and *worse*: against "
        "the undefended twin, corrected for all marks of this table (Holm), from three seeds on. Numbers in link colour lead to the "
        "answers that they count."
    )
    with st.container(horizontal=True, vertical_alignment="bottom", key="setting-actions"):
        labels = criteria.one_line(settings)
        key = st.selectbox(
            "Look closer at", list(labels), format_func=lambda key: labels.get(key, key), key="look-closer", width=260
        )
        runs = list(of_runs.loc[of_runs["setting_key"] == key, "run_id"])
        for label, icon, page, query in (
            ("All its answers", "forum", "samples", {"setting": key, "judge": first["judge"]}),
            ("Its training curves", "show_chart", "fine_tune", {"run": runs, "part": "Runs"}),
            ("Inside its first run", "neurology", "inside", {"run": runs[:1]}),
        ):
            st.page_link(f"pages/{page}.py", label=label, icon=f":material/{icon}:", query_params=query)
        table_as_csv(
            "Settings as CSV",
            settings.assign(
                evals=settings["evals"].map(evals_in_words),
                **{name: settings[name].map(", ".join) for name in ("runs", "twin_runs")},
            ),
            "settings",
        )
    with st.expander("What the words mean"):
        st.markdown("\n".join(f"- **{word}**: {meaning}" for word, meaning in criteria.MEANINGS.items()))
