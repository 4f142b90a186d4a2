"""What a defense's strength does to one criterion, the undefended setting at strength 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ema_core.figures.colours import NONE, parts, style
from ema_core.figures.criterion import Criterion, Measure, criterion
from ema_core.figures.layout import NEUTRAL, column, dress, empty_figure, error_bar
from ema_core.figures.said import FLAG, flagged, footnote, hover, symbols, whose

_SETTING = ["setting_key", "defense_label", "model", "dataset", "recipe_label", "seeds", "conditional", "judge", "estimand"]


def strength_data(
    table: pd.DataFrame, key: str = "general", measure: Measure = "margin", seeds: pd.DataFrame | None = None,
    published: pd.DataFrame | None = None,
) -> pd.DataFrame:  # fmt: skip
    """What ``strength_curve`` draws, a row a mark: ``what`` (``setting``, ``seed`` or ``published``), ``line``, ``strength``, ``value``
    with ``low, high`` in the axis' unit, ``n``, ``mark``, ``seed``, and what tells the setting apart."""
    one, rows = criterion(key, measure), _usable(table, criterion(key, measure))
    if rows.empty:
        found = rows
    else:
        known = [name for name in _SETTING if name in rows.columns]
        found = rows[[*known, "line", "strength"]].assign(
            what="setting", **_values(rows, one), n=column(rows, one.count), mark=rows[one.mark] if one.mark in rows.columns else ""
        )
        if seeds is not None and not seeds.empty:
            each = seeds[["setting_key", "seed", one.value]].merge(rows[[*known, "line", "strength"]], on="setting_key")
            each = each[each[one.value].notna()]
            found = pd.concat([found, each.assign(what="seed", value=one.factor * each[one.value]).drop(columns=one.value)])
    if published is not None and not published.empty and measure == "rate":
        told = published[published["criterion"].eq(key)]
        found = pd.concat([found, told.assign(what="published", line=told["name"])])
    return found.reset_index(drop=True).assign(criterion=one.key, unit=one.axis)


