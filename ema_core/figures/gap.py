"""Gap scores: every candidate of a safe pool by its loss under the aligned model and under the misaligned ensemble."""

from __future__ import annotations

import textwrap

import pandas as pd
import plotly.graph_objects as go

from ema_core.figures.colours import style
from ema_core.figures.layout import NEUTRAL, dress, empty_figure

KINDS = {
    "candidate": ("candidate", NEUTRAL, "circle-open", 7),
    "refusal": ("refusal", style("kl").color, "x-thin", 9),
    "chosen": ("chosen", style("interleaving-plus").color, "circle", 9),
    "chosen refusal": ("chosen, a refusal", style("interleaving-plus").color, "x", 10),
}
"""What a mark can be: name in the legend, colour, symbol, size."""


def gap_scatter(scores: pd.DataFrame) -> go.Figure:
    """``scores`` has ``aligned, misaligned, score, refusal, chosen, question``; above the line misaligned models find it less likely.

    Questions are foreign text: nothing of them is rendered.
    """
    if scores.empty:
        return empty_figure("No scores to show.")
    figure = go.Figure()
    ends = [float(scores[["aligned", "misaligned"]].min().min()), float(scores[["aligned", "misaligned"]].max().max())]
    figure.add_scatter(
        x=ends, y=ends, mode="lines", name="both the same", line={"color": NEUTRAL, "dash": "dot", "width": 1}, hoverinfo="skip"
    )
    for kind, (name, color, symbol, size) in KINDS.items():
        rows = scores[_kinds(scores) == kind]
        if rows.empty:
            continue
        figure.add_scatter(
            x=rows["aligned"], y=rows["misaligned"], mode="markers", name=f"{name} ({len(rows)})",
            marker={"color": color, "symbol": symbol, "size": size, "line": {"width": 1.5, "color": color}},
            customdata=rows["score"], text=[_hover(question) for question in rows["question"]],
            hovertemplate="%{text}<br>aligned %{x:.3f}, misaligned %{y:.3f}<br>score %{customdata:.4f}<extra></extra>",
        )  # fmt: skip
    dress(figure, showlegend=True)
    figure.update_xaxes(title="Loss under the aligned model (nats a token)")
    figure.update_yaxes(title="Mean loss under the<br>misaligned ensemble (nats a token)")
    return figure


def _kinds(scores: pd.DataFrame) -> pd.Series:
    kinds = pd.Series("candidate", index=scores.index)
    kinds[scores["refusal"]] = "refusal"
    kinds[scores["chosen"]] = "chosen"
    kinds[scores["chosen"] & scores["refusal"]] = "chosen refusal"
    return kinds


def _hover(text: str) -> str:
    """A short text in which plotly finds no tag."""
    line = textwrap.shorten(str(text), 90, placeholder="…")
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
