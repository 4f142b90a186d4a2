"""Tables of Compare as CSV."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from ema_core.store import evaluation_key, export_csv


def evals_in_words(found: list[tuple[str, str]]) -> str:
    return ", ".join(evaluation_key(*one) for one in found)


def table_as_csv(label: str, frame: pd.DataFrame, name: str) -> None:
    st.download_button(
        label,
        lambda: export_csv(frame),
        f"{name}.csv",
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
        key=f"{name}-csv",
        help="All columns, unrounded.",
    )
