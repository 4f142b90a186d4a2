"""The figures of Compare, a tab each; only the one that is open is drawn."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st

from ema_core.evaluation.published import marks
from ema_core.figures import Measure
from pages.widgets.chrome import errors
from pages.widgets.compare_data import TWIN, Settled
from pages.widgets.compare_strength import strength_part
from pages.widgets.compare_trade import trade_part
from pages.widgets.compare_twin import heatmap_part, questions_part, twin_part

MEASURES: dict[str, Measure] = {"Margins": "margin", "Rates": "rate"}


def one_group(settings: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The settings of one model, data set and recipe, and what they are called."""
    groups = settings.groupby(TWIN, sort=False).size().sort_values(ascending=False, kind="stable")
    group = groups.index[0]
    if len(groups) > 1:
        differ = [n for n in range(len(TWIN)) if settings[TWIN[n]].nunique() > 1]
        group = st.selectbox(
            "Figures of",
            list(groups.index),
            format_func=lambda names: " · ".join(names[n] for n in differ),
            key="figures-of",
            help="Margins of other data, models or recipes are not drawn on one axis.",
            width=420,
        )
    return settings[(settings[TWIN] == list(group)).all(axis=1)], ", ".join(group)


def measured() -> tuple[Measure, pd.DataFrame | None]:
    """Whether margins or rates are drawn, and the published numbers where they are asked for."""
    with st.container(horizontal=True, vertical_alignment="bottom", key="measure-row"):
        chosen = st.segmented_control(
            "Measure", list(MEASURES), default="Margins", required=True, key="measure", bind="query-params",
            help="Margins: no sampling and no judge (coherence: the judge's mean). Rates: shares of sampled answers, in per cent, by the judge.",
        )  # fmt: skip
        wanted = st.toggle("Published numbers beside it", key="published", bind="query-params")
    measure = MEASURES[chosen or "Margins"]
    if wanted and measure == "margin":
        st.caption(
            "Published numbers are rates in per cent; margins are another unit, so they share no axis. Choose *Rates* to lay them over, or "
            "read them in the tab *Published*."
        )
    return measure, marks() if wanted else None


def strength_tab(settings: pd.DataFrame, seeds: pd.DataFrame, run_ids: tuple[str, ...], version: Settled) -> None:
    rows, group = one_group(settings)
    measure, published = measured()
    with errors():
        strength_part(rows, seeds, run_ids, version, measure, published, group)


def trade_tab(settings: pd.DataFrame, seeds: pd.DataFrame, run_ids: tuple[str, ...], version: Settled) -> None:
    rows, group = one_group(settings)
    measure, published = measured()
    with errors():
        trade_part(rows, run_ids, version, measure, published, group)


def twin_tab(settings: pd.DataFrame, seeds: pd.DataFrame, run_ids: tuple[str, ...], version: Settled) -> None:
    rows, group = one_group(settings)
    with errors():
        twin_part(rows, seeds, group)
    with errors():
        heatmap_part(settings)


def question_tab(settings: pd.DataFrame, seeds: pd.DataFrame, run_ids: tuple[str, ...], version: Settled) -> None:
    rows, _ = one_group(settings)
    with errors():
        questions_part(rows, run_ids, str(settings["judge"].iloc[0]), version)


FIGURES: dict[str, Callable[[pd.DataFrame, pd.DataFrame, tuple[str, ...], Settled], None]] = {
    "Trade-off": trade_tab,
    "Strength": strength_tab,
    "Against the twin": twin_tab,
    "By question": question_tab,
}
