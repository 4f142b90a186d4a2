"""A run's curve with a mark at the step whose answer is shown, as traces for the live component."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ema_core.figures.curves import Quantity, curve_traces
from ema_core.figures.layout import NEUTRAL

SMOOTHING = 0.6


def walk_traces(table: pd.DataFrame, quantity: Quantity, at: float) -> list[dict[str, Any]]:
    """The curve of one run, a line at ``at`` and, where it was measured there, its point; empty where the run did not record it."""
    probed = quantity == "general"
    curve = curve_traces(table, quantity=quantity, smoothing=0 if probed else SMOOTHING)[:1]
    if not curve:
        return []
    known = [y for name in ("y", "y_smooth", "low", "high") for y in curve[0].get(name, ()) if y is not None]
    at = max(curve[0]["x"]) if at == math.inf else at
    mark = {"name": f"step {at:g}", "color": NEUTRAL, "dash": "dot"}
    ends = [min(known), max(known)]
    traces = [{**curve[0], "markers": probed}, {**mark, "id": "line", "x": [at, at], "y": ends, "y_smooth": ends}]
    if (found := measured(curve[0], at)) is not None:
        dot = {"name": "answer shown", "color": curve[0]["color"], "x": [at], "y": [found[0]], "y_smooth": [found[0]]}
        traces.append({**mark, **dot, "id": "mark"})
    return traces


def measured(trace: dict[str, Any], at: float) -> tuple[float, float | None, float | None] | None:
    """The curve's value at just this step, with its interval where it has one; None where nothing was measured there."""
    if at not in trace["x"]:
        return None
    place = trace["x"].index(at)
    value, low, high = (trace[name][place] if name in trace else None for name in ("y_smooth", "low", "high"))
    return None if value is None else (value, low, high)
