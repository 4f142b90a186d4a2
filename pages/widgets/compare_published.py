"""Published numbers in tables of their own: never in one with ours, never in an average."""

from __future__ import annotations

import streamlit as st

from ema_core.evaluation.published import published
from pages.widgets.chrome import plain
from pages.widgets.compare_export import table_as_csv


def published_part() -> None:
    st.caption(
        "What others measured, on other models, with other data and judges: to compare shapes, not heights. None of it is in any number, mark or "
        "average of this page. A strength does not carry over from one learning rate or model to another."
    )
    for found in published():
        st.markdown(f"**{plain(found.title)}**")
        table = found.table()
        told = table.map(
            lambda value: "–" if value is None or value != value else f"{value:g}" if isinstance(value, float) else plain(value)
        )
        st.table(told, border="horizontal", hide_index=True, alt=found.title)
        st.caption(
            f"{plain(found.unit)} · model: {plain(found.model)} · data: {plain(found.data)} · judge: {plain(found.judge)} · n: {plain(found.n)} · "
            f"source: {plain(found.source)}; {plain(found.taken_from)}"
        )
        about = {name: getattr(found, name) for name in ("unit", "model", "data", "judge", "n", "source", "taken_from")}
        own = {f"of_{name}" if name in ("model", "judge", "n") else name: value for name, value in about.items()}
        table_as_csv("CSV", table.assign(**own), f"published-{found.name}")
