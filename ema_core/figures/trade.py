"""General misalignment against narrow behaviour, over the cheap alternatives: stopping earlier, scaling the adapter down."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from ema_core.figures.colours import NONE, parts, style
from ema_core.figures.layout import NEUTRAL, column, dress, empty_figure, error_bar
from ema_core.figures.strength import FLAG, flagged, footnote, hover, symbols, whose

ALTERNATIVES = {
    "checkpoint": ("undefended, stopped earlier", "dot", "step {:g}"),
    "scale": ("undefended, adapter scaled down", "dash", "adapter × {:g}"),
}
"""Kinds of the curve beneath: name, dash, and what a point is called."""


def trade_off(table: pd.DataFrame, curve: pd.DataFrame | None = None) -> go.Figure:
    """One mark a setting with intervals both ways; down and to the right is better.

    ``table`` is ``scorecard.setting_table`` (``defense_label, seeds``, ``general_margin`` and ``narrow_margin`` with ``_low``
    and ``_high``, ``pairs_general``, ``pairs_narrow``), of one model, data set and recipe. ``curve`` is
    ``scorecard.undefended_curve`` of it: ``kind`` (``checkpoint`` or ``scale``), ``value`` (step or factor), ``general_margin``,
    ``narrow_margin``; several points of the same value are averaged.
    """
    rows = _measured(table)
    if rows.empty:
        return empty_figure("Nothing to compare yet. Evaluate runs on both suites, general and in-domain.")
    figure = go.Figure()
    for kind, (name, dash, called) in ALTERNATIVES.items():
        points = _points(curve, kind)
        if not points.empty:
            figure.add_scatter(
                x=points["narrow_margin"], y=points["general_margin"], mode="lines+markers", name=name,
                line={"color": NEUTRAL, "dash": dash, "width": 1.5}, marker={"color": NEUTRAL, "size": 6},
                text=[f"{name}: {called.format(value)}" for value in points["value"]], hovertemplate="%{text}<extra></extra>",
            )  # fmt: skip
    rows = rows.assign(label_side=_sides(column(rows, "narrow_margin"), column(rows, "general_margin")))
    for name, group in rows.groupby(_family(rows), sort=False):
        narrow, general = column(group, "narrow_margin"), column(group, "general_margin")
        colors = [style(label).color for label in group["defense_label"]]
        figure.add_scatter(
            x=narrow, y=general, mode="markers+text", name=name, textposition=list(group["label_side"]), textfont={"size": 11},
            text=[f"{row['defense_label']}{FLAG if flagged(row) else ''}" for row in group.to_dict("records")],
            marker={"color": colors, "size": 11, "symbol": symbols(group), "line": {"width": 2, "color": colors}},
            error_x=_bar(group, "narrow", narrow, colors), error_y=_bar(group, "general", general, colors),
            customdata=[f"{hover(row, 'general')}<br>{hover(row, 'narrow')}<br>{whose(row)}" for row in group.to_dict("records")],
            hovertemplate="%{text}<br>%{customdata}<extra></extra>", cliponaxis=False,
        )  # fmt: skip
    corner = {"x": 1, "y": 0, "xref": "paper", "yref": "paper", "xanchor": "right", "yanchor": "bottom"}
    figure.add_annotation(text="better ↘", showarrow=False, font={"size": 13}, name="direction", **corner)
    for draw in (figure.add_hline, figure.add_vline):
        draw(0, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    dress(figure, showlegend=True)
    figure.update_xaxes(title="Narrow behaviour: margin,<br>change from base (nats a token)")
    figure.update_yaxes(title="General misalignment: margin,<br>change from base (nats a token)")
    return footnote(figure, rows, below=80)


def _measured(table: pd.DataFrame | None) -> pd.DataFrame:
    if table is None or table.empty or "defense_label" not in table.columns:
        return pd.DataFrame()
    both = zip(column(table, "general_margin"), column(table, "narrow_margin"), strict=True)
    return table[[math.isfinite(general) and math.isfinite(narrow) for general, narrow in both]]


def _sides(x: list[float], y: list[float]) -> list[str]:
    """Where each mark's label stands: marks close to one another take different corners."""
    sides = ("top right", "bottom left", "top left", "bottom right")
    width, height = (max(values) - min(values) or 1.0 for values in (x, y))
    found: list[str] = []
    for i in range(len(x)):
        near = {found[j] for j in range(i) if abs(x[i] - x[j]) < 0.2 * width and abs(y[i] - y[j]) < 0.12 * height}
        found.append(next((side for side in sides if side not in near), sides[0]))
    return found


def _family(rows: pd.DataFrame) -> pd.Series:
    """Legend entry of each setting: its defenses' names without strengths."""
    return rows["defense_label"].map(lambda label: " + ".join(name for name, _, _ in parts(str(label))) or NONE)


def _bar(rows: pd.DataFrame, criterion: str, values: list[float], colors: list[str]) -> dict | None:
    bar = error_bar(values, column(rows, f"{criterion}_margin_low"), column(rows, f"{criterion}_margin_high"))
    return bar and {**bar, "color": colors[0]}


def _points(curve: pd.DataFrame | None, kind: str) -> pd.DataFrame:
    if curve is None or curve.empty:
        return pd.DataFrame()
    points = curve[curve["kind"] == kind].dropna(subset=["general_margin", "narrow_margin"])
    return points.groupby("value", as_index=False)[["narrow_margin", "general_margin"]].mean()
