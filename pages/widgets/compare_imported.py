"""Imported runs on Compare: rates by the judge that they came with, or the one that is chosen."""

from __future__ import annotations

import streamlit as st

from ema_core.evaluation.scorecard import IMPORTED
from pages.widgets import criteria
from pages.widgets.chrome import plain
from pages.widgets.compare_data import Settled, imported_scores
from pages.widgets.run_picker import run_info


def imported_part(run_ids: tuple[str, ...], judge: str, version: Settled) -> None:
    """Rates of imported answers, each with its judge; what needs the model itself cannot be had."""
    st.subheader("Imported runs", anchor=False)
    found = imported_scores(run_ids, judge, version)
    cells = criteria.run_cells(found)
    cells.insert(1, "Judge", found["judge"])
    cells["Run"] = [run_info(run_id).label for run_id in found["run_id"]]
    empty = [name for name in cells if "argin" in name or "Prefer" in name or name == "State" or cells[name].isna().all()]
    counts = [name for name in cells if name.endswith(", n") and ":" not in name]
    st.dataframe(
        cells.drop(columns=["run_id", "Why empty", *empty]),
        hide_index=True,
        key="imported-table",
        column_config={
            "Run": st.column_config.TextColumn("Run", width=260, pinned=True),
            **{name: st.column_config.NumberColumn(name, format="%.1f") for name in cells if f"{name}: interval, n" in cells},
            **{name: st.column_config.LinkColumn(name, display_text=r"#(\d+)$", width=100) for name in counts},
        },
    )
    why = "; ".join(dict.fromkeys(filter(None, found["general_why"])))
    st.caption(
        "Judged elsewhere: a row's scores are its judge's, and two judges' scores are not comparable. Margins, the narrow "
        f"behaviour and the benign task cannot be had: {plain(IMPORTED)}."
        + (f" Rates that are missing: {plain(why)}." if why else "")
    )
