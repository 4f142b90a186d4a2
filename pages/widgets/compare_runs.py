"""The runs behind the settings of Compare, one by one."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from ema_core.evaluation.seeds import spread
from ema_core.figures import MARGINS
from pages.widgets import criteria
from pages.widgets.answer_links import address
from pages.widgets.chrome import plain
from pages.widgets.compare_export import evals_in_words, table_as_csv


def runs_part(of_runs: pd.DataFrame) -> None:
    """The runs behind it, one by one."""
    st.subheader("Runs", anchor=False)
    cells = criteria.run_cells(of_runs)
    cells["Curves"] = [address("fine-tune", run=run_id, part="Runs") for run_id in cells["run_id"]]
    counts = [name for name in cells if name.endswith(", n") and ":" not in name]
    numbers = {name: "%+.2f" if "margin" in name else "%.1f" for name in cells if f"{name}: interval, n" in cells}
    st.dataframe(
        cells.drop(columns="run_id"),
        hide_index=True,
        key="runs-table",
        placeholder="",
        height=min(35 * len(cells) + 38, 560),
        column_config={
            **{name: st.column_config.NumberColumn(name, format=form, width=105) for name, form in numbers.items()},
            **{f"{name}: interval, n": st.column_config.TextColumn("95 %, n", width=190) for name in numbers},
            "Run": st.column_config.TextColumn("Run", width=190, pinned=True),
            "Defense": st.column_config.TextColumn("Defense", width=130),
            "Seed": st.column_config.NumberColumn("Seed", width=60),
            **{name: st.column_config.LinkColumn(name, display_text=r"#(\d+)$", width=100) for name in counts},
            "Curves": st.column_config.LinkColumn("Curves", display_text="curves", width=80),
        },
    )
    judge = of_runs["judge"].iloc[0]
    st.caption(
        "A run is one seed: a row speaks of that adapter only. Each count leads to its answers. "
        f"Answers: judge {plain(judge)}; margins: margin (no judge)."
    )
    table_as_csv("Runs as CSV", of_runs.assign(evals=of_runs["evals"].map(evals_in_words)), "runs")


def spread_part(settings: pd.DataFrame, seeds: pd.DataFrame) -> None:
    """How far the seeds of a setting lie apart, criterion by criterion."""
    st.subheader("Spread over seeds", anchor=False)
    labels = criteria.one_line(settings) if len(settings) else {}
    rows = []
    for key, group in seeds[seeds["setting_key"].isin(labels)].groupby("setting_key", sort=False):
        cells: dict[str, object] = {"Setting": labels[key], "Seeds": ", ".join(str(seed) for seed in group["seed"])}
        for one in MARGINS.values():
            told = spread(group[one.value])
            name = one.title.partition(" (")[0]
            cells[f"{name}: each seed"] = ", ".join(one.told(value) for value in group[one.value].dropna())
            cells[f"{name}: SD"] = told["sd"]
        rows.append(cells)
    if not rows:
        return
    order = list(labels.values())
    table = pd.DataFrame(rows).sort_values("Setting", key=lambda names: names.map(order.index), kind="stable")
    sd = {name: st.column_config.NumberColumn(name, format="%.3f") for name in table if name.endswith(": SD")}
    pinned = {"Setting": st.column_config.TextColumn("Setting", width=190, pinned=True)}
    st.dataframe(table, hide_index=True, key="spread-table", placeholder="", column_config={**sd, **pinned})
    st.caption(
        "Each number is a seed's own mean: general, narrow and benign in nats a token (margin, no judge), coherence 0 to 100 by judge "
        f"{plain(settings['judge'].iloc[0])}. SD: standard deviation between seeds, from two on; two seeds tell little of a third."
    )
    table_as_csv("Seeds as CSV", seeds.assign(setting=seeds["setting_key"].map(labels)), "seeds")
