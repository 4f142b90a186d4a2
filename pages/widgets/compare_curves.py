"""Training curves of the runs that are compared, overlaid."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from ema_core.figures import QUANTITIES
from pages.widgets.chrome import plain
from pages.widgets.compare_data import BARE, Settled, drawn


@st.fragment
def curves_part(run_ids: Sequence[str], version: Settled) -> None:
    """Training curves of the same runs, overlaid."""
    st.subheader("Training curves", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        quantity = st.selectbox("Quantity", list(QUANTITIES), format_func=QUANTITIES.__getitem__, key="compare-quantity", width=360)
        smoothing = st.slider("Smoothing", 0.0, 0.98, 0.6, 0.02, key="compare-smoothing", width=240)
    for trait, figure in drawn(tuple(run_ids), quantity, smoothing, version).items():
        if trait:
            st.markdown(f"On the vector **{plain(trait)}**")
        st.plotly_chart(figure, theme="streamlit", key=f"compare-curves{trait}", height=420, config=BARE)
