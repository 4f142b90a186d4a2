"""The trade-off over the cheap alternatives; a mark, or its row below, opens the setting's runs."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from ema_core.figures import DOMINATED, Measure
from pages.widgets import criteria
from pages.widgets.answer_links import address
from pages.widgets.chrome import plain
from pages.widgets.compare_data import Settled, traded
from pages.widgets.figure import figure
from pages.widgets.terms import term


@st.fragment
def trade_part(
    rows: pd.DataFrame, run_ids: tuple[str, ...], version: Settled, measure: Measure, published: pd.DataFrame | None, group: str
) -> None:
    """One mark a setting; down and to the right is better."""
    drawn, data, curve = traded(rows, tuple(rows["setting_key"]), run_ids, str(rows["judge"].iloc[0]), measure, published, version)
    picked = figure(
        drawn,
        data,
        key="trade-off",
        title=f"Trade-off of general misalignment and narrow behaviour, {group}",
        alt="General misalignment against narrow behaviour, a mark a setting, over the undefended run stopped earlier and scaled down.",
        height=520,
        picks=True,
    )
    opened(rows, picked)
    if len(data) and data["what"].eq("setting").any():
        st.caption(f"Dim settings are dominated: {DOMINATED}. The others are joined: the frontier.")
    if measure == "rate" and not (len(data) and data["what"].eq("setting").any()):
        why = next(
            (text for text in (*rows["narrow_rate_why"], *rows["general_rate_why"]) if isinstance(text, str) and text),
            "not sampled",
        )
        st.caption(f"Nothing of ours is on this figure: {plain(why)}.")
    if measure == "rate":
        st.caption(
            "The cheap alternatives are measured in margins alone: no answers are sampled from checkpoints and scaled adapters."
        )
    elif not curve["kind"].duplicated().any():  # the final adapter alone
        st.caption(
            "The cheap alternatives are missing: evaluate the undefended run with its checkpoints and its scaled-down adapter. "
            "Without them nobody can tell a defense from stopping earlier."
        )
    else:
        few, most = int(curve["seeds"].min()), int(curve["seeds"].max())
        seeds = f"{most} seed{'s' if most > 1 else ''}" if few == most else f"{few} to {most} seeds a point"
        st.caption(
            "A defense is worth something only **below** the grey curves: the undefended run stopped earlier, or its adapter "
            f"scaled down (mean of {seeds}). Both axes: margin (no judge).",
            help=term("cheap"),
        )
    with st.expander("The settings of this figure as a list, with links", key="trade-list"):
        st.table(links(rows, data), border="horizontal", hide_index=True, alt="Settings of the trade-off with links to their runs")


def opened(rows: pd.DataFrame, picked: list[str]) -> None:
    """What a click on a mark opens: the setting's runs, answers and curves."""
    labels = criteria.one_line(rows)
    chosen = [key for key in picked if key in labels]
    if not chosen:
        st.caption("Click on a mark to open its runs; the list below has the same links.")
        return
    for key in chosen:
        row = rows[rows["setting_key"].eq(key)].iloc[0]
        with st.container(horizontal=True, vertical_alignment="center", border=True, key=f"opened-{key[:12]}"):
            st.markdown(f"**{plain(labels[key])}**", width="content")
            for label, icon, page, query in (
                ("Its runs", "compare_arrows", "compare", {"run": list(row["runs"]), "tab": "Runs"}),
                ("Its answers", "forum", "samples", {"setting": key, "judge": row["judge"]}),
                ("Its training curves", "show_chart", "fine_tune", {"run": list(row["runs"]), "part": "Runs"}),
            ):
                st.page_link(f"pages/{page}.py", label=label, icon=f":material/{icon}:", query_params=query)


def links(rows: pd.DataFrame, data: pd.DataFrame) -> pd.DataFrame:
    """The settings in words, each with the ways that a click on its mark opens."""
    labels = criteria.one_line(rows)
    over = dict(zip(data["setting_key"], data["dominated_by"], strict=True)) if "setting_key" in data else {}
    cells = []
    for row in rows.to_dict("records"):
        runs = list(row["runs"])
        ways = {
            "runs": address("compare", run=runs, tab="Runs"), "answers": address("samples", setting=row["setting_key"], judge=row["judge"]),
            "curves": address("fine-tune", run=runs, part="Runs"),
        }  # fmt: skip
        by = over.get(row["setting_key"])
        place = "not on the figure" if not isinstance(by, str) else f"dominated by {by}" if by else "on the frontier"
        cells.append(
            {
                "Setting": f"**{plain(labels[row['setting_key']])}**",
                "General": criteria.lines(_value(row, "general_margin")), "Narrow": criteria.lines(_value(row, "narrow_margin")),
                "Place": plain(place), "Open": " · ".join(f"[{name}]({url})" for name, url in ways.items()),
            }
        )  # fmt: skip
    return pd.DataFrame(cells)


def _value(row: dict, name: str) -> str:
    return (
        f"{criteria.signed(row[name])} {criteria.interval(row, name)}"
        if criteria.here(row[name])
        else criteria.muted("not measured")
    )
