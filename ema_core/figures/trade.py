"""General misalignment against narrow behaviour, over the cheap alternatives: stopping earlier, scaling the adapter down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ema_core.figures.colours import NONE, faint, parts, style
from ema_core.figures.criterion import Measure, criterion
from ema_core.figures.layout import NEUTRAL, column, dress, empty_figure, error_bar
from ema_core.figures.said import FLAG, flagged, footnote, hover, symbols, whose

ALTERNATIVES = {
    "checkpoint": ("undefended, stopped earlier", "dot", "step {:g}"),
    "scale": ("undefended, adapter scaled down", "dash", "adapter × {:g}"),
}
"""Kinds of the curve beneath: name, dash, and what a point is called."""
DOMINATED = "another setting here has no more general misalignment and no less narrow behaviour (means; intervals are not weighed)"
"""The rule by which a setting is dimmed."""
FRONTIER = "frontier"
_SETTING = ["setting_key", "model", "dataset", "recipe_label", "seeds", "conditional", "judge", "estimand"]
_DIM = 0.35
_CORNERS = {"top right": (True, True), "bottom left": (False, False), "top left": (False, True), "bottom right": (True, False)}


def trade_off_data(
    table: pd.DataFrame, curve: pd.DataFrame | None = None, measure: Measure = "margin", published: pd.DataFrame | None = None
) -> pd.DataFrame:
    """What ``trade_off`` draws, a row a mark: ``what`` (``setting``, ``checkpoint``, ``scale`` or ``published``), ``label``, ``narrow``
    and ``general`` with ``_low, _high, _n`` in the axes' unit, ``dominated_by`` (labels; empty: on the frontier)."""
    rows = _measured(table, measure)
    found = []
    if not rows.empty:
        values = {}
        for key in ("narrow", "general"):
            one = criterion(key, measure)
            for end in ("", "_low", "_high"):
                values[f"{key}{end}"] = [one.factor * value for value in column(rows, f"{one.value}{end}")]
            values[f"{key}_n"] = column(rows, one.count)
        over = beaten(values["narrow"], values["general"])
        labels = [str(label) for label in rows["defense_label"]]
        by = ["; ".join(labels[j] for j in who) for who in over]
        known = [name for name in _SETTING if name in rows.columns]
        found.append(rows[known].assign(what="setting", label=labels, **values, dominated_by=by))
    for kind, (_, _, called) in ALTERNATIVES.items():
        points = _points(curve, kind) if measure == "margin" else pd.DataFrame()
        if not points.empty:
            found.append(
                pd.DataFrame(
                    {
                        "what": kind, "label": [called.format(value) for value in points["value"]], "narrow": points["narrow_margin"],
                        "general": points["general_margin"], "seeds": points["seeds"],
                    }
                )
            )  # fmt: skip
    if published is not None and not published.empty and measure == "rate":
        both = published.pivot(index=["name", "label"], columns="criterion", values="value")
        if {"narrow", "general"} <= set(both.columns):
            told = published.groupby(["name", "label"], sort=False)["told"].agg("<br>".join).rename("told")
            both = both.dropna(subset=["narrow", "general"]).join(told).reset_index()
            found.append(both[["name", "label", "told", "narrow", "general"]].assign(what="published"))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["what", "label", "narrow", "general"])


