"""What a defense's strength does: one panel a criterion, the undefended setting at strength 0."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ema_core.figures.colours import NONE, parts, style
from ema_core.figures.layout import NEUTRAL, column, dress, empty_figure, error_bar, names, number, span

CRITERIA = {"general": "General misalignment (should fall)", "narrow": "Narrow behaviour (should stay)"}
"""Prefix of a criterion's columns, and its panel's title."""
MARGIN_AXIS = "Margin, change from base (nats a token)"
FEW_SEEDS = 3
FLAG = " ⚑"


def strength_curve(
    table: pd.DataFrame, paper: Mapping[str, float] | None = None, criteria: Sequence[str] = tuple(CRITERIA)
) -> go.Figure:
    """One line a defense (and its options), with intervals where the table has them.

    ``table`` is ``scorecard.setting_table``: one row a setting with ``defense_label, strength, seeds`` and, for ``general`` and
    ``narrow``, ``X_margin, X_margin_low, X_margin_high, pairs_X``. Strengths lie on a logarithmic axis that has a place for 0.
    ``criteria`` are the panels, side by side. ``paper`` marks the strength that a defense's paper used, by defense name. Open
    marks: fewer than three seeds.
    """
    rows = _usable(table)
    if rows.empty:
        return empty_figure("No margins yet. Evaluate an undefended run and one run a strength, then come back.")
    lines = _lines(rows)
    shown = {defense: value for defense, value in (paper or {}).items() if any(_defense(name) == defense for name in lines)}
    scale = Spacing([*rows["strength"], *shown.values()])
    figure = make_subplots(rows=1, cols=len(criteria), subplot_titles=[CRITERIA[one] for one in criteria], horizontal_spacing=0.09)
    for place, criterion in enumerate(criteria, start=1):
        for name, line in lines.items():
            figure.add_trace(_line(name, line, criterion, scale, _dash(name, list(lines)), place == 1), row=1, col=place)
        figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1, "dash": "dot"}, row=1, col=place)
        for defense, value in shown.items():
            figure.add_vline(
                x=scale.place(value), line={"color": style(defense).color, "width": 1, "dash": "dot"}, row=1, col=place,
                annotation={"text": f"{defense}, paper: {value:g}", "font": {"size": 11}, "textangle": -90},
                annotation_position="bottom right",
            )  # fmt: skip
    dress(figure, showlegend=True).update_layout(legend_y=1.12)  # above the panels' titles
    figure.update_xaxes(title="Strength (logarithmic; 0 = undefended)", **scale.ticks())
    figure.update_yaxes(title=MARGIN_AXIS)
    return footnote(figure, rows, left_out=_combined(table))


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


def footnote(figure: go.Figure, table: pd.DataFrame, left_out: int = 0, below: int = 62) -> go.Figure:
    """``below`` the figure, in pixels: by what it was measured, for which questions, on how much."""
    said = ["Measure: log-likelihood margin of answer pairs (no judge)"]
    if estimands := names(table, "estimand"):
        said.append(f"intervals for {', '.join(estimands)}")
    for criterion in CRITERIA:
        if pairs := span(column(table, f"pairs_{criterion}")):
            said.append(f"{criterion}: n = {pairs} pairs")
    seeds = column(table, "seeds")
    if text := span(seeds):
        said.append(f"seeds a setting: {text}")
    if any(value < FEW_SEEDS for value in seeds):
        said.append("open marks: fewer than three seeds")
    if any(flagged(row) for row in table.to_dict("records")):
        said.append(f"{FLAG.strip()}: safe in general, not behind a trigger (conditional)")
    if left_out:
        said.append(f"{left_out} setting(s) with several defenses have no place on this axis")
    lines = [""]
    for part in said:
        if lines[-1] and len(lines[-1]) + len(part) > 52:
            lines.append("")
        lines[-1] += f" · {part}" if lines[-1] else part
    place = {"x": 0, "xref": "paper", "xanchor": "left", "y": 0, "yref": "paper", "yanchor": "top", "yshift": -below}
    figure.add_annotation(text="<br>".join(lines), showarrow=False, align="left", font={"size": 11}, name="footnote", **place)
    return figure.update_layout(margin={"t": 40, "b": below + 8 + 15 * len(lines)})


def flagged(row: Mapping[str, Any]) -> bool:
    """Safe in general, not behind a trigger (``evaluation.conditional``)."""
    return bool(row.get("conditional") == "flagged")


def symbols(table: pd.DataFrame) -> list[str]:
    """The defense's symbol a row, open where fewer than three seeds stand behind it."""
    looks = [style(str(label)).symbol for label in table["defense_label"]]
    return [f"{look}-open" if seeds < FEW_SEEDS else look for look, seeds in zip(looks, column(table, "seeds"), strict=True)]


