"""How well a persona vector tells held-out answers apart, layer by layer."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from ema_core.figures.layout import NEUTRAL, column, dress, empty_figure

AUC, DIFFERENCE = "#0072b2", "#d55e00"


def separation(table: pd.DataFrame | None, used: int, held_out: int, sides: tuple[str, str]) -> go.Figure:
    """AUC and standardised difference by layer, of ``held_out`` answers of each side; the layer that is ``used`` is marked.

    ``table``: columns ``layer``, ``auc``, ``difference``; layer 0 is the embedding, which knows the words alone.
    """
    if table is None or table.empty:
        return empty_figure("No vector yet: build one above")
    layers, auc, difference = (column(table, name) for name in ("layer", "auc", "difference"))
    figure = go.Figure()
    figure.add_scatter(
        x=layers, y=auc, name="AUC (left)", mode="lines+markers", line={"color": AUC, "width": 2}, marker={"size": 6, "symbol": "circle"},
        hovertemplate="layer %{x}: AUC %{y:.3f}<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=layers, y=difference, name="difference in SD (right)", mode="lines+markers", yaxis="y2", line={"color": DIFFERENCE, "width": 2, "dash": "dash"},
        marker={"size": 6, "symbol": "diamond"}, hovertemplate="layer %{x}: %{y:.2f} SD<extra></extra>",
    )  # fmt: skip
    dress(figure, showlegend=True)
    figure.add_hline(0.5, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    figure.add_vline(used, line={"color": NEUTRAL, "width": 1.5}, name="used")
    place = {"x": used, "y": 0.02, "yref": "paper", "xanchor": "right", "yanchor": "bottom"}
    figure.add_annotation(text=f"layer {used} is used ", showarrow=False, font={"size": 12}, **place)
    figure.update_xaxes(title=f"Layer (0 = embedding)<br>{held_out} {sides[0]} and {held_out} {sides[1]} answers, held out")
    top = max([value for value in difference if math.isfinite(value)] or [1.0])
    bottom = min([-0.05 * top, *(value for value in difference if math.isfinite(value))])
    figure.update_yaxes(title="AUC (0.5 = chance)", range=[min(0.45, *auc), 1.02])
    second = {"overlaying": "y", "side": "right", "showgrid": False, "automargin": True, "zeroline": False}
    second |= {"title": "Difference of means (SD)", "range": [bottom, 1.05 * top], "tickmode": "auto", "tickformat": ".1f"}
    return figure.update_layout(yaxis2=second)
