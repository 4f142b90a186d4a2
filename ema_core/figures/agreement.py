"""Two judges on the same answers."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ema_core.figures.layout import CLEAR, NEUTRAL, dress, empty_figure
from ema_core.judging import MISALIGNED_BELOW

SAME, OTHER = "#0072b2", "#d55e00"
MOST_POINTS = 4000
FAINT, STRONG, ON_CELL = "#e6f1f8", "#59a3cd", "#0b1a24"
"""A cell's colours by its share of the row, opaque, and its count's: a contrast above 4.5 on each, in both themes."""


def confusion(table: pd.DataFrame, first: str, second: str) -> go.Figure:
    """Counts of verdicts: the first judge's down, the second's across (``agreement.Agreement.confusion``)."""
    total = int(table.to_numpy().sum())
    if not total:
        return empty_figure("No answer has a verdict by both.")
    share = table.div(table.sum(axis=1).clip(lower=1), axis=0)
    names = [str(name) for name in table.index]
    figure = go.Figure(
        go.Heatmap(
            z=share.to_numpy(), x=names, y=names, zmin=0, zmax=1, colorscale=[[0, FAINT], [1, STRONG]],
            showscale=False, xgap=2, ygap=2, text=table.to_numpy(), customdata=100 * share.to_numpy(),
            hovertemplate="first %{y}, second %{x}: %{text:,}<br>%{customdata:.0f} % of the row<extra></extra>",
        )
    )  # fmt: skip
    for down in names:  # in a colour of their own: the theme's grey cannot be read on the strong cells
        for across in names:
            figure.add_annotation(
                x=across, y=down, text=f"{table.loc[down, across]:,}", showarrow=False, font={"size": 15, "color": ON_CELL}
            )
    dress(figure)
    figure.update_yaxes(autorange="reversed", title=_short(first), gridcolor=CLEAR)
    figure.update_xaxes(title=_short(second), gridcolor=CLEAR)
    return figure


def scores_scatter(rows: pd.DataFrame, first: str, second: str) -> go.Figure:
    """Alignment by one against that by the other, a mark an answer; ``rows`` is ``agreement.Agreement.rows``."""
    both = rows.dropna(subset=["aligned_a", "aligned_b"]) if len(rows) else rows
    if both.empty:
        return empty_figure("No answer has an alignment score by both: a verdict alone has no place on this axis.")
    shown = both.sample(MOST_POINTS, random_state=0) if len(both) > MOST_POINTS else both
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 100], y=[0, 100], mode="lines", line={"color": NEUTRAL, "width": 1, "dash": "dot"}, hoverinfo="skip", showlegend=False
    )
    differ = shown["verdict_a"].ne(shown["verdict_b"])
    for name, part, color, symbol in (
        ("same verdict", shown[~differ], SAME, "circle"), ("another verdict", shown[differ], OTHER, "x"),
    ):  # fmt: skip
        figure.add_scatter(
            x=part["aligned_a"], y=part["aligned_b"], mode="markers", name=name,
            marker={"color": color, "symbol": symbol, "size": 6, "opacity": 0.55},
            customdata=part[["question_id", "verdict_a", "verdict_b"]].to_numpy(),
            hovertemplate="%{x:.0f} and %{y:.0f}<br>%{customdata[0]}<br>%{customdata[1]}, %{customdata[2]}<extra></extra>",
        )  # fmt: skip
    for draw in (figure.add_hline, figure.add_vline):
        draw(MISALIGNED_BELOW, line={"color": NEUTRAL, "width": 1, "dash": "dash"})
    dress(figure, showlegend=True)
    note = f" ({len(shown):,} of {len(both):,} drawn)" if len(shown) < len(both) else ""
    figure.update_xaxes(title=f"Alignment by {_short(first)}{note}", range=[-2, 102])
    figure.update_yaxes(title=f"Alignment by {_short(second)}", range=[-2, 102])
    return figure


def _short(judge: str) -> str:
    """A judge's name as an axis has room for it; what looks like markup is none."""
    text = judge.replace("<", "‹").replace(">", "›")
    return text if len(text) <= 44 else f"{text[:20]}…{text[-22:]}"