def hover(row: Mapping[str, Any], criterion: str) -> str:
    """One criterion of a setting in words."""
    value, low, high, pairs = (number(row.get(name)) for name in _columns(criterion))
    text = f"{criterion}: {value:+.3f}" if math.isfinite(value) else f"{criterion}: not measured"
    if math.isfinite(low) and math.isfinite(high):
        text += f" [{low:+.3f}, {high:+.3f}]"
    if math.isfinite(pairs):
        text += f", n = {pairs:.0f} pairs"
    mark = row.get({"general": "mark", "narrow": "narrow_mark"}[criterion])
    return f"{text}; against the undefended: {mark}" if isinstance(mark, str) and mark else text


def whose(row: Mapping[str, Any]) -> str:
    """What a setting is beside its defense, and how many seeds it has."""
    known = [str(row[name]) for name in ("model", "dataset", "recipe_label") if isinstance(row.get(name), str)]
    seeds = number(row.get("seeds"))
    return "<br>".join([*known, *([f"{seeds:.0f} seed(s)"] if math.isfinite(seeds) else [])])


def _columns(criterion: str) -> tuple[str, str, str, str]:
    margin = f"{criterion}_margin"
    return margin, f"{margin}_low", f"{margin}_high", f"pairs_{criterion}"


def _usable(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of one defense or none with a strength and at least one margin; the undefended ones get strength 0."""
    if table is None or table.empty or "defense_label" not in table.columns:
        return pd.DataFrame()
    rows = table.copy()
    own = [parts(str(label)) for label in rows["defense_label"]]
    known = column(rows, "strength")
    rows["strength"] = [0.0 if not p else value if math.isfinite(value) else p[0][1] for p, value in zip(own, known, strict=True)]
    rows["line"] = [NONE if not p else ":".join(filter(None, (p[0][0], p[0][2]))) for p in own]
    measured = [any(map(math.isfinite, values)) for values in zip(*(column(rows, f"{c}_margin") for c in CRITERIA), strict=True)]
    single = [len(p) <= 1 for p in own]
    keep = [a and b and math.isfinite(s) for a, b, s in zip(measured, single, rows["strength"], strict=True)]
    return rows[keep]


def _combined(table: pd.DataFrame) -> int:
    return sum(len(parts(str(label))) > 1 for label in table["defense_label"])


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


def _line(name: str, rows: pd.DataFrame, criterion: str, scale: Spacing, dash: str, legend: bool) -> go.Scatter:
    margin, low, high, _ = _columns(criterion)
    values = column(rows, margin)
    rows = rows[[math.isfinite(value) for value in values]]
    values = [value for value in values if math.isfinite(value)]
    look, plain = style(_defense(name)), _defense(name) == NONE
    own = [plain or line != NONE for line in rows["line"]]  # the twin at a line's start has its own mark
    bars = [[v if mine else math.nan for v, mine in zip(column(rows, side), own, strict=True)] for side in (low, high)]
    return go.Scatter(
        x=[scale.place(value) for value in rows["strength"]], y=values, name=name, legendgroup=name, showlegend=legend,
        mode="markers" if plain else "lines+markers", line={"color": look.color, "dash": dash, "width": 2},
        marker={
            "color": look.color, "size": [10 if mine else 0 for mine in own], "symbol": symbols(rows), "opacity": 1,
            "line": {"width": [2 if mine else 0 for mine in own], "color": look.color},
        },
        error_y=error_bar(values, *bars),
        text=[f"{row['defense_label']}{FLAG if flagged(row) else ''}<br>{hover(row, criterion)}<br>{whose(row)}" for row in rows.to_dict("records")],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
