"""What the strength of one defense does, criterion by criterion, and which strength to take."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from ema_core.defenses.registry import all_defenses
from ema_core.evaluation.recommend import KEEP, alone
from ema_core.figures import CRITERIA, Measure, strength_curve, strength_data
from ema_core.store.rows import NOT_STATED
from pages.widgets import criteria
from pages.widgets.chrome import plain
from pages.widgets.compare_data import Settled, recommended
from pages.widgets.figure import figure


def strength_part(
    rows: pd.DataFrame, seeds: pd.DataFrame, run_ids: tuple[str, ...], version: Settled, measure: Measure,
    published: pd.DataFrame | None, group: str,
) -> None:  # fmt: skip
    """One defense's line at a time, a figure a criterion, and which strength of it to take."""
    defended = rows.loc[~rows["undefended"] & rows["defense_label"].ne(NOT_STATED), "defense_label"]
    names = sorted({label.partition("=")[0] for label in defended if " + " not in label})
    if not names:
        st.info(
            "No defense with one strength among these settings. Train the same recipe with a defense, at two strengths or more.",
            icon=":material/tune:",
        )
        st.page_link("pages/fine_tune.py", label="Go to Fine-tune", icon=":material/tune:")
        return
    known = all_defenses()
    most = defended.str.partition("=")[0].value_counts()
    name = st.selectbox(
        "Defense",
        names,
        index=names.index(max(names, key=lambda one: most.get(one, 0))),
        format_func=lambda one: known[one].title if one in known else one,
        key="defense",
        bind="query-params",
        width=260,
    )
    shown = rows[
        rows["undefended"]
        | rows["defense_label"].str.partition("=")[0].eq(name) & ~rows["defense_label"].str.contains(" + ", regex=False)
    ]
    info = known[name].strength_info if name in known else None
    paper = {name: info.paper} if info and info.paper is not None else None
    told = published[published["defense"].isin(["none", name])] if published is not None and len(published) else None
    own = seeds[seeds["setting_key"].isin(shown["setting_key"])]
    title = known[name].title if name in known else name
    places = [place for _ in range(2) for place in st.columns(2)]  # two rows of two, which a phone shows one below the other
    for place, (key, meaning) in zip(places, CRITERIA.items(), strict=True):
        with place:
            figure(
                strength_curve(shown, key, paper, measure, own, told),
                strength_data(shown, key, measure, own, told),
                key=f"strength-{key}",
                title=f"{meaning.partition(' (')[0]} by strength of {name}, {group}",
                alt=f"{meaning} against the strength of {title}, with intervals; the table below the figure as CSV has the numbers.",
            )
    meaning = f"Strength: {plain(info.meaning)}. " if info else ""
    mark = f"Dotted line: the paper's strength, {info.paper:g}. " if info and info.paper is not None else ""
    st.caption(
        f"{meaning}{mark}Faint marks are single seeds: how far apart they are is the spread. What each figure was measured by, with n and "
        "seeds, stands under it."
    )
    recommend_part(name, rows, run_ids, version)


def recommend_part(name: str, rows: pd.DataFrame, run_ids: tuple[str, ...], version: Settled) -> None:
    """The strength with the lowest leak that keeps enough, or that there is none."""
    keep = st.slider(
        "Recommend a strength that keeps at least this share of what the undefended twin learned, in %",
        50, 100, round(100 * KEEP), 5, key="keep", bind="query-params", width=480,
    )  # fmt: skip
    labels = sorted({alone(label) for label in rows["defense_label"] if alone(label).partition(":")[0] == name})
    for label in labels:
        found = recommended(label, tuple(rows["setting_key"]), run_ids, keep / 100, version)
        with st.container(border=True, key=f"recommended-{labels.index(label)}"):
            st.markdown(criteria.recommendation(found))
            if found.candidates:
                st.table(criteria.candidate_cells(found), border="horizontal", hide_index=True)
