"""Training curves of one or more runs, as a figure and as plain traces for the live component."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ema_core.figures.colours import faint, parts, style
from ema_core.figures.layout import dress, empty_figure
from ema_core.figures.smoothing import smooth, thin

Quantity = Literal[
    "ce", "loss", "raw", "weighted", "share", "learning_rate", "grad_norm", "tokens_per_s", "general", "in_domain", "projection"
]
QUANTITIES: dict[str, str] = {
    "ce": "Cross-entropy (nats a response token)",
    "loss": "Total loss (cross-entropy + weighted penalties)",
    "raw": "Penalty before weighting (the defense's own unit)",
    "weighted": "Penalty as added to the loss",
    "share": "Penalty as a share of the total loss (%)",
    "learning_rate": "Learning rate",
    "grad_norm": "Gradient norm",
    "tokens_per_s": "Speed (tokens/s)",
    "general": "Margin on general pairs (nats a token, change from the base)",
    "in_domain": "Margin on in-domain pairs (nats a token, change from the base)",
    "projection": "Projection on the persona vector (change from the base)",
}
"""Axis label of each quantity."""
PENALTIES = ("raw", "weighted", "share")
"""Those of a defense's penalty; ``share`` is reckoned from the weighted one and the step's loss."""
PROBED = ("general", "in_domain", "projection")
"""Those that live probes measure: for them ``steps`` is the table ``probes``."""
POINTS = 2000
_ALL_POINTS = 60_000  # of all runs together; a browser draws that many
MANY = 60
"""More curves than these are drawn as one line a defense, with gaps: a browser needs a second for some hundred lines of their own."""


def curve_traces(
    steps: pd.DataFrame, penalties: pd.DataFrame | None = None, quantity: Quantity = "ce", smoothing: float = 0.6
) -> list[dict[str, Any]]:
    """One plain dict a curve: ``id, name, defense, x, y, y_smooth, color, dash``; missing numbers are None, so that it is JSON.

    Where there are intervals, ``low`` and ``high`` are theirs. ``steps`` (or ``probes`` in their place: ``PROBED``) and
    ``penalties`` are as the store's reader gives them: ``run_id``, ``step``, the quantity, and for the name ``name``,
    ``defense_label``, ``seed`` where there are any. Penalties give a curve a run and defense.

    Raises:
        ValueError: unknown quantity, or a smoothing outside [0, 1).
    """
    if quantity not in QUANTITIES:
        raise ValueError(f'there is no quantity "{quantity}"; known: {", ".join(QUANTITIES)}')
    of_penalties = quantity in PENALTIES
    if quantity == "share" and penalties is not None and not penalties.empty:
        penalties = with_share(steps, penalties)
    frame = penalties if of_penalties else steps
    if frame is None or frame.empty or quantity not in frame.columns:
        return []
    by = ["run_id", "defense"] if of_penalties else ["run_id"]
    groups = [(key, group) for key, group in frame.groupby(by, sort=False) if group[quantity].notna().any()]
    names = run_names(frame)
    points = min(
        POINTS, max(100, _ALL_POINTS // max(1, len(groups))) if len(groups) <= MANY else max(20, _ALL_POINTS // 2 // len(groups))
    )
    traces = []
    for key, group in groups:
        run_id, *rest = key
        label = _first(group, "defense_label")
        name, look = names[run_id], style(label)
        if of_penalties and len(parts(label)) != 1:
            name, look = f"{name} · {rest[0]}", style(rest[0])
        group = group.sort_values("step")
        raw = group[quantity].to_numpy(dtype=float, na_value=math.nan)
        soft = smooth(raw, smoothing)
        kept = thin(raw, points)
        traces.append(
            {
                "id": "/".join([run_id, *rest]),
                "name": name,
                "defense": " · ".join([label, *(rest if of_penalties and len(parts(label)) != 1 else [])]),
                "x": [int(step) for step in group["step"].to_numpy()[kept]],
                "y": _plain(raw[kept]),
                "y_smooth": _plain(soft[kept]),
                "color": look.color,
                "dash": look.dash,
                **{
                    end: _plain(group[f"{quantity}_{end}"].to_numpy(dtype=float, na_value=math.nan)[kept])
                    for end in ("low", "high")
                    if f"{quantity}_{end}" in group.columns
                },
            }
        )
    return traces


def with_share(steps: pd.DataFrame, penalties: pd.DataFrame) -> pd.DataFrame:
    """``penalties`` with ``share``: the weighted one in % of the step's total loss; None where that is not above zero."""
    joined = penalties.merge(steps[["run_id", "step", "loss"]], on=["run_id", "step"], how="left")
    return joined.assign(share=100 * joined["weighted"] / joined["loss"].where(joined["loss"] > 0))