def trade_off(
    table: pd.DataFrame, curve: pd.DataFrame | None = None, measure: Measure = "margin", published: pd.DataFrame | None = None
) -> go.Figure:
    """One mark a setting with intervals both ways; down and to the right is better. ``customdata`` of a mark is its setting's key.

    ``table`` is ``scorecard.setting_table`` of one model, data set and recipe. ``curve`` is ``alternatives.undefended_curve`` of it
    (margins alone); several points of the same value are averaged. Dominated settings (``DOMINATED``) are dimmed, the others joined.
    ``published``: numbers of others, in per cent alone.
    """
    rows, drawn = _measured(table, measure), trade_off_data(table, curve, measure, published)
    foreign = drawn[drawn["what"].eq("published")]
    if rows.empty and foreign.empty:
        return empty_figure(_nothing(table, measure))
    narrow, general = criterion("narrow", measure), criterion("general", measure)
    figure = go.Figure()
    for kind, (name, dash, _) in ALTERNATIVES.items():
        points = drawn[drawn["what"].eq(kind)]
        if not points.empty:
            figure.add_scatter(
                x=points["narrow"], y=points["general"], mode="lines+markers", name=name,
                line={"color": NEUTRAL, "dash": dash, "width": 1.5}, marker={"color": NEUTRAL, "size": 6},
                text=[f"{name}: {label}" for label in points["label"]], hovertemplate="%{text}<extra></extra>",
                unselected={"marker": {"opacity": 1}},
            )  # fmt: skip
    settings = drawn[drawn["what"].eq("setting")].reset_index(drop=True)
    if len(settings):
        best = settings[settings["dominated_by"].eq("")].sort_values("narrow")
        if len(best) > 1:
            figure.add_scatter(
                x=best["narrow"], y=best["general"], mode="lines", name=FRONTIER, hoverinfo="skip",
                line={"color": NEUTRAL, "width": 2.5, "shape": "linear"}, opacity=0.7,
            )  # fmt: skip
        rows = rows.assign(
            label_side=_sides(settings, drawn[drawn["what"].isin(ALTERNATIVES)]), dominated=list(settings["dominated_by"].ne("")),
            dominated_by=list(settings["dominated_by"]),
        )  # fmt: skip
        named: set[str] = set()
        for (name, dim), group in rows.groupby([_family(rows), "dominated"], sort=False):
            at = [list(rows.index).index(index) for index in group.index]
            own = settings.iloc[at]
            colors = [style(label).color for label in group["defense_label"]]
            records = group.to_dict("records")
            opacity = _DIM if dim else 1.0  # of marks and bars; their words stay readable
            figure.add_scatter(
                x=list(own["narrow"]), y=list(own["general"]), mode="markers+text", name=name, legendgroup=name,
                showlegend=name not in named, textposition=[side or "top right" for side in group["label_side"]], textfont={"size": 11, **({"color": NEUTRAL} if dim else {})},
                text=[f"{row['defense_label']}{FLAG if flagged(row) else ''}" if row["label_side"] else "" for row in records], 
                marker={"opacity": opacity, "color": colors, "size": 11, "symbol": symbols(group), "line": {"width": 2, "color": colors}},
                error_x=_bar(own, "narrow", faint(colors[0], opacity)), error_y=_bar(own, "general", faint(colors[0], opacity)),
                customdata=[row.get("setting_key", "") for row in records],
                hovertext=["<br>".join(filter(None, (f"{row['defense_label']}", hover(row, general), hover(row, narrow), whose(row), f"dominated by {_short(row['dominated_by'])}" if dim else ""))) for row in records],
                hovertemplate="%{hovertext}<extra></extra>", cliponaxis=False, selected={"marker": {"size": 16}},
                unselected={"marker": {"opacity": opacity}, "textfont": {"color": NEUTRAL}},
            )  # fmt: skip
            named.add(name)
    for name, told in foreign.groupby("name", sort=False) if len(foreign) else ():
        figure.add_scatter(
            x=told["narrow"], y=told["general"], mode="markers+text", name=str(name), text=told["label"], textposition="top center",
            textfont={"size": 10, "color": NEUTRAL}, marker={"symbol": "circle-open", "size": 12, "color": NEUTRAL, "line": {"width": 2}},
            hovertext=told["told"], hovertemplate="%{hovertext}<extra></extra>", cliponaxis=False,
        )  # fmt: skip
    corner = {"x": 1, "y": 0.06, "xref": "paper", "yref": "paper", "xanchor": "right", "yanchor": "bottom"}
    figure.add_annotation(text="better ↘", showarrow=False, font={"size": 13}, name="direction", **corner)
    for draw in (figure.add_hline, figure.add_vline) if measure == "margin" else ():
        draw(0, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    dress(figure, showlegend=True)
    figure.update_xaxes(title=_axis("Narrow behaviour", narrow.axis))
    figure.update_yaxes(title=_axis("General misalignment", general.axis))
    more = ["dim: dominated by another setting"] if len(settings) and settings["dominated_by"].ne("").any() else []
    more += ["hollow grey: published by others, other model and judge"] if len(foreign) else []
    more += ["crowded marks: hover for their names"] if len(rows) and rows["label_side"].eq("").any() else []
    if rows.empty:
        return footnote(figure, foreign.assign(seeds=math.nan), [], below=80, more=more)
    return footnote(figure, rows, [general, narrow], below=80, more=more)


def beaten(narrow: Sequence[float], general: Sequence[float]) -> list[list[int]]:
    """For each setting the places of those that dominate it: at most its general misalignment, at least its narrow behaviour, and
    not the same in both."""
    points = list(zip(narrow, general, strict=True))
    return [
        [j for j, (x, y) in enumerate(points) if x >= own_x and y <= own_y and (x, y) != (own_x, own_y)] for own_x, own_y in points
    ]


def _axis(name: str, unit: str) -> str:
    first, _, rest = unit.partition(", ")
    return f"{name}: {first.lower()},<br>{rest}" if rest else f"{name}:<br>{unit[0].lower()}{unit[1:]}"


def _nothing(table: pd.DataFrame, measure: Measure) -> str:
    if measure == "rate" and table is not None and "narrow_rate_why" in table:
        whys = [why for why in table["narrow_rate_why"] if isinstance(why, str) and why]
        if whys:
            return f"No rate of narrow behaviour: {whys[0]}."
    return "Nothing to compare yet. Evaluate runs on both suites, general and in-domain."


def _short(labels: str) -> str:
    first, *rest = labels.split("; ")
    return f"{first} and {len(rest)} more" if rest else first


def _measured(table: pd.DataFrame | None, measure: Measure) -> pd.DataFrame:
    if table is None or table.empty or "defense_label" not in table.columns:
        return pd.DataFrame()
    both = zip(*(column(table, criterion(key, measure).value) for key in ("general", "narrow")), strict=True)
    return table[[math.isfinite(general) and math.isfinite(narrow) for general, narrow in both]].reset_index(drop=True)


def _sides(settings: pd.DataFrame, others: pd.DataFrame) -> list[str]:
    """Where each mark's label stands: at the corner with the fewest marks and pieces of a curve under it, the first of equals; "" where
    every corner would print it over another label (hovering names it)."""
    ends = {axis: [column(settings, f"{axis}{end}") for end in ("", "_low", "_high")] for axis in ("narrow", "general")}
    spans = {}
    for axis, values in ends.items():
        known = np.array([*np.ravel(values), *column(others, axis)], dtype=float)
        spans[axis] = (np.nanmin(known), np.nanmax(known) - np.nanmin(known) or 1.0)

    def place(rows: pd.DataFrame) -> np.ndarray:
        return np.column_stack([(np.array(column(rows, axis)) - low) / span for axis, (low, span) in spans.items()])

    marks, between = place(settings), np.linspace(0, 1, 30)[:, None]
    curves = [place(rows) for _, rows in others.groupby("what", sort=False)]
    under = [start + between * (end - start) for points in curves for start, end in pairwise(points)]
    taken: list[np.ndarray] = []
    found = []
    for number, (mark, label) in enumerate(zip(marks, settings["label"], strict=True)):
        size = np.array([0.009 * len(label), 0.055])  # of letters of 11 pixels in a figure some 850 by 350 pixels large
        here = np.vstack([*under, np.delete(marks, number, axis=0)])
        best, fewest = "", math.inf
        for side, (right, up) in _CORNERS.items():
            low = mark + np.array([0.01 if right else -0.01 - size[0], 0.01 if up else -0.01 - size[1]])
            box = np.array([low, low + size])
            if any((box[0] < other[1]).all() and (other[0] < box[1]).all() for other in taken):
                continue
            count = ((here > box[0]) & (here < box[1])).all(axis=1).sum()
            if count < fewest:
                best, fewest, where = side, count, box
        found.append(best)
        if best:
            taken.append(where)
    return found


def _family(rows: pd.DataFrame) -> pd.Series:
    """Legend entry of each setting: its defenses' names without strengths."""
    return rows["defense_label"].map(lambda label: " + ".join(name for name, _, _ in parts(str(label))) or NONE)


def _bar(rows: pd.DataFrame, key: str, color: str) -> dict | None:
    bar = error_bar(list(rows[key]), list(rows[f"{key}_low"]), list(rows[f"{key}_high"]))
    return bar and {**bar, "color": color}


def _points(curve: pd.DataFrame | None, kind: str) -> pd.DataFrame:
    if curve is None or curve.empty:
        return pd.DataFrame()
    points = curve[curve["kind"] == kind].dropna(subset=["general_margin", "narrow_margin"])
    points = points if "seeds" in points else points.assign(seeds=math.nan)
    return points.groupby("value", as_index=False)[["narrow_margin", "general_margin", "seeds"]].mean()
