"""General misalignment of each setting, the undefended one on top."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from ema_core.figures.colours import style
from ema_core.figures.criterion import MARGINS
from ema_core.figures.layout import NEUTRAL, column, dress, empty_figure, error_bar
from ema_core.figures.said import footnote, hover, symbols, whose

ROW = 42
"""Height of a setting's row, in pixels."""


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
        x=values, y=list(range(len(rows))), mode="markers", error_x=bars and {**bars, "color": NEUTRAL}, showlegend=False,
        marker={"color": colors, "size": 12, "symbol": symbols(rows), "line": {"width": 2, "color": colors}},
        text=list(rows["defense_label"]), customdata=[f"{hover(row, MARGINS['general'])}<br>{whose(row)}" for row in rows.to_dict("records")],
        hovertemplate="%{text}<br>%{customdata}<extra></extra>", cliponaxis=False,
    )  # fmt: skip
    dress(figure)
    named = [
        f"{label}  <b>{value:+.2f}</b>".replace("<b>-", "<b>−") for label, value in zip(rows["defense_label"], values, strict=True)
    ]
    figure.update_yaxes(  # names stand above their rows: beside them a phone has no room left for the plot
        tickvals=list(range(len(rows))), ticktext=named, ticklabelposition="inside top", range=[len(rows) - 0.5, -0.8], showgrid=False,
    )  # fmt: skip
    figure.update_xaxes(title="General margin, change from base<br>(nats a token); left is better")
    figure.update_layout(height=150 + ROW * len(rows))
    return footnote(figure, rows, [MARGINS["general"]], below=80)