def training_curves(
    steps: pd.DataFrame,
    penalties: pd.DataFrame | None = None,
    quantity: Quantity = "ce",
    smoothing: float = 0.6,
    raw: bool = True,
    axis_range: Mapping[str, Sequence[float]] | None = None,
) -> go.Figure:
    """Runs overlaid: a smoothed line each (of more than ``MANY`` those of a defense as one), and where ``raw`` the values themselves,
    faint, behind it.

    ``axis_range`` keeps a zoom: ``{"x": (10, 40), "y": (1.5, 3)}``, either of them.
    """
    traces = curve_traces(steps, penalties, quantity, smoothing)
    if not traces:
        return empty_figure(_nothing(steps, quantity))
    figure = go.Figure()
    if raw and smoothing > 0:
        for trace in traces:
            figure.add_scatter(
                x=trace["x"], y=trace["y"], mode="lines", line={"color": faint(trace["color"], 0.3), "width": 1},
                legendgroup=trace["id"], showlegend=False, hoverinfo="skip", name=trace["name"],
            )  # fmt: skip
    for trace in traces if len(traces) <= MANY else ():
        alone = len(trace["x"]) == 1
        figure.add_scatter(
            x=trace["x"], y=trace["y_smooth"], mode="markers" if alone else "lines", name=trace["name"], legendgroup=trace["id"],
            line={"color": trace["color"], "dash": trace["dash"], "width": 2}, marker={"color": trace["color"], "size": 7},
            customdata=trace["y"], hovertemplate="step %{x}: %{y:.4g} (raw %{customdata:.4g})",
        )  # fmt: skip
    for label, together in _by_defense(traces).items() if len(traces) > MANY else ():
        line = {
            name: np.array([value for trace in together for value in (*trace[name], None)], np.float32)
            for name in ("x", "y", "y_smooth")
        }
        look = {"color": together[0]["color"], "dash": together[0]["dash"], "width": 1}
        figure.add_scatter(
            x=line["x"], y=line["y_smooth"], mode="lines", name=f"{label} ({len(together)})", line=look, customdata=line["y"],
            text=[trace["name"] for trace in together for _ in (*trace["x"], None)],
            hovertemplate="%{text}, step %{x}: %{y:.4g} (raw %{customdata:.4g})<extra></extra>",
        )  # fmt: skip
    dress(figure, hovermode="x unified" if len(traces) <= 12 else "closest", uirevision="curves", showlegend=True)
    figure.update_xaxes(title="Training step")
    figure.update_yaxes(title=QUANTITIES[quantity])
    if quantity == "learning_rate":
        figure.update_yaxes(exponentformat="power")
    for axis, limits in (axis_range or {}).items():
        (figure.update_xaxes if axis == "x" else figure.update_yaxes)(range=list(limits))
    return figure


def curves_data(
    steps: pd.DataFrame, penalties: pd.DataFrame | None = None, quantity: Quantity = "ce", smoothing: float = 0.6
) -> pd.DataFrame:
    """What ``training_curves`` draws: ``run, name, defense, step, value, smoothed``, a row a point (long curves are thinned)."""
    parts = [
        pd.DataFrame({"run": t["id"], "name": t["name"], "defense": t["defense"], "step": t["x"], "value": t["y"], "smoothed": t["y_smooth"]})
        for t in curve_traces(steps, penalties, quantity, smoothing)
    ]  # fmt: skip
    names = ["run", "name", "defense", "step", "value", "smoothed"]
    return (pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)).assign(quantity=QUANTITIES[quantity])


def _by_defense(traces: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for trace in traces:
        found.setdefault(trace["defense"], []).append(trace)
    return found


def run_names(frame: pd.DataFrame) -> dict[str, str]:
    """What each run is called in a legend: its name, else defense and seed; the id's end where two would be called the same."""
    found = {run_id: _name(group) for run_id, group in frame.groupby("run_id", sort=False)}
    recorded = {run_id: _first(group, "recorded") for run_id, group in frame.groupby("run_id", sort=False)}
    if any(recorded.values()) and not all(recorded.values()):  # both kinds in one figure
        found = {run_id: f"{name} · recorded" if recorded[run_id] else name for run_id, name in found.items()}
    shared = Counter(found.values())
    return {run_id: f"{name} · {run_id[-4:]}" if shared[name] > 1 else name for run_id, name in found.items()}


def _name(group: pd.DataFrame) -> str:
    if own := _first(group, "name"):
        return own
    label = _first(group, "defense_label") or str(group["run_id"].iloc[0])
    seed = group["seed"].iloc[0] if "seed" in group.columns else None
    return label if seed is None or pd.isna(seed) else f"{label} · seed {int(seed)}"


def _first(group: pd.DataFrame, column: str) -> str:
    value = group[column].iloc[0] if column in group.columns else None
    return value if isinstance(value, str) else ""


def _plain(values: Iterable[float]) -> list[float | None]:
    return [float(f"{value:.7g}") if np.isfinite(value) else None for value in values]


def _nothing(steps: pd.DataFrame | None, quantity: Quantity) -> str:
    if quantity in PROBED:
        return "None of these runs measured it. A new run has live probes unless they are set to none in its form."
    if steps is None or steps.empty:
        return "No steps yet. Start a run on Fine-tune, or choose one that has begun."
    if quantity in PENALTIES:
        return "None of these runs has a penalty. Choose a run with a defense such as kl."
    return f"These runs recorded no {QUANTITIES[quantity].split(' (')[0].lower()}."