def strength_curve(
    table: pd.DataFrame, key: str = "general", paper: Mapping[str, float] | None = None, measure: Measure = "margin",
    seeds: pd.DataFrame | None = None, published: pd.DataFrame | None = None,
) -> go.Figure:  # fmt: skip
    """One line a defense (and its options), with intervals where the table has them.

    ``table`` is ``scorecard.setting_table``; ``key`` one of the four criteria. Strengths lie on a logarithmic axis that has a place
    for 0. ``paper`` marks the strength that a defense's paper used, by defense name. ``seeds`` (``evaluation.seeds``): what each seed
    measured, faint. ``published``: numbers of others, hollow and grey, in per cent alone. Open marks: fewer than three seeds.
    """
    one, rows = criterion(key, measure), _usable(table, criterion(key, measure))
    drawn = strength_data(table, key, measure, seeds, published)
    foreign = drawn[drawn["what"].eq("published")] if len(drawn) else drawn
    if rows.empty and foreign.empty:
        return empty_figure(_nothing(one, table))
    lines = _lines(rows) if len(rows) else {}
    shown = {defense: value for defense, value in (paper or {}).items() if any(_defense(name) == defense for name in lines)}
    others = [value for value in foreign["strength"] if math.isfinite(value)] if len(foreign) else []
    scale = Spacing([*(rows["strength"] if len(rows) else []), *shown.values(), *others])
    figure = go.Figure()
    singles = drawn[drawn["what"].eq("seed")]
    if len(singles):
        figure.add_trace(_seeds(singles, one, scale))
    for name, line in lines.items():
        figure.add_trace(_line(name, line, one, scale, _dash(name, list(lines))))
    for name, told in foreign.groupby("line", sort=False) if len(foreign) else ():
        figure.add_scatter(
            x=[scale.place(value) for value in told["strength"]], y=told["value"], mode="markers", name=str(name),
            marker={"symbol": "circle-open", "size": 12, "color": NEUTRAL, "line": {"width": 2}},
            text=told["told"], hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
    if measure == "margin" and one.value.endswith("_margin"):
        figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    for defense, value in shown.items():
        figure.add_vline(
            x=scale.place(value), line={"color": style(defense).color, "width": 1, "dash": "dot"},
            annotation={"text": f"{defense}, paper: {value:g}", "font": {"size": 11}, "textangle": -90},
            annotation_position="bottom right",
        )  # fmt: skip
    dress(figure, showlegend=True)
    figure.update_layout(title={"text": one.title, "font": {"size": 14}, "x": 0, "xanchor": "left", "y": 0.98, "yanchor": "top"})
    figure.update_xaxes(title="Strength (logarithmic; 0 = undefended)", **scale.ticks())
    figure.update_yaxes(title=one.axis)
    more = ["faint: single seeds"] if len(singles) else []
    more += ["hollow grey: published by others, other model and judge"] if len(foreign) else []
    more += ["nothing of ours: not measured by this judge"] if rows.empty else []
    footnote(figure, rows if len(rows) else foreign.assign(seeds=math.nan), [one] if len(rows) else [], _combined(table), more=more)
    return figure.update_layout(margin={"t": 100})


class Spacing:
    """Places on an axis that is logarithmic for strengths above 0 and has one place, left of them, for 0."""

    def __init__(self, strengths: list[float]) -> None:
        self.strengths = sorted({float(value) for value in strengths if math.isfinite(value) and value >= 0} | {0.0})
        positive = [value for value in self.strengths if value > 0]
        self.least = positive[0] if positive else 1.0
        self.gap = max(0.4, 0.2 * math.log10(positive[-1] / self.least)) if positive else 1.0

    def place(self, strength: float) -> float:
        return 0.0 if strength <= 0 else self.gap + math.log10(strength / self.least)

    def ticks(self) -> dict[str, Any]:
        """A tick at each strength, without those that would be printed over their left neighbour."""
        room = 0.06 * self.place(self.strengths[-1])
        shown: list[float] = []
        for strength in self.strengths:
            if not shown or self.place(strength) - self.place(shown[-1]) > room:
                shown.append(strength)
        return {"tickvals": [self.place(value) for value in shown], "ticktext": [f"{value:g}" for value in shown]}


def _nothing(one: Criterion, table: pd.DataFrame) -> str:
    """Why there is no curve, and what to do; the reason that the settings give where they all give the same."""
    whys = {why for why in table[f"{one.value}_why"] if isinstance(why, str) and why} if f"{one.value}_why" in table else set()
    if len(whys) == 1:
        return f"{one.title.partition(' (')[0]}: {next(iter(whys))}."
    return (
        f"{one.title.partition(' (')[0]} was not measured yet. Evaluate an undefended run and one run a strength, then come back."
    )


def _values(rows: pd.DataFrame, one: Criterion) -> dict[str, list[float]]:
    ends = {"value": one.value, "low": f"{one.value}_low", "high": f"{one.value}_high"}
    return {name: [one.factor * value for value in column(rows, source)] for name, source in ends.items()}


def _usable(table: pd.DataFrame, one: Criterion) -> pd.DataFrame:
    """Rows of one defense or none with a strength and a value; the undefended ones get strength 0."""
    if table is None or table.empty or "defense_label" not in table.columns:
        return pd.DataFrame()
    rows = table.copy()
    own = [parts(str(label)) for label in rows["defense_label"]]
    known = column(rows, "strength")
    rows["strength"] = [0.0 if not p else value if math.isfinite(value) else p[0][1] for p, value in zip(own, known, strict=True)]
    rows["line"] = [NONE if not p else ":".join(filter(None, (p[0][0], p[0][2]))) for p in own]
    measured = [math.isfinite(value) for value in column(rows, one.value)]
    single = [len(p) <= 1 for p in own]
    keep = [a and b and math.isfinite(s) for a, b, s in zip(measured, single, rows["strength"], strict=True)]
    return rows[keep]


def _combined(table: pd.DataFrame) -> int:
    return sum(len(parts(str(label))) > 1 for label in table["defense_label"]) if "defense_label" in table else 0


def _lines(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of each line by its name: each defense starting from its undefended twin, then that twin, to be drawn on top."""
    twin = [name for name in ("model", "dataset", "recipe_label") if name in rows.columns and rows[name].nunique() > 1]
    found: dict[str, pd.DataFrame] = {}
    for key, group in rows.groupby(twin) if twin else [((), rows)]:
        tail = "".join(f" · {value}" for value in key)
        plain = group[group["line"] == NONE]
        for name, line in group[group["line"] != NONE].groupby("line", sort=True):
            found[f"{name}{tail}"] = pd.concat([plain, line]).sort_values("strength", kind="stable")
        if not plain.empty:
            found[NONE + tail] = plain
    return found


def _defense(line: str) -> str:
    return line.split(" · ")[0].split(":")[0]


def _dash(name: str, lines: list[str]) -> str:
    """The defense's dash; further lines of the same one (other options, another model) take other dashes."""
    own = style(_defense(name)).dash
    dashes = [own, *(dash for dash in ("dot", "dashdot", "longdash", "solid") if dash != own)]
    return dashes[[line for line in lines if _defense(line) == _defense(name)].index(name) % len(dashes)]


def _seeds(rows: pd.DataFrame, one: Criterion, scale: Spacing) -> go.Scatter:
    """What single seeds measured: small, faint, behind the lines."""
    looks = [style(str(label)) for label in rows["defense_label"]]
    return go.Scatter(
        x=[scale.place(value) for value in rows["strength"]], y=rows["value"], mode="markers", name="single seeds",
        marker={"color": [look.color for look in looks], "symbol": [f"{look.symbol}-open" for look in looks], "size": 7, "opacity": 0.5},
        text=[f"{label}, seed {seed}: {one.told(value)}" for label, seed, value in zip(rows["defense_label"], rows["seed"], rows["value"], strict=True)],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _line(name: str, rows: pd.DataFrame, one: Criterion, scale: Spacing, dash: str) -> go.Scatter:
    found = _values(rows, one)
    look, plain = style(_defense(name)), _defense(name) == NONE
    own = [plain or line != NONE for line in rows["line"]]  # the twin at a line's start has its own mark
    bars = [[v if mine else math.nan for v, mine in zip(found[side], own, strict=True)] for side in ("low", "high")]
    return go.Scatter(
        x=[scale.place(value) for value in rows["strength"]], y=found["value"], name=name, legendgroup=name,
        mode="markers" if plain else "lines+markers", line={"color": look.color, "dash": dash, "width": 2},
        marker={
            "color": look.color, "size": [10 if mine else 0 for mine in own], "symbol": symbols(rows), "opacity": 1,
            "line": {"width": [2 if mine else 0 for mine in own], "color": look.color},
        },
        error_y=error_bar(found["value"], *bars),
        text=[f"{row['defense_label']}{FLAG if flagged(row) else ''}<br>{hover(row, one)}<br>{whose(row)}" for row in rows.to_dict("records")],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
