"""A run's curve with a mark at the step whose answer is shown, as traces for the live component."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ema_core.figures.curves import Quantity, curve_traces
from ema_core.figures.layout import NEUTRAL

SMOOTHING = 0.6


def walk_traces(table: pd.DataFrame, quantity: Quantity, at: float) -> list[dict[str, Any]]:
    """The curve of one run, a line at ``at`` and the point of the curve there; empty where the run did not record it."""
    probed = quantity == "general"
    curve = curve_traces(table, quantity=quantity, smoothing=0 if probed else SMOOTHING)[:1]
    if not curve:
        return []
    known = [y for name in ("y", "y_smooth", "low", "high") for y in curve[0].get(name, ()) if y is not None]
    at = max(curve[0]["x"]) if at == float("inf") else at
    mark = {"name": f"step {at:g}", "color": NEUTRAL, "dash": "dot"}
    ends = [min(known), max(known)]
    traces = [{**curve[0], "markers": probed}, {**mark, "id": "line", "x": [at, at], "y": ends, "y_smooth": ends}]
    if (value := value_at(curve[0], at)) is not None:
        traces.append(
            {**mark, "id": "mark", "name": "answer shown", "color": curve[0]["color"], "x": [at], "y": [value], "y_smooth": [value]}
        )
    return traces


def value_at(trace: dict[str, Any], at: float) -> float | None:
    """The curve's value at a step; between two points the earlier one's, None before the first."""
    found = [y for x, y in zip(trace["x"], trace["y_smooth"], strict=True) if x <= at and y is not None]
    return found[-1] if found else None
