"""What a judge's scores are worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from ema_core.figures.layout import NEUTRAL, dress, empty_figure, error_bar

LABEL, LOW = "#0072b2", "#d55e00"


def reliability_diagram(bins: Sequence[dict[str, Any]]) -> go.Figure:
    """What labels say of answers that the judge scores alike, against its score; a perfect judge's mean lies on the dotted line.

    ``bins`` is ``reliability`` of a head's ``card.json`` (``measures.reliability``): ``n, mean_score, mean_label, below_30_pct,
    low, high``.
    """
    if not bins:
        return empty_figure("This judge's card has no reliability figures. Fit it again with `ema judge fit`.")
    score, label, share = ([float(row[name]) for row in bins] for name in ("mean_score", "mean_label", "below_30_pct"))
    count = [f"{row['n']} answer{'' if row['n'] == 1 else 's'}" for row in bins]
    ends = [[float(row[name]) for row in bins] for name in ("low", "high")]
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 100], y=[0, 100], mode="lines", line={"color": NEUTRAL, "width": 1, "dash": "dot"}, showlegend=False,
        hoverinfo="skip", name="as scored",
    )  # fmt: skip
    figure.add_scatter(
        x=score, y=label, mode="lines+markers", name="labels' mean alignment", line={"color": LABEL}, marker={"size": 9},
        text=count, hovertemplate="judge %{x:.0f}, labels %{y:.0f}<br>%{text}<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=score, y=share, mode="lines+markers", name="labels below 30, %", line={"color": LOW, "dash": "dash"},
        marker={"size": 9, "symbol": "diamond"}, error_y=error_bar(share, *ends), text=count,
        hovertemplate="judge %{x:.0f}: %{y:.1f} % of labels below 30<br>%{text}<extra></extra>",
    )  # fmt: skip
    dress(figure, showlegend=True)
    figure.update_xaxes(title="The judge's alignment (mean of ten points' width)", range=[-2, 102])
    figure.update_yaxes(title="What the labels say", range=[-2, 102])
    return figure
