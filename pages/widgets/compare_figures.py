"""The figures of one model, data set and recipe: strength and trade-off."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from ema_core.figures import trade_off
from pages.widgets.chrome import errors
from pages.widgets.compare_data import BARE, TWIN, Settled, alternatives
from pages.widgets.compare_strength import strength_part


def figures_part(settings: pd.DataFrame, run_ids: tuple[str, ...], version: Settled) -> None:
    """Strength curve and trade-off of one model, data set and recipe."""
    if settings.empty:
        return
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
    rows = settings[(settings[TWIN] == list(group)).all(axis=1)]
    st.subheader("What strength does", anchor=False)
    with errors():
        strength_part(rows, run_ids, version)
    st.subheader("Trade-off", anchor=False)
    with errors():
        curve = alternatives(rows["setting_key"].iloc[0], run_ids, version)
        st.plotly_chart(trade_off(rows, curve), theme="streamlit", key="trade-off", height=460, config=BARE)
        if not curve["kind"].duplicated().any():  # the final adapter alone
            st.caption(
                "The cheap alternatives are missing: evaluate the undefended run with its checkpoints and its scaled-down adapter. "
                "Without them nobody can tell a defense from stopping earlier."
            )
        else:
            seeds = int(curve["seeds"].max())
            st.caption(
                "A defense is worth something only **below** the grey curves: the undefended run stopped earlier, or its adapter "
                f"scaled down (mean of {seeds} seed{'s' if seeds > 1 else ''}). Both axes: margin (no judge)."
            )
