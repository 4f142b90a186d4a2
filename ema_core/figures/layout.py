"""What all figures share: see-through, fonts and colours of text left to the page's theme."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

GRID = "rgba(128,128,128,0.25)"
NEUTRAL = "rgba(128,128,128,0.9)"
CLEAR = "rgba(0,0,0,0)"
WIDTH = 40
"""Characters of a line of text that a phone shows whole."""


def dress(figure: go.Figure, **changes: Any) -> go.Figure:
    """The shared look, on top of which a figure sets what is its own. The legend lies above: beside, it leaves a phone no plot."""
    figure.update_layout(
        template=go.layout.Template(),
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        margin={"l": 10, "r": 10, "t": 30, "b": 10},
        legend={"bgcolor": CLEAR, "orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "maxheight": 0.3},
        hoverlabel={"namelength": -1},
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, automargin=True)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, automargin=True)
    return figure.update_layout(**changes)


def empty_figure(message: str) -> go.Figure:
    """No data: the figure says what to do."""
    figure = dress(go.Figure())
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    place = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper"}
    text = "<br>".join(textwrap.wrap(message.replace("`", ""), WIDTH))
    return figure.add_annotation(text=text, showarrow=False, font={"size": 15}, **place)


def enlarged(figure: go.Figure, factor: float) -> go.Figure:
    """The same figure for a large screen: its notes, which the page's own type size does not reach, and the room for them."""
    for note in figure.layout.annotations:
        note.font.size = factor * (note.font.size or 12)
        note.yshift = factor * (note.yshift or 0)
    below, height = figure.layout.margin.b, figure.layout.height
    return figure.update_layout(margin={"b": factor * below if below else below}, height=factor * height if height else None)


def number(value: Any) -> float:
    """A float; NaN for what is none."""
    try:
        return float(value) if value is not None and not pd.isna(value) else math.nan
    except (TypeError, ValueError):
        return math.nan


def column(table: pd.DataFrame, name: str) -> list[float]:
    """A column as floats, NaN where it is missing altogether."""
    return [number(value) for value in table[name]] if name in table.columns else [math.nan] * len(table)


def error_bar(values: list[float], low: list[float], high: list[float]) -> dict[str, Any] | None:
    """A plotly error bar; marks without an interval get none, and where there is no interval at all, no bars."""
    up = [max(0.0, h - v) if math.isfinite(h - v) else None for v, h in zip(values, high, strict=True)]
    down = [max(0.0, v - lo) if math.isfinite(v - lo) else None for v, lo in zip(values, low, strict=True)]
    if not any(part is not None for part in up + down):
        return None
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.5, "width": 4}


def span(values: Iterable[float]) -> str:
    """``108``, or ``90–108`` where rows differ; empty where nobody said."""
    whole = sorted({int(value) for value in values if math.isfinite(value)})
    if not whole:
        return ""
    return f"{whole[0]}" if len(whole) == 1 else f"{whole[0]}–{whole[-1]}"


def names(table: pd.DataFrame, column_name: str) -> list[str]:
    """The distinct texts of a column, where there is such a column."""
    if column_name not in table.columns:
        return []
    return sorted({str(value) for value in table[column_name] if isinstance(value, str) and value})
