"""Training curves of the runs that are compared, overlaid."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from ema_core.figures import QUANTITIES
from pages.widgets.chrome import plain
from pages.widgets.compare_data import Settled, drawn
from pages.widgets.figure import figure


@st.fragment
def curves_part(run_ids: Sequence[str], version: Settled) -> None:
    """Training curves of the same runs, overlaid."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        quantity = st.selectbox("Quantity", list(QUANTITIES), format_func=QUANTITIES.__getitem__, key="compare-quantity", width=360)
        smoothing = st.slider("Smoothing", 0.0, 0.98, 0.6, 0.02, key="compare-smoothing", width=240)
    for trait, (curves, data) in drawn(tuple(run_ids), quantity, smoothing, version).items():
        if trait:
            st.markdown(f"On the vector **{plain(trait)}**")
        title = f"{QUANTITIES[quantity].partition(' (')[0]} by step{', ' + trait if trait else ''}, {len(run_ids)} runs"
        alt = f"{QUANTITIES[quantity]} against the training step, a line a run."
        figure(curves, data, key=f"compare-curves{trait}", title=title, alt=alt, height=460)
