"""General misalignment of each setting, the undefended one on top."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from ema_core.figures.colours import style
from ema_core.figures.layout import NEUTRAL, column, dress, empty_figure, error_bar
from ema_core.figures.strength import footnote, hover, symbols, whose


def leak(table: pd.DataFrame) -> go.Figure:
    """One row a setting with its interval, in the order of ``table`` (``scorecard.setting_table``) from top to bottom; left is better."""
    rows = table[[math.isfinite(value) for value in column(table, "general_margin")]] if "defense_label" in table else table[:0]
    if rows.empty:
        return empty_figure("No general margins yet. Evaluate an undefended run and a defended one.")
    values = column(rows, "general_margin")
    bars = error_bar(values, column(rows, "general_margin_low"), column(rows, "general_margin_high"))
    colors = [style(label).color for label in rows["defense_label"]]
    figure = go.Figure()
    figure.add_vline(0, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    figure.add_scatter(
        x=values, y=list(rows["defense_label"]), mode="markers+text", error_x=bars and {**bars, "color": NEUTRAL}, showlegend=False,
        text=[f"{value:+.2f}".replace("-", "−") for value in values], textposition="top center", cliponaxis=False,
        marker={"color": colors, "size": 12, "symbol": symbols(rows), "line": {"width": 2, "color": colors}},
        customdata=[f"{hover(row, 'general')}<br>{whose(row)}" for row in rows.to_dict("records")],
        hovertemplate="%{y}<br>%{customdata}<extra></extra>",
    )  # fmt: skip
    dress(figure)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(title="General margin, change from base (nats a token); left is better")
    return footnote(figure, rows)
